"""The strategy as a whole: who is named, what is believed, and that nothing but load and traffic can change it."""

from collections import Counter
from random import Random

import numpy as np
import pytest
from msgspec.structs import replace

from epp.model.decision import Decision, ScoreSheet, Usage
from epp.model.match import Match
from epp.model.request import InferenceRequest
from epp.model.snapshot import Snapshot
from epp.prefix.blocks import Blocks
from epp.prefix.consistent_hash import CHOICES_MAX, FIRST_FALL, FIRST_SHARE, LEAST_SHARES, NAME, ConsistentHash
from epp.prefix.strategy import HEALTHY
from epp.testing.builders import build_endpoint, build_request, build_snapshot

POOL = build_snapshot(8)


def text(seed: int, size: int = 4000) -> bytes:
    return (f"{seed:08d}" * (size // 8 + 1)).encode()[:size]


def ask(strategy: ConsistentHash, request: InferenceRequest, pool: Snapshot = POOL, slots: list[int] | None = None) -> Match:
    chosen = pool.slots if slots is None else np.array(slots)
    found = strategy.match(strategy.prepare(request), request, pool, chosen)
    assert found is not None
    return found


def home(strategy: ConsistentHash, request: InferenceRequest, pool: Snapshot = POOL, slots: list[int] | None = None) -> str:
    endpoint = pool.endpoints[int(ask(strategy, request, pool, slots).tokens.argmax())]
    assert endpoint is not None
    return endpoint.name


def loaded(requests: list[int]) -> Snapshot:
    return build_snapshot(len(requests), requests=requests)


@pytest.fixture
def strategy() -> ConsistentHash:
    return ConsistentHash(Blocks())


def test_it_names_a_home_and_believes_less_of_each_next_choice(strategy):
    found = ask(strategy, build_request(text(1)))
    assert (found.source, found.total, found.certainty, found.reason) == (NAME, 1000, FIRST_SHARE, "")
    assert sorted(found.tokens.tolist(), reverse=True) == pytest.approx(1000 * FIRST_SHARE * FIRST_FALL, rel=1e-4)


def test_of_many_endpoints_only_a_few_are_believed_to_hold_anything(strategy):
    assert np.count_nonzero(ask(strategy, build_request(text(1)), build_snapshot(100)).tokens) == CHOICES_MAX


def test_p1_members_in_another_order_are_the_same_members(strategy):
    members = [build_endpoint(index) for index in range(8)]
    turned = build_snapshot([None, *members[::-1]])
    for seed in range(50):
        request = build_request(text(seed))
        assert home(strategy, request) == home(strategy, request, turned)


def test_p2_who_leaves_moves_only_its_own_keys(strategy):
    for seed in range(50):
        request = build_request(text(seed))
        before, after = home(strategy, request), home(strategy, request, slots=[0, 1, 2, 3, 4, 5, 6])
        assert before in {after, "default/server-7"}


def test_p3_who_is_at_the_bound_gets_nothing_and_the_next_choice_is_named(strategy):
    request = build_request(text(1))
    first, second = np.argsort(-ask(strategy, request).tokens)[:2].tolist()
    requests = [2] * 8
    requests[first] = 4  # 17 more over 8, cap ceil(1.25 * 19 / 8) = 3
    found = ask(strategy, request, loaded(requests))
    assert found.tokens[first] == 0
    assert found.tokens.argmax() == second
    assert found.reason == "home is at its bound"


def test_p7_with_little_traffic_a_second_request_still_goes_home(strategy):
    request = build_request(text(1))
    first = int(ask(strategy, request).tokens.argmax())
    requests = [0] * 8
    requests[first] = 1
    assert ask(strategy, request, loaded(requests)).tokens.argmax() == first
    requests[first] = 2
    assert ask(strategy, request, loaded(requests)).tokens.argmax() != first


def test_p8_the_strategy_counts_no_load_of_its_own(strategy):
    """Whatever ended in whatever way, when the ledger's column is back at zero so is the answer."""
    request, random = build_request(text(1)), Random(1)
    before = ask(strategy, request).tokens.tolist()
    for seed in range(200):
        other = build_request(text(seed))
        pool = loaded([random.randrange(5) for _ in range(8)])
        found = ask(strategy, other, pool)
        if seed % 2:
            strategy.record(strategy.prepare(other), other, pool, int(found.tokens.argmax()), 0.0)
        if seed % 3 == 0:
            strategy.forget(seed % 8)
    assert ask(strategy, request).tokens.tolist() == before


def test_p11_only_candidates_count(strategy):
    """Two idle candidates beside six busy endpoints that cannot take the request: the bound is that of two."""
    request = build_request(text(1))
    pool = loaded([1, 1, 90, 90, 90, 90, 90, 90])
    found = ask(strategy, request, pool, [0, 1])
    assert np.count_nonzero(found.tokens[2:]) == 0
    first = int(found.tokens.argmax())
    assert first in {0, 1}
    requests = [1, 1, 90, 90, 90, 90, 90, 90]
    requests[first] = 2  # cap ceil(1.25 * 4 / 2) = 3 over two; 85 and more over eight
    assert ask(strategy, request, loaded(requests), [0, 1]).tokens.argmax() == first
    requests[first] = 3  # cap ceil(1.25 * 5 / 2) = 4
    assert ask(strategy, request, loaded(requests), [0, 1]).tokens.argmax() == first
    requests[first] = 4  # cap ceil(1.25 * 6 / 2) = 4
    assert ask(strategy, request, loaded(requests), [0, 1]).tokens.argmax() == 1 - first


def test_p12_an_equal_system_prompt_gives_an_equal_key(strategy):
    keys = {strategy.key(strategy.prepare(build_request(text(1) + tail)), 8) for tail in (b"", b"one", b'{"session_id": "x"}' * 9)}
    assert len(keys) == 1


def test_p12_token_ids_are_hashed(strategy):
    one, same, other = (replace(build_request(b""), token_ids=ids) for ids in ((1, 2, 3) * 9, (1, 2, 3) * 9, (1, 2, 4) * 9))
    assert strategy.key(strategy.prepare(one), 8) == strategy.key(strategy.prepare(same), 8)
    assert strategy.key(strategy.prepare(one), 8) != strategy.key(strategy.prepare(other), 8)


def test_p12_tenants_and_adapters_have_keys_of_their_own(strategy):
    request = build_request(text(1))
    variants = [request, replace(request, cache_salt="tenant"), replace(request, target_model="adapter")]
    assert len({strategy.key(strategy.prepare(one), 8) for one in variants}) == 3


def test_without_prompt_or_candidates_there_is_no_answer(strategy):
    request = build_request(b"")
    assert strategy.match(strategy.prepare(request), request, POOL, POOL.slots) is None
    request = build_request(b"x")
    assert strategy.match(strategy.prepare(request), request, POOL, POOL.slots[:0]) is None
    assert ask(strategy, request).tokens.any()


def serve(strategy: ConsistentHash, prompts: list[bytes], pool: Snapshot = POOL) -> list[str]:
    """Return where each prompt went, one after the other, with nothing in flight."""
    names = []
    for prompt in prompts:
        request = build_request(prompt)
        names.append(home(strategy, request, pool))
        strategy.record(strategy.prepare(request), request, pool, 0, 0.0)
    return names


def test_a_system_prompt_that_everybody_shares_is_not_one_endpoints_problem(strategy):
    system = text(1, 8000)
    names = serve(strategy, [system + text(seed, 900) for seed in range(10, 1500)])
    assert len(set(names[:8])) == 1
    settled = Counter(names[200:])
    assert len(settled) == 8
    assert max(settled.values()) < 1.4 * sum(settled.values()) / 8


def test_a_first_turn_too_short_for_a_block_of_its_own_is_spread_too(strategy):
    system = text(1, 8000)
    names = serve(strategy, [system + b"%d" % seed for seed in range(1000)])
    assert len(set(names[200:])) == 8


def test_a_conversation_stays_where_it_is_while_its_system_prompt_is_hot(strategy):
    system = text(1, 2000)
    serve(strategy, [system + text(seed, 900) for seed in range(10, 300)])
    for seed in range(1000, 1020):
        turns = [system + text(seed, 400 + 700 * turn) for turn in range(6)]
        assert len(set(serve(strategy, turns))) == 1


def test_groups_below_their_share_stay_whole(strategy):
    prompts = [text(seed % 40, 1000) + text(1000 + seed, 600) for seed in range(2000)]
    homes: dict[int, set[str]] = {}
    for seed, name in enumerate(serve(strategy, prompts)):
        homes.setdefault(seed % 40, set()).add(name)
    assert all(len(names) == 1 for names in homes.values())


def test_two_replicas_agree_although_each_saw_another_half_of_the_traffic():
    one, other = ConsistentHash(Blocks()), ConsistentHash(Blocks())
    system = text(1, 3000)
    serve(one, [system + text(seed, 900) for seed in range(10, 300)])
    serve(other, [system + text(seed, 900) for seed in range(300, 600)])
    fresh = [build_request(system + text(seed, 900)) for seed in range(1000, 1050)]
    assert [home(one, request) for request in fresh] == [home(other, request) for request in fresh]


def test_a_fixed_depth_looks_at_no_traffic_and_no_further():
    fixed = ConsistentHash(Blocks(), key_depth_bytes=100)
    names = serve(fixed, [text(1, 128) + text(seed, 900) for seed in range(300)])
    assert len(set(names)) == 1
    assert fixed.size().entries == 0
    keys = [fixed.key(fixed.prepare(build_request(prompt)), 8) for prompt in (b"a" * 128, b"a" * 127 + b"b", b"a" * 99)]
    assert len(set(keys)) == 3


def report(strategy: ConsistentHash, *, place: int, usage: Usage, source: str = NAME) -> None:
    """Have a server report on a prompt that was sent to the given place of its order."""
    request = build_request(text(1))
    found = replace(ask(strategy, request), source=source)
    slot = int(np.argsort(-found.tokens)[place])
    endpoint = POOL.endpoints[slot]
    assert endpoint is not None
    sheet = ScoreSheet(
        profile="p", slots=POOL.slots, totals=POOL.columns.rate, endpoints=POOL.endpoints, candidates=POOL.slots, match=found
    )
    decision = Decision(
        request=request,
        endpoint=endpoint,
        slot=slot,
        sheet=sheet,
        strategy=source,
        matched_tokens=float(found.tokens[slot]),
        prompt_tokens=1000,
    )
    strategy.learn(decision, usage)


def test_long_prompts_weigh_more_in_what_is_believed(strategy):
    for turn in range(1000):
        usage = Usage(prompt_tokens=100, cached_tokens=100) if turn % 2 else Usage(prompt_tokens=900, cached_tokens=0)
        report(strategy, place=0, usage=usage)
    assert strategy.shares[0] == pytest.approx(0.1, abs=0.01)


def test_what_is_believed_is_what_servers_report(strategy):
    for _ in range(400):
        report(strategy, place=0, usage=Usage(prompt_tokens=2000, cached_tokens=1600))
    assert strategy.shares[0] == pytest.approx(0.8, abs=0.01)
    assert ask(strategy, build_request(text(1))).tokens.max() == pytest.approx(800, abs=10)
    for _ in range(1000):
        report(strategy, place=0, usage=Usage(cached_tokens=0))
    assert strategy.shares[0] == LEAST_SHARES[0]


def test_each_place_of_the_order_is_believed_what_is_reported_of_it(strategy):
    for _ in range(400):
        report(strategy, place=0, usage=Usage(prompt_tokens=1000, cached_tokens=900))
        report(strategy, place=1, usage=Usage(prompt_tokens=1000, cached_tokens=600))
    assert strategy.shares[:3] == pytest.approx([0.9, 0.6, FIRST_SHARE * FIRST_FALL[2]], abs=0.02)


def test_the_order_stays_strict_whatever_is_reported(strategy):
    for _ in range(400):
        report(strategy, place=0, usage=Usage(prompt_tokens=1000, cached_tokens=300))
        report(strategy, place=1, usage=Usage(prompt_tokens=1000, cached_tokens=900))
    assert (np.diff(strategy.shares) < 0).all()
    assert strategy.shares[1] == pytest.approx(strategy.shares[0], rel=1e-4)


@pytest.mark.parametrize(("source", "cached"), [(NAME, None), ("approximate", 0)], ids=["no report", "another's belief"])
def test_other_reports_change_nothing(strategy, source, cached):
    before = strategy.shares.tolist()
    report(strategy, place=0, source=source, usage=Usage(prompt_tokens=1000, cached_tokens=cached))
    assert strategy.shares.tolist() == before


def test_it_is_always_healthy_and_says_what_it_keeps(strategy):
    assert strategy.health() == HEALTHY
    assert strategy.name == NAME
    assert strategy.size().entries == 0
    serve(strategy, [text(1)])
    assert strategy.size().entries == 2
    assert strategy.size().bytes > 0
