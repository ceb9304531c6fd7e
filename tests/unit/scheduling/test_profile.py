"""A profile runs its filters, adds up its scores, and leaves a sheet that says so."""

from random import Random

import numpy as np
import pytest

from epp.errors import Overloaded
from epp.scheduling.filters.decode import DecodeFilter
from epp.scheduling.filters.prefill import PrefillFilter
from epp.scheduling.pickers.max_score import MaxScorePicker
from epp.scheduling.profile import Profile
from epp.scheduling.scorers.kv_cache_utilization import KvCacheUtilizationScorer
from epp.scheduling.scorers.queue_depth import QueueScorer
from epp.testing.builders import build_endpoint, build_request, build_snapshot, build_view

ROLE = "llm-d.ai/role"


def run(profile, snapshot):
    return profile.run(build_request(10), build_view(snapshot), Random(1))


def test_scores_are_weighted_and_added():
    profile = Profile(
        name="default", scorers=(("queue", 2.0, QueueScorer()), ("kv", 1.0, KvCacheUtilizationScorer())), picker=MaxScorePicker()
    )
    picked, sheet = run(profile, build_snapshot(3, waiting=[0, 10, 5], kv_usage=[0.9, 0.0, 0.0]))
    assert sheet.totals.tolist() == pytest.approx([2.1, 1.0, 2.0])
    assert picked.tolist() == [0]
    assert [(step.name, step.weight) for step in sheet.scores] == [("queue", 2.0), ("kv", 1.0)]
    assert sheet.scores[0].values.tolist() == [1.0, 0.0, 0.5]


def test_what_a_filter_removed_is_on_the_sheet_and_slots_survive_it():
    members = [build_endpoint(0, {ROLE: "prefill"}), build_endpoint(1), build_endpoint(2)]
    profile = Profile(
        name="decode", filters=(("roles", DecodeFilter()),), scorers=(("q", 1.0, QueueScorer()),), picker=MaxScorePicker()
    )
    picked, sheet = run(profile, build_snapshot(members, waiting=[0, 9, 1]))
    assert picked.tolist() == [2]
    assert (sheet.filters[0].before.tolist(), sheet.filters[0].after.tolist()) == ([0, 1, 2], [1, 2])
    assert sheet.slots.tolist() == [1, 2]
    assert sheet.candidates.tolist() == [0, 1, 2]


def test_a_filter_that_leaves_nobody_sheds_the_request():
    profile = Profile(name="prefill", filters=(("prefill-filter", PrefillFilter()),), picker=MaxScorePicker())
    with pytest.raises(Overloaded, match="prefill-filter left none") as caught:
        run(profile, build_snapshot(2))
    assert caught.value.reason == "rejected-saturated"


def test_a_score_out_of_range_is_clamped():
    class Wild(QueueScorer, frozen=True):
        def score(self, request, view):
            return np.array([7.0, -7.0])

    _, sheet = run(Profile(name="wild", scorers=(("wild", 1.0, Wild()),), picker=MaxScorePicker()), build_snapshot(2))
    assert sheet.totals.tolist() == [1.0, 0.0]


def test_a_score_that_is_no_number_costs_the_endpoint_but_not_the_request():
    class Lost(QueueScorer, frozen=True):
        def score(self, request, view):
            return np.array([np.nan, 0.5])

    picked, sheet = run(Profile(name="lost", scorers=(("lost", 1.0, Lost()),), picker=MaxScorePicker()), build_snapshot(2))
    assert picked.tolist() == [1]
    assert sheet.totals.tolist() == [0.0, 0.5]


def test_empty_slots_are_never_picked():
    snapshot = build_snapshot([None, build_endpoint(1), None, build_endpoint(3)], waiting=[0, 5, 0, 1])
    picked, _ = run(Profile(name="default", scorers=(("q", 1.0, QueueScorer()),), picker=MaxScorePicker()), snapshot)
    assert picked.tolist() == [3]
