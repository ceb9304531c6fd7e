"""The router's own memory: what it believes, what it learns from reports, and what it forgets."""

import pytest
from msgspec.structs import replace

from epp.model.decision import Decision, ScoreSheet, Usage
from epp.model.request import InferenceRequest
from epp.model.snapshot import Snapshot
from epp.prefix.approximate import MISSES_MAX, NAME, Approximate
from epp.prefix.blocks import Blocks
from epp.prefix.strategy import HEALTHY
from epp.testing.builders import build_request, build_snapshot

POOL = build_snapshot(4)


def text(seed: int, size: int = 4000) -> bytes:
    return (f"{seed:08d}" * (size // 8 + 1)).encode()[:size]


def send(strategy: Approximate, request: InferenceRequest, slot: int, snapshot: Snapshot = POOL) -> None:
    strategy.record(strategy.prepare(request), request, snapshot, slot, 0.0)


def tokens(strategy: Approximate, request: InferenceRequest, snapshot: Snapshot = POOL) -> list[float] | None:
    found = strategy.match(strategy.prepare(request), request, snapshot, snapshot.slots)
    return None if found is None else found.tokens.tolist()


def decision(request: InferenceRequest, slot: int, matched: float, strategy: str = NAME) -> Decision:
    endpoint = POOL.endpoints[slot]
    assert endpoint is not None
    sheet = ScoreSheet(profile="p", slots=POOL.slots, totals=POOL.columns.rate, endpoints=POOL.endpoints, candidates=POOL.slots)
    return Decision(
        request=request, endpoint=endpoint, slot=slot, sheet=sheet, strategy=strategy, matched_tokens=matched, prompt_tokens=1000
    )


@pytest.fixture
def strategy() -> Approximate:
    return Approximate(Blocks())


def test_it_answers_for_where_a_prompt_was_sent(strategy):
    request = build_request(text(1))
    assert tokens(strategy, request) is None
    send(strategy, request, 2)
    found = strategy.match(strategy.prepare(request), request, POOL, POOL.slots)
    assert found is not None
    assert (found.source, found.total) == (NAME, 1000)
    assert found.tokens.tolist() == [0, 0, pytest.approx(1000, rel=1 / 16), 0]


def test_the_next_turn_knows_the_one_before_and_then_the_answer_in_it(strategy):
    first = build_request(text(1))
    second = build_request(text(1) + b"the answer" * 200)
    send(strategy, first, 0)
    known = tokens(strategy, second)
    assert known is not None
    assert 900 < known[0] <= 1000
    send(strategy, second, 0)
    known = tokens(strategy, second)
    assert known is not None
    assert 1400 < known[0] <= 1500


def test_media_count_in_prompt_tokens(strategy):
    request = replace(build_request(text(1)), media_tokens=1000)
    send(strategy, request, 0)
    known = tokens(strategy, request)
    assert known is not None
    assert 1875 < known[0] <= 2000


def test_the_reported_cache_size_is_the_bound_where_there_is_one(strategy):
    pool = build_snapshot(2, capacity_tokens=[2000, 0])
    for seed in range(10):
        for slot in range(2):
            send(strategy, build_request(text(seed)), slot, pool)
    assert strategy._index.tokens(0) <= 2000
    assert strategy._index.tokens(1) > 9000
    assert strategy.size().tokens == strategy._index.tokens()


def test_the_reported_cache_size_is_ignored_when_told_so():
    strategy = Approximate(Blocks(), capacity_tokens=3000, use_reported=False)
    pool = build_snapshot(1, capacity_tokens=[10**6])
    for seed in range(10):
        send(strategy, build_request(text(seed)), 0, pool)
    assert 2000 < strategy.size().tokens <= 3000


def miss(strategy: Approximate, times: int, **usage: int | None) -> None:
    for _ in range(times):
        strategy.learn(decision(build_request(text(1)), 0, 900), Usage(**{"prompt_tokens": 1000, "cached_tokens": 0} | usage))


def full(strategy: Approximate) -> int:
    for seed in range(10):
        send(strategy, build_request(text(seed)), 0)
    return strategy.size().tokens


def test_a_row_of_misses_gives_up_the_older_half(strategy):
    before = full(strategy)
    miss(strategy, MISSES_MAX - 1)
    send(strategy, build_request(text(9)), 0)
    assert strategy.size().tokens == before
    miss(strategy, 1)
    for _ in range(5):
        send(strategy, build_request(text(9)), 0)
    assert strategy.size().tokens == pytest.approx(before / 2, rel=0.02)
    assert tokens(strategy, build_request(text(0))) is None
    assert tokens(strategy, build_request(text(9))) is not None
    half = strategy.size().tokens
    miss(strategy, MISSES_MAX - 1)
    send(strategy, build_request(text(9)), 0)
    assert strategy.size().tokens == half


def test_a_lost_cache_is_given_up_while_what_was_sent_since_stays(strategy):
    before = full(strategy)
    for _ in range(6):
        miss(strategy, MISSES_MAX)
        send(strategy, build_request(text(77)), 0)
    assert strategy.size().tokens < 0.15 * before
    assert tokens(strategy, build_request(text(77))) is not None


def test_one_good_report_ends_the_row(strategy):
    before = full(strategy)
    for _ in range(5):
        miss(strategy, MISSES_MAX - 1)
        miss(strategy, 1, cached_tokens=600)
    send(strategy, build_request(text(9)), 0)
    assert strategy.size().tokens == before


def test_shares_are_compared_since_the_engine_counts_tokens_otherwise(strategy):
    """900 of 1000 estimated tokens believed; 1800 of 2000 counted ones are no miss, nor are 450 of 500."""
    before = full(strategy)
    miss(strategy, 10, prompt_tokens=2000, cached_tokens=1800)
    miss(strategy, 10, prompt_tokens=500, cached_tokens=450)
    send(strategy, build_request(text(9)), 0)
    assert strategy.size().tokens == before
    miss(strategy, 10, prompt_tokens=None, cached_tokens=100)
    send(strategy, build_request(text(9)), 0)
    assert strategy.size().tokens < before


@pytest.mark.parametrize(
    ("matched", "source", "cached"),
    [(900, NAME, None), (900, "consistent-hash", 0), (63, NAME, 0)],
    ids=["no report", "another's belief", "too little to judge"],
)
def test_what_says_nothing_about_its_own_belief_changes_nothing(strategy, matched, source, cached):
    before = full(strategy)
    for _ in range(10):
        strategy.learn(decision(build_request(text(1)), 0, matched, source), Usage(prompt_tokens=1000, cached_tokens=cached))
    send(strategy, build_request(text(9)), 0)
    assert strategy.size().tokens == before


def test_a_forgotten_endpoint_is_unknown_and_its_row_of_misses_with_it(strategy):
    full(strategy)
    miss(strategy, MISSES_MAX - 1)
    strategy.forget(0)
    assert tokens(strategy, build_request(text(9))) is None
    before = full(strategy)
    miss(strategy, 1)
    send(strategy, build_request(text(9)), 0)
    assert strategy.size().tokens == before


def test_it_is_always_healthy_and_says_what_it_keeps(strategy):
    assert strategy.health() == HEALTHY
    send(strategy, build_request(text(1)), 0)
    assert strategy.size().entries == len(strategy.prepare(build_request(text(1))).blocks)
    assert strategy.size().bytes > 0
    assert strategy.name == NAME
