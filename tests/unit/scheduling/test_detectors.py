"""Each saturation detector against its formula, worked out by hand."""

import numpy as np
import pytest

from epp.scheduling.detectors.concurrency import ConcurrencyDetector
from epp.scheduling.detectors.utilization import UtilizationDetector
from epp.testing.builders import NOW_S, build_snapshot, build_view


def utilization(snapshot, *, slots=None, **parameters):
    return UtilizationDetector(**parameters).saturation(build_view(snapshot, slots=slots))


def test_an_idle_pool_is_empty():
    assert utilization(build_snapshot(3)) == 0.0


def test_the_tighter_of_queue_and_cache_counts_and_the_pool_is_their_mean():
    snapshot = build_snapshot(3, waiting=[5, 0, 10], kv_usage=[0.4, 0.8, 0.0])
    assert utilization(snapshot) == pytest.approx((1.0 + 1.0 + 2.0) / 3)
    assert utilization(snapshot, queue_depth_threshold=10, kv_cache_util_threshold=0.4) == pytest.approx((1.0 + 2.0 + 1.0) / 3)


def test_the_candidates_alone_count():
    assert utilization(build_snapshot(3, waiting=[50, 1, 0]), slots=[1, 2]) == pytest.approx(0.1)


def test_one_that_does_not_report_is_full():
    snapshot = build_snapshot(4, waiting=[50, 0, 0, 0], scraped_s=[NOW_S - 5.1, -np.inf, NOW_S - 4.9, NOW_S])
    assert utilization(snapshot) == 0.5
    assert utilization(snapshot, metrics_staleness_threshold="200ms") == 0.75
    assert utilization(snapshot, metrics_staleness_threshold="1m") == pytest.approx((10 + 1) / 4)


def test_what_was_sent_and_cannot_be_in_the_report_is_taken_to_queue():
    burst = build_snapshot(1, waiting=[1], running=[2], requests=[8])
    assert utilization(burst) == 1.2
    known = build_snapshot(1, waiting=[1], running=[7], requests=[8])
    assert utilization(known) == 0.2
    others = build_snapshot(1, waiting=[4], running=[200], requests=[8])
    assert utilization(others) == 0.8


def test_in_lean_mode_the_backlog_stands_for_what_was_sent():
    assert utilization(build_snapshot(1, requests=[0], backlog_count=[10])) == 2.0


def test_concurrency_is_what_is_under_way_by_what_may_be():
    snapshot = build_snapshot(2, requests=[150, 50], tokens=[1_000_000, 0])
    view = build_view(snapshot)
    assert ConcurrencyDetector().saturation(view) == 1.0
    assert ConcurrencyDetector(max_concurrency=400).saturation(view) == 0.25
    assert ConcurrencyDetector(concurrency_mode="tokens").saturation(view) == 0.5
    assert ConcurrencyDetector(concurrency_mode="hybrid", max_concurrency=400).saturation(view) == 0.5
    assert ConcurrencyDetector(concurrency_mode="hybrid", max_token_concurrency=4_000_000).saturation(view) == 1.0


def test_concurrency_of_the_candidates_alone():
    assert ConcurrencyDetector(max_concurrency=10).saturation(build_view(build_snapshot(2, requests=[9, 1]), slots=[1])) == 0.1
