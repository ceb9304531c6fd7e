import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from epp.scheduling.columns import bits, fresh_or_worst, highest, least_is_best, lowest, mean

columns = arrays(np.float64, st.integers(1, 40), elements=st.floats(-1e9, 1e9))


@given(columns)
def test_highest_lowest_and_mean_are_numpys(column):
    assert (highest(column), lowest(column)) == (column.max(), column.min())
    assert mean(column) == pytest.approx(column.mean())
    assert type(highest(column)) is type(lowest(column)) is float


def test_highest_and_lowest_keep_what_is_no_number():
    column = np.array([1.0, np.nan, 3.0])
    assert np.isnan(highest(column))
    assert np.isnan(lowest(column))


def test_mean_of_counts():
    assert mean(np.array([1, 2])) == 1.5


def test_the_least_is_best():
    assert least_is_best(np.array([4.0, 2.0, 3.0])).tolist() == [0.0, 1.0, 0.5]
    assert least_is_best(np.array([2.0, 2.0])).tolist() == [1.0, 1.0]


def test_stale_values_are_taken_for_the_worst_fresh_one():
    values = np.array([1.0, 5.0, 0.0])
    assert fresh_or_worst(values, np.array([0.0, 0.0, 9.0]), 1.0).tolist() == [1.0, 5.0, 5.0]
    assert fresh_or_worst(values, np.array([9.0, 9.0, 9.0]), 1.0).tolist() == [0.0, 0.0, 0.0]
    assert fresh_or_worst(values, np.zeros(3), 1.0) is values


@given(st.sets(st.integers(0, 99)))
def test_bits_of_a_mask(slots):
    column = bits(sum(1 << slot for slot in slots), 100)
    assert column.dtype == np.bool_
    assert set(np.flatnonzero(column).tolist()) == slots
