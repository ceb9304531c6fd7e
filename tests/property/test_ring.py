"""Consistent hashing with bounded loads: the properties P1 to P12 that make it trustworthy, for any pool and any traffic.

P8 and P12 concern the whole strategy: `tests/unit/prefix/test_consistent_hash.py`, with P1 and P11 once more as seen from there.
"""

from math import ceil
from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from epp.model.endpoint import Endpoint
from epp.prefix.ring import bound, choices, name_hashes, order, scores
from epp.testing.builders import build_snapshot

keys = st.integers(0, 2**64 - 1)
names = st.lists(st.integers(0, 10_000), min_size=1, max_size=40, unique=True)
factors = st.sampled_from((1.0, 1.1, 1.25, 1.5, 2.0, 4.0))


def pool(members: list[int]) -> list[str]:
    return [f"ns/pod-{member}" for member in members]


def hashes_of(members: list[str]) -> np.ndarray:
    return name_hashes(build_snapshot([Endpoint(name=name, address="10.0.0.1", port=80) for name in members]))


def ranking(key: int, members: list[str]) -> list[str]:
    return [members[index] for index in order(scores(key, hashes_of(members)))]


def place(key: int, hashes: np.ndarray, loads: np.ndarray, *, factor: float, floor: int = 0) -> int:
    """Return where one more request of `key` goes, and count it there."""
    cap = bound(int(loads.sum()) + 1, len(loads), load_factor=factor, floor=floor)
    slot = int(choices(scores(key, hashes), loads, cap, 1)[0])
    loads[slot] += 1
    return slot


@given(keys, names, st.randoms(use_true_random=False))
def test_p1_the_order_in_which_members_came_does_not_matter(key, members, random):
    shuffled = pool(members)
    random.shuffle(shuffled)
    assert ranking(key, pool(members)) == ranking(key, shuffled)


@given(st.lists(keys, min_size=1, max_size=20), names, st.integers(10_001, 20_000))
def test_p2_a_newcomer_takes_keys_only_for_itself(some_keys, members, newcomer):
    before, after = pool(members), pool([*members, newcomer])
    for key in some_keys:
        assert [name for name in ranking(key, after) if name != after[-1]] == ranking(key, before)


def test_p2_a_newcomer_takes_its_share():
    after, random = hashes_of(pool(list(range(16)))), Random(1)
    some_keys = [random.getrandbits(64) for _ in range(8000)]
    moved = sum(scores(key, after[:15]).argmax() != scores(key, after).argmax() for key in some_keys) / len(some_keys)
    assert 0.055 < moved < 0.07  # 1/16 is 0.0625


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), max_size=120), names, factors)
def test_p3_the_chosen_one_is_never_over_the_bound(traffic, members, factor):
    """Requests arrive (few keys, so some are hot) and old ones end, in any order."""
    hashes, loads, running = hashes_of(pool(members)), np.zeros(len(members), np.int64), []
    for key, ended in traffic:
        slot = place(key, hashes, loads, factor=factor)
        running.append(slot)
        assert loads[slot] <= ceil(round(factor * loads.sum() / len(members), 9))
        if ended < len(running):
            loads[running.pop(ended)] -= 1


@given(keys, st.lists(st.integers(0, 1000), min_size=1, max_size=40), factors)
def test_p4_somebody_can_always_be_chosen(key, loads, factor):
    cap = bound(sum(loads) + 1, len(loads), load_factor=factor, floor=0)
    assert len(choices(scores(key, hashes_of(pool(list(range(len(loads)))))), np.array(loads), cap, 1)) == 1


@given(keys, st.lists(st.integers(0, 20), min_size=1, max_size=100), st.integers(1, 30), st.integers(1, 120))
def test_p5_overflow_follows_the_keys_permutation_at_any_load(key, loads, cap, most):
    rated = scores(key, hashes_of(pool(list(range(len(loads))))))
    found = choices(rated, np.array(loads), cap, most).tolist()
    assert found == [slot for slot in order(rated).tolist() if loads[slot] < cap][:most]


@given(keys, st.integers(1, 40), st.integers(1, 400), factors)
def test_p6_one_hot_key_spreads_no_further_than_the_bound_makes_it(key, endpoints, requests, factor):
    hashes, loads = hashes_of(pool(list(range(endpoints)))), np.zeros(endpoints, np.int64)
    touched = {place(key, hashes, loads, factor=factor) for _ in range(requests)}
    assert len(touched) <= ceil(endpoints / factor)


@given(keys, st.integers(4, 40), st.integers(1, 6))
def test_p7_with_little_traffic_the_floor_keeps_requests_home(key, endpoints, floor):
    hashes, loads = hashes_of(pool(list(range(endpoints)))), np.zeros(endpoints, np.int64)
    homes = [place(key, hashes, loads, factor=1.25, floor=floor) for _ in range(floor)]
    assert len(set(homes)) == 1
    assert bound(1, endpoints, floor=floor) == floor
    assert bound(1, endpoints, floor=0) == 1 + (endpoints == 1)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=200), st.integers(1, 12), factors, st.integers(1, 4))
def test_p9_replicas_that_do_not_talk_exceed_the_bound_by_their_number_at_most(traffic, endpoints, factor, replicas):
    hashes = hashes_of(pool(list(range(endpoints))))
    loads = np.zeros((replicas, endpoints), np.int64)
    for key, replica in traffic:
        place(key, hashes, loads[replica % replicas], factor=factor)
        assert loads.sum(axis=0).max() <= factor * (loads.sum() + replicas) / endpoints + replicas


def test_p10_keys_spread_evenly():
    """Multinomial noise only: 20,000 keys over 16 endpoints, mean 1250, deviation 34."""
    hashes, random = hashes_of(pool(list(range(16)))), Random(2)
    homes = np.bincount([int(scores(random.getrandbits(64), hashes).argmax()) for _ in range(20_000)], minlength=16)
    assert homes.max() / homes.mean() < 1.12
    assert homes.min() / homes.mean() > 0.88
    assert ((homes - 1250) ** 2 / 1250).sum() < 37.7  # chi-square, 15 degrees of freedom, p = 0.001


def test_p10_neighbouring_keys_and_names_spread_evenly_too():
    hashes = hashes_of(pool(list(range(16))))
    homes = np.bincount([int(scores(key, hashes).argmax()) for key in range(20_000)], minlength=16)
    assert ((homes - 1250) ** 2 / 1250).sum() < 37.7


def test_the_second_choice_is_as_even_as_the_first():
    hashes, random = hashes_of(pool(list(range(8)))), Random(3)
    ranks = [order(scores(random.getrandbits(64), hashes)) for _ in range(8_000)]
    second = np.bincount([int(rank[1]) for rank in ranks if rank[0] == 0], minlength=8)
    assert second[0] == 0
    assert second[1:].min() / second[1:].mean() > 0.75


def test_weights_are_shares():
    hashes, random = hashes_of(pool(list(range(4)))), Random(4)
    weights = np.array([1.0, 1.0, 2.0, 4.0])
    homes = np.bincount([int(scores(random.getrandbits(64), hashes, weights).argmax()) for _ in range(8_000)], minlength=4)
    assert np.abs(homes / 8_000 - weights / 8).max() < 0.02


@given(st.integers(1, 10**6), st.integers(1, 1000), st.integers(100, 400))
def test_p11_the_bound_is_the_exact_ceiling_for_the_endpoints_that_count(in_flight, endpoints, percent):
    """In whole numbers: a factor such as 1.1 has no exact float, and an error upwards would loosen the bound by one."""
    cap = bound(in_flight, endpoints, load_factor=percent / 100, floor=0)
    assert (cap - 1) * 100 * endpoints < percent * in_flight <= cap * 100 * endpoints
