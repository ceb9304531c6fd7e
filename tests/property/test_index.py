"""The prefix index against a model that keeps one least-recently-used list of blocks per endpoint and scans everything."""

from itertools import accumulate

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from epp.prefix import index as module
from epp.prefix.index import PrefixIndex

SIZES = (16, 16, 20, 36, 64)
TOKENS = tuple(accumulate(SIZES, initial=0))
WIDTH = 12
paths = st.lists(st.integers(0, 2), min_size=1, max_size=len(SIZES)).map(tuple)
slots = st.integers(0, WIDTH - 1)
capacities = st.sampled_from((0, 40, 150, 400, 10_000))


def keys_of(path: tuple[int, ...]) -> list[int]:
    """Keys as of chained hashes: one per prefix, never 0, the same for equal prefixes."""
    return [int("1" + "".join(map(str, path[: n + 1]))) for n in range(len(path))]


class Model:
    """What the index should know, in the plainest form: per slot, blocks least recently used first."""

    def __init__(self) -> None:
        self.held: dict[int, list[tuple[int, ...]]] = {}

    def record(self, path: tuple[int, ...], slot: int, capacity: int) -> None:
        blocks = self.held.setdefault(slot, [])
        for end in range(len(path), 0, -1):
            if path[:end] in blocks:
                blocks.remove(path[:end])
            blocks.append(path[:end])
        while self.tokens(slot) > capacity:
            blocks.pop(0)

    def tokens(self, slot: int) -> int:
        return sum(SIZES[len(block) - 1] for block in self.held.get(slot, ()))

    def match(self, path: tuple[int, ...]) -> list[int]:
        found = [0] * WIDTH
        for slot, blocks in self.held.items():
            depth = 0
            while depth < len(path) and path[: depth + 1] in blocks:
                depth += 1
            found[slot] = TOKENS[depth]
        return found


class Same(RuleBasedStateMachine):
    """Any order of records and forgets leaves index and model with the same answers."""

    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex(TOKENS)
        self.model = Model()
        self.capacity = dict.fromkeys(range(WIDTH), 150)

    @rule(path=paths, slot=slots)
    def record(self, path: tuple[int, ...], slot: int) -> None:
        self.index.record(keys_of(path), slot, self.capacity[slot])
        self.model.record(path, slot, self.capacity[slot])

    @rule(path=paths)
    def record_everywhere(self, path: tuple[int, ...]) -> None:
        for slot in range(WIDTH):
            self.record(path, slot)

    @rule(slot=slots, capacity=capacities)
    def resize(self, slot: int, capacity: int) -> None:
        self.capacity[slot] = capacity

    @rule(slot=slots)
    def forget(self, slot: int) -> None:
        self.index.forget(slot)
        self.model.held.pop(slot, None)

    @precondition(lambda self: self.model.held)
    @rule(path=paths)
    def match(self, path: tuple[int, ...]) -> None:
        column = self.index.match(keys_of(path), WIDTH)
        wanted = self.model.match(path)
        assert wanted == [0] * WIDTH if column is None else column.tolist() == wanted
        for slot in range(WIDTH):
            assert TOKENS[self.index.held(keys_of(path), slot)] == wanted[slot]

    @invariant()
    def sound(self) -> None:
        self.index.check()
        for slot in range(WIDTH):
            assert self.index.tokens(slot) == self.model.tokens(slot)


TestSame = Same.TestCase
TestSame.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@given(st.lists(st.tuples(paths, slots, st.sampled_from(("record", "forget", "shed"))), max_size=80), capacities)
def test_no_step_of_cleaning_up_breaks_the_structure(steps, capacity):
    """With one block of work per call, everything is always half cleaned up; answers stay right all the same."""
    index, live = PrefixIndex(TOKENS), set()
    spare, module.SWEEP_BLOCKS = module.SWEEP_BLOCKS, 1
    try:
        for path, slot, step in steps:
            before = index.tokens(slot)
            if step == "record":
                index.record(keys_of(path), slot, capacity)
                live.add(slot)
                assert index.tokens(slot) <= max(capacity, before)
            elif step == "shed":
                index.shed(slot, 0.5)
            else:
                index.forget(slot)
                live.discard(slot)
                assert index.tokens(slot) == 0
            index.check()
            column = index.match(keys_of(path), WIDTH)
            assert column is None or set(column.nonzero()[0].tolist()) <= live
    finally:
        module.SWEEP_BLOCKS = spare


@given(st.lists(st.tuples(paths, slots), min_size=1, max_size=40))
def test_what_everybody_forgot_costs_nothing_in_the_end(records):
    index = PrefixIndex(TOKENS)
    for path, slot in records:
        index.record(keys_of(path), slot, 10_000)
    for slot in range(WIDTH):
        index.forget(slot)
    assert index.match(keys_of(records[0][0]), WIDTH) is None
    for _ in range(WIDTH + 1):
        index.record([9], 0, 10_000)
    index.check()
    assert (index.keys, index.entries, index.tokens()) == (1, 1, TOKENS[1])
