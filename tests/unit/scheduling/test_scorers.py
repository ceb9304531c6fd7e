"""Each scorer against its formula, worked out by hand."""

import numpy as np
import pytest

from epp.scheduling.scorers.active_request import ActiveRequestScorer
from epp.scheduling.scorers.kv_cache_utilization import KvCacheUtilizationScorer
from epp.scheduling.scorers.lora_affinity import LoraAffinityScorer
from epp.scheduling.scorers.marginal_cost import MarginalCostScorer
from epp.scheduling.scorers.prefix_cache import PrefixCacheScorer
from epp.scheduling.scorers.queue_depth import QueueScorer
from epp.scheduling.scorers.running_requests import RunningRequestsSizeScorer
from epp.scheduling.scorers.token_load import TokenLoadScorer
from epp.testing.builders import NOW_S, build_match, build_request, build_snapshot, build_view


def scores(scorer, snapshot, *, prompt=100, match=None, slots=None, model="tiny"):
    return scorer.score(build_request(prompt, model=model), build_view(snapshot, match, slots)).tolist()


def test_queue_spreads_between_the_shortest_and_the_longest():
    assert scores(QueueScorer(), build_snapshot(3, waiting=[0, 5, 10])) == [1.0, 0.5, 0.0]


def test_queue_rates_an_even_pool_alike():
    assert scores(QueueScorer(), build_snapshot(3, waiting=[4, 4, 4])) == [1.0, 1.0, 1.0]


def test_queue_takes_an_endpoint_that_stopped_answering_for_the_busiest():
    snapshot = build_snapshot(3, waiting=[0, 2, 8], scraped_s=[NOW_S - 60, NOW_S, NOW_S])
    assert scores(QueueScorer(), snapshot) == [0.0, 1.0, 0.0]


def test_queue_takes_an_endpoint_that_never_answered_for_the_busiest():
    snapshot = build_snapshot(2, waiting=[0, 0], running=[0, 0], scraped_s=[-np.inf, NOW_S])
    assert scores(QueueScorer(), snapshot) == [1.0, 1.0], "with nothing known against it, it is as good as an idle one"
    snapshot = build_snapshot(3, waiting=[0, 3, 1], scraped_s=[-np.inf, NOW_S, NOW_S])
    assert scores(QueueScorer(), snapshot) == [0.0, 0.0, 1.0]


def test_queue_looks_at_the_candidates_alone():
    assert scores(QueueScorer(), build_snapshot(3, waiting=[0, 5, 10]), slots=[1, 2]) == [1.0, 0.0]


def test_running_requests():
    assert scores(RunningRequestsSizeScorer(), build_snapshot(3, running=[8, 0, 4])) == [0.0, 1.0, 0.5]


def test_kv_cache_utilization():
    assert scores(KvCacheUtilizationScorer(), build_snapshot(2, kv_usage=[0.25, 1.0])) == [0.75, 0.0]


def test_active_requests_rate_idle_endpoints_full():
    assert scores(ActiveRequestScorer(), build_snapshot(3, requests=[0, 2, 4])) == [1.0, 0.5, 0.0]
    assert scores(ActiveRequestScorer(idle_threshold=2, max_busy_score=0.5), build_snapshot(3, requests=[0, 2, 4])) == [
        1.0,
        1.0,
        0.0,
    ]
    assert scores(ActiveRequestScorer(), build_snapshot(2)) == [1.0, 1.0]


def test_token_load_counts_what_is_in_flight_and_what_this_prompt_adds():
    snapshot = build_snapshot(3, tokens=[0, 500, 900])
    scorer = TokenLoadScorer(queue_threshold_tokens=1000)
    assert scores(scorer, snapshot, prompt=100) == pytest.approx([0.9, 0.4, 0.0])
    assert scores(scorer, snapshot, prompt=100, match=build_match([0, 100, 100], 100)) == pytest.approx([0.9, 0.5, 0.1])


def test_prefix_cache_is_the_share_of_the_prompt():
    snapshot = build_snapshot(3)
    assert scores(PrefixCacheScorer(), snapshot, match=build_match([0, 50, 100], 100)) == [0.0, 0.5, 1.0]
    assert scores(PrefixCacheScorer(), snapshot) == [0.0, 0.0, 0.0]


def test_prefix_cache_can_count_the_length_of_a_match():
    scorer = PrefixCacheScorer(match_length_weight=0.5, match_length_scale_tokens=100)
    assert scores(scorer, build_snapshot(2), match=build_match([50, 200], 200)) == pytest.approx([0.5 * 0.25 + 0.5 * 0.25, 1.0])


def test_lora_affinity_prefers_active_then_room_then_waiting():
    snapshot = build_snapshot(4, adapters={"sql": (0b0001, 0b0010)}, adapter_room=0b0100)
    assert scores(LoraAffinityScorer(), snapshot, model="sql") == [1.0, 0.6, 0.8, 0.0]
    assert scores(LoraAffinityScorer(), snapshot, model="base") == [0.0, 0.0, 0.8, 0.0]


class TestMarginalCost:
    """cost = (backlog + own / (1 - utilization) + decode * prompt * decoding) / speed."""

    def cost(self, snapshot, *, prompt=1000, match=None, now_s=NOW_S, **parameters):
        return MarginalCostScorer(**parameters).cost(build_request(prompt), build_view(snapshot, match, now_s=now_s)).tolist()

    def test_an_idle_pool_costs_what_each_must_compute(self):
        assert self.cost(build_snapshot(3), match=build_match([0, 400, 1000], 1000)) == [1000, 600, 1]

    def test_backlog_is_added(self):
        assert self.cost(build_snapshot(2, backlog=[300, 0], backlog_count=[1, 0], requests=[1, 0])) == [1300, 1000]

    def test_the_head_of_the_queue_drains_at_the_rate_but_not_below_nothing(self):
        columns = {"backlog": [900, 900], "head_tokens": [500, 500], "head_since_s": [NOW_S, NOW_S], "rate": [1000, 1000]}
        counts = {"backlog_count": [2, 2], "requests": [2, 2]}
        assert self.cost(build_snapshot(2, **columns, **counts), now_s=NOW_S + 0.1) == pytest.approx([1800, 1800])
        assert self.cost(build_snapshot(2, **columns, **counts), now_s=NOW_S + 60) == pytest.approx([1400, 1400])

    def test_affinity_weighs_more_in_a_busy_pool(self):
        idle, busy = build_snapshot(2, backlog=[500, 0]), build_snapshot(2, backlog=[500, 0], utilization_ratio=0.75)
        match = build_match([700, 0], 1000)
        assert self.cost(idle, match=match) == [800, 1000]
        assert self.cost(busy, match=match) == [1700, 4000]

    def test_who_generates_there_shares_every_step_with_me(self):
        snapshot = build_snapshot(2, requests=[4, 0], decoding=[4, 0])
        assert self.cost(snapshot) == pytest.approx([1000 + 0.1 * 1000 * 4, 1000])
        assert self.cost(snapshot, decode=0.0) == [1000, 1000]
        assert self.cost(build_snapshot(2, foreign_decoding=[4, 0])) == pytest.approx([1400, 1000])

    def test_a_cached_prompt_outweighs_ten_that_generate_and_no_more(self):
        for decoding, home in ((9, 0), (11, 1)):
            snapshot = build_snapshot(2, requests=[decoding, 0], decoding=[decoding, 0])
            assert np.argmin(self.cost(snapshot, match=build_match([1000, 0], 1000))) == home

    def test_a_clearly_faster_endpoint_is_cheaper_but_noise_is_not_speed(self):
        assert self.cost(build_snapshot(2, speed=[10_000, 30_000])) == pytest.approx([2000, 1000 / 1.5])
        assert self.cost(build_snapshot(2, speed=[9_000, 17_000])) == [1000, 1000]

    def test_an_endpoint_that_nobody_has_asked_yet_is_as_fast_as_the_others(self):
        assert self.cost(build_snapshot(3, speed=[0, 20_000, 30_000])) == [1000, 1000, 1000]
        assert self.cost(build_snapshot(3, speed=[0, 10_000, 30_000])) == pytest.approx([1000, 2000, 1000 / 1.5])
        assert self.cost(build_snapshot(2, speed=[0, 0])) == [1000, 1000]

    def test_requests_that_bypass_the_picker_count(self):
        assert self.cost(build_snapshot(2, foreign=[250, 0])) == [1250, 1000]

    def test_the_cheapest_scores_one(self):
        assert scores(MarginalCostScorer(), build_snapshot(2), prompt=1000, match=build_match([0, 500], 1000)) == [0.5, 1.0]
