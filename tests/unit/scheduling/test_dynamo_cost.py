"""The cost of NVIDIA Dynamo's router, worked out by hand."""

import math

import pytest

from epp.scheduling.scorers.dynamo_cost import DynamoCostScorer
from epp.testing.builders import build_match, build_request, build_snapshot, build_view


def scores(scorer, snapshot, match=None):
    return scorer.score(build_request(100), build_view(snapshot, match)).tolist()


def test_the_cheapest_is_1_and_the_dearest_falls_with_the_temperature():
    found = scores(DynamoCostScorer(temperature=0.5), build_snapshot(3), build_match([100, 50, 0], 100))
    assert found == pytest.approx([1.0, math.exp(-1), math.exp(-2)])


def test_an_even_pool_is_rated_alike():
    assert scores(DynamoCostScorer(), build_snapshot(3)) == [1.0, 1.0, 1.0]


def test_decode_counts_by_the_cache_in_use_or_by_the_ledger():
    scorer = DynamoCostScorer(temperature=1.0)
    scraped = build_snapshot(2, kv_usage=[0.1, 0.5], capacity_tokens=[1000, 1000])
    assert scores(scorer, scraped) == pytest.approx([1.0, math.exp(-1)])
    ledger = build_snapshot(2, kv_usage=[0.1, 0.0], capacity_tokens=[1000, 1000], tokens=[0, 500])
    assert scores(scorer, ledger) == pytest.approx([1.0, math.exp(-1)])


def test_the_weight_lets_a_match_outweigh_decode():
    snapshot, match = build_snapshot(2, tokens=[150, 0]), build_match([100, 0], 100)
    assert scores(DynamoCostScorer(overlap_score_weight=1.0), snapshot, match)[1] == 1.0
    assert scores(DynamoCostScorer(overlap_score_weight=2.0), snapshot, match)[0] == 1.0
