"""The prefix index where its property tests do not look: the errors it was built against, bounds, and memory."""

import gc
import tracemalloc
from itertools import accumulate
from random import Random

import pytest

from epp.prefix.blocks import Blocks
from epp.prefix.index import SWEEP_BLOCKS, PrefixIndex

TOKENS = tuple(accumulate([16] * 700, initial=0))
PLENTY = 10**9


def path(seed: int, blocks: int) -> list[int]:
    """Keys of a prompt of its own."""
    random = Random(seed)
    return [random.getrandbits(64) | 1 for _ in range(blocks)]


@pytest.fixture
def index() -> PrefixIndex:
    return PrefixIndex(TOKENS)


def test_a_match_begins_at_block_0_of_every_endpoint(index):
    """An endpoint with blocks 200 to 599 of a prompt holds nothing of it; the one with 0 to 299 holds 300."""
    prompt = path(1, 600)
    index.record(prompt, 0, PLENTY)
    index.record(prompt[:300], 1, PLENTY)
    index.shed(0, 0.0)
    for _ in range(20):
        index.record(path(2, 1), 0, PLENTY)
    column = index.match(prompt, 2)
    assert column is not None
    assert column.tolist() == [0, TOKENS[300]]


def test_the_head_of_a_prompt_is_evicted_last(index):
    """Room for 1000 blocks, two prompts of 600: the older one keeps its first 400 blocks."""
    older, newer = path(1, 600), path(2, 600)
    index.record(older, 0, TOKENS[1] * 1000)
    index.record(newer, 0, TOKENS[1] * 1000)
    assert index.held(older, 0) == 400
    assert index.held(newer, 0) == 600
    assert index.tokens(0) == 16_000
    index.check()


def test_a_shared_head_stays_as_long_as_somebody_uses_it(index):
    head = path(1, 10)
    for turn in range(50):
        index.record(head + path(100 + turn, 10), 0, TOKENS[40])
    assert index.held(head, 0) == 10
    assert index.entries == 40
    index.check()


def test_a_prompt_larger_than_the_cache_keeps_its_head(index):
    prompt = path(1, 100)
    index.record(prompt, 0, TOKENS[30])
    assert index.held(prompt, 0) == 30
    index.record(prompt, 0, TOKENS[30])
    assert index.held(prompt, 0) == 30
    index.check()


def test_a_conversation_is_one_path_however_many_turns_it_has(index):
    talk = path(1, 200)
    for turn in range(1, 201):
        index.record(talk[:turn], 0, PLENTY)
    assert index.entries == 200
    assert len(index._lanes[0].ends) == 1
    index.check()


def test_a_thousand_endpoints_at_many_depths(index):
    prompt = path(1, 100)
    for slot in range(1000):
        index.record(prompt[: 1 + slot % 97], slot, PLENTY)
    column = index.match(prompt, 1000)
    assert column is not None
    assert column.tolist() == [TOKENS[1 + slot % 97] for slot in range(1000)]


def test_nothing_known_is_none(index):
    assert index.match([], 4) is None
    assert index.match([5], 4) is None
    index.record([], 0, PLENTY)
    assert index.entries == 0
    assert index.held([5], 3) == 0


def test_a_slot_is_somebody_elses_at_once(index):
    prompt, other = path(1, 500), path(2, 3)
    index.record(prompt, 0, PLENTY)
    index.forget(0)
    assert index.match(prompt, 1) is None
    index.record(other, 0, PLENTY)
    assert index.match(prompt, 1) is None
    assert index.entries == 3
    index.check()


def test_what_a_forgotten_endpoint_left_is_swept_by_and_by(index):
    index.record(path(1, 600), 0, PLENTY)
    index.forget(0)
    assert index.keys == 600
    sizes = []
    for seed in range(10):
        index.record(path(2, 1), seed, PLENTY)
        sizes.append(index.keys)
        index.check()
    assert sizes[0] > 500
    assert sizes[-1] == 1


def test_endpoints_that_come_and_go_leave_nothing_behind(index):
    for _ in range(300):
        index.record(path(1, 30), 7, PLENTY)
        index.forget(7)
    assert len(index._slots) <= 2
    for slot in range(300):
        index.record(path(slot, 2), slot, PLENTY)
    for slot in range(300):
        index.forget(slot)
    index.check()
    assert index.keys >= 600, "to forget is not to sweep: the whole pool may go at once"
    records = 0
    while index.keys > 1:
        before = index.keys
        index.record([1], 0, PLENTY)
        assert before - index.keys <= SWEEP_BLOCKS + 2
        records += 1
    assert records <= 600 * 4 // SWEEP_BLOCKS
    assert len(index._slots) <= 301
    index.check()


def test_one_deep_prompt_displaces_hundreds_of_small_ones_at_once():
    """Blocks grow: what one prompt adds may be worth many times as many blocks, and must fit all the same."""
    tokens = Blocks().tokens
    index, deep = PrefixIndex(tokens), path(1, 90)
    for seed in range(2000):
        index.record(path(10 + seed, 1), 0, 32_000)
    assert index.entries == 2000
    index.record(deep, 0, 32_000)
    assert index.held(deep, 0) == 90
    assert 32_000 - 16 < index.tokens(0) <= 32_000
    index.check()


def test_a_smaller_capacity_is_reached_step_by_step(index):
    for seed in range(20):
        index.record(path(seed, 100), 0, PLENTY)
    steps = 0
    while index.tokens(0) > TOKENS[100]:
        before = index.entries
        index.record(path(19, 100), 0, TOKENS[100])
        assert before - index.entries <= 64
        steps += 1
    assert 25 <= steps <= 40
    assert index.held(path(19, 100), 0) == 100


def test_shedding_takes_the_older_half(index):
    for seed in range(10):
        index.record(path(seed, 10), 0, PLENTY)
    index.shed(0, 0.5)
    index.shed(1, 0.5)
    index.record(path(9, 10), 0, PLENTY)
    assert [index.held(path(seed, 10), 0) for seed in range(10)] == [0] * 5 + [10] * 5
    index.record(path(10, 10), 0, PLENTY)
    assert index.entries == 60
    index.check()


def measured(fill) -> tuple[PrefixIndex, int]:
    """Return an index and the bytes it takes."""
    gc.collect()
    tracemalloc.start()
    try:
        index = PrefixIndex(TOKENS)
        fill(index)
        gc.collect()
        return index, tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("paths", "blocks"), [(300, 30), (410, 30), (90, 100), (2000, 2)])
def test_a_block_of_one_endpoint_costs_at_most_200_bytes_and_no_more_than_estimated(paths, blocks):
    def fill(index: PrefixIndex) -> None:
        for seed in range(paths):
            index.record(path(seed, blocks), seed % 4, PLENTY)

    index, used = measured(fill)
    assert index.entries == paths * blocks
    assert used / index.entries < (200 if blocks > 2 else 280)
    assert used < index.bytes < 3 * used


def test_a_block_that_twenty_endpoints_hold_costs_less_than_20_bytes_each():
    def fill(index: PrefixIndex) -> None:
        for seed in range(200):
            keys = path(seed, 50)
            for slot in range(20):
                index.record(keys, slot, PLENTY)

    index, used = measured(fill)
    assert index.entries == 200 * 50 * 20
    assert used / index.entries < 20
    assert used < index.bytes


def test_memory_stays_flat_under_churn():
    """Full endpoints that go on working, and come and go: the second half of the time adds nothing."""
    index, random, peaks = PrefixIndex(TOKENS), Random(5), []
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(2):
            tracemalloc.reset_peak()
            for _ in range(3000):
                slot = random.randrange(4)
                index.record(path(random.getrandbits(30), 20), slot, TOKENS[400])
                if random.random() < 0.01:
                    index.forget(slot)
            peaks.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    index.check()
    assert peaks[1] < 1.1 * peaks[0]
    assert index.entries <= 1600
