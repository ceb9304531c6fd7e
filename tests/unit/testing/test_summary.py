import math

import pytest

from epp.testing.load_client import Result
from epp.testing.summary import percentile, summarize


def result(**values) -> Result:
    return Result(kind="x", messages=(), **values)


def test_percentiles_are_values_that_occurred():
    values = [float(number) for number in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1.0)) == (50, 99, 100)
    assert percentile([3.0], 0.01) == 3.0
    assert math.isnan(percentile([], 0.5))


def test_what_failed_counts_as_an_error_and_nowhere_else():
    results = [
        result(prompt_tokens=300, cached_tokens=150, ttft_s=0.2, e2e_s=1.0, gaps_s=[0.1, 0.3], served_by="a"),
        result(prompt_tokens=100, cached_tokens=50, ttft_s=0.4, e2e_s=2.0, served_by="b"),
        result(error="status 503", ttft_s=9.0),
    ]
    summary = summarize(results, 2)
    assert (summary.requests, summary.errors) == (3, 1)
    assert summary.cached_ratio == 0.5
    assert summary.ttft_mean_s == pytest.approx(0.3)
    assert summary.gap_mean_s == pytest.approx(0.2)
    assert summary.e2e_mean_s == pytest.approx(1.5)
    assert summary.busiest_ratio == pytest.approx(1.5)


def test_a_server_that_got_nothing_counts_in_the_mean():
    assert summarize([result(prompt_tokens=10, served_by="a")], 4).busiest_ratio == 4.0


def test_a_run_without_a_single_answer_is_no_division_by_zero():
    summary = summarize([result(error="x")], 3)
    assert summary.cached_ratio == 0.0
    assert math.isnan(summary.busiest_ratio)
