"""Pickers: what they choose, in which order, and how chance is spread."""

from collections import Counter
from random import Random

import numpy as np
import pytest

from epp.scheduling.pickers.max_score import MaxScorePicker
from epp.scheduling.pickers.random import RandomPicker
from epp.scheduling.pickers.weighted_random import WeightedRandomPicker


def draws(picker, totals, number=4000):
    random = Random(7)
    return Counter(int(picker.pick(np.array(totals), random)[0]) for _ in range(number))


def test_max_score_takes_the_best():
    assert draws(MaxScorePicker(), [0.1, 0.9, 0.5]) == {1: 4000}


@pytest.mark.parametrize("places", [1, 2])
def test_max_score_spreads_ties_evenly(places):
    counts = draws(MaxScorePicker(max_num_of_endpoints=places), [0.9, 0.1, 0.9, 0.9 + 1e-12])
    assert set(counts) == {0, 2, 3}
    assert all(1200 < count < 1470 for count in counts.values())


def test_max_score_orders_its_fallbacks():
    picker = MaxScorePicker(max_num_of_endpoints=3)
    assert picker.pick(np.array([0.1, 0.9, 0.5, 0.3]), Random(1)).tolist() == [1, 2, 3]
    assert picker.pick(np.array([0.1, 0.9]), Random(1)).tolist() == [1, 0]


def test_weighted_random_follows_the_weights():
    counts = draws(WeightedRandomPicker(), [1.0, 0.0, 3.0])
    assert set(counts) == {0, 2}
    assert 2.6 < counts[2] / counts[0] < 3.4


def test_weighted_random_draws_evenly_when_all_are_zero():
    assert all(1200 < count < 1470 for count in draws(WeightedRandomPicker(), [0.0, 0.0, 0.0]).values())


@pytest.mark.parametrize("picker", [WeightedRandomPicker(max_num_of_endpoints=5), RandomPicker(max_num_of_endpoints=5)])
def test_nobody_is_drawn_twice(picker):
    random = Random(3)
    for _ in range(200):
        assert sorted(picker.pick(np.array([0.0, 0.7, 0.0, 0.2]), random).tolist()) == [0, 1, 2, 3]


def test_random_ignores_the_scores():
    assert all(1200 < count < 1470 for count in draws(RandomPicker(), [0.0, 1.0, 0.5]).values())
