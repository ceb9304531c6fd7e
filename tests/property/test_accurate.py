"""Whatever is lost, reordered or restarted: the index never claims a block that is not there, and is right again in the end."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from epp.model.endpoint import Endpoint
from epp.prefix.accurate import Accurate
from epp.prefix.kv_stream import Standing
from epp.prefix.speculative import Speculative
from epp.prefix.token_keys import chain, prompt_keys
from tests.unit.prefix.engine import Engine

BLOCK = 2
tokens = st.lists(st.integers(0, 2), min_size=BLOCK, max_size=8)
steps = st.lists(
    st.tuples(st.just("cache"), tokens)
    | st.tuples(st.just("evict"), st.integers(0, 100))
    | st.tuples(
        st.sampled_from(["clear", "restart", "resize", "lose", "swap", "fail", "settle", "reconnect", "late", "overtake"]),
        st.none(),
    ),
    max_size=40,
)


class Wire:
    """One engine, one machine, and a network between them that does what the steps say."""

    def __init__(self, *, replayable, ring):
        self.strategy = Accurate(speculative=False)
        self.feed = self.strategy.feed
        self.engine = Engine(block=BLOCK, ring=ring)
        self.feed.attach(0, Endpoint(name="default/pod", address="10.0.0.1", port=8000), replayable=replayable)
        self.sent = []
        """Published, not yet arrived."""
        self.replays = []
        self.next = 0
        """The number after the last that arrived."""
        self.replayable = replayable
        self.lives = 1
        self.unheard = False
        """Nothing of the engine's present life has arrived."""
        self.ask(self.feed.connected(0))

    def ask(self, command):
        if command is not None:
            self.replays.append(command)

    def publish(self, message):
        if message is not None:
            self.sent.append(message)

    def arrive(self):
        while self.sent:
            seq, payload = self.sent.pop(0)
            self.next, self.unheard = seq + 1, False
            self.ask(self.feed.receive_live(0, seq, payload, 0.0))

    def replay(self):
        rounds = 0
        while self.replays:
            rounds += 1
            assert rounds < 20, "replays without end"
            command = self.replays.pop(0)
            for reply in self.engine.replay(command.from_seq):
                self.ask(self.feed.receive_replay(command, *reply, 0.0))

    def step(self, name, value):  # noqa: C901, PLR0912
        engine = self.engine
        match name:
            case "cache":
                self.feed.sent(0, prompt_keys([*value, 0], (BLOCK, 2 * BLOCK), lora="", salt=""))
                self.publish(engine.cache(value))
            case "evict":
                leaves = [path for path in engine.handles if not any(p[: len(path)] == path != p for p in engine.handles)]
                if leaves:
                    self.publish(engine.evict(sorted(leaves)[value % len(leaves)]))
            case "clear":
                self.publish(engine.clear())
            case "restart" | "resize":
                # What a connection has brought is read before the next one stands; else nothing could tell two lives apart.
                self.arrive()
                engine.restart()
                self.lives, self.unheard = self.lives + 1, True
                if name == "resize":
                    engine.block = 3 * BLOCK - engine.block
                self.feed.disconnected(0)
                self.ask(self.feed.connected(0))
            case "overtake":
                self.arrive()
                passed = engine.seq
                engine.restart()
                self.lives, self.unheard = self.lives + 1, True
                for number in range(passed + 1):
                    engine.cache([number % 3, number // 3 % 3, *(number // 9 // 3**i % 3 for i in range(4))])
                    engine.clear()
                # Without a replay, an engine that goes on at the very number cannot be told from the old one.
                if engine.seq == self.next:
                    engine.clear()
                self.feed.disconnected(0)
                self.ask(self.feed.connected(0))
            case "lose":
                # Nor can one whose beginning is lost, if that makes it go on there.
                if self.replayable or not self.unheard:
                    self.sent = self.sent[:-1]
            case "swap":
                self.sent[-2:] = reversed(self.sent[-2:])
            case "fail":
                failed, self.replays = self.replays, []
                for command in failed:
                    self.ask(self.feed.replay_failed(command, 0.0))
            case "reconnect":
                self.ask(self.feed.connected(0))
            case "late":
                self.arrive()
            case _:
                self.arrive()
                self.replay()

    def held(self):
        """Return the paths, among all short ones, that the index says the endpoint holds."""
        found = set()
        for path in PATHS:
            column = np.zeros(1)
            keys = prompt_keys([*path, 0], self.feed.sizes, lora="", salt="").by_size
            for size, blocks in keys.items():
                self.strategy._lanes.match(blocks, size, column)
            if column[0] == len(path):
                found.add(path)
        return found

    def true(self):
        return {path for path in PATHS if path in self.engine.handles}


def _paths(length):
    if length == 0:
        return [()]
    return [(*path, first, second) for path in _paths(length - BLOCK) for first in range(3) for second in range(3)]


PATHS = [path for length in (2, 4) for path in _paths(length)]


@settings(deadline=None)
@example([("cache", [0, 0]), ("fail", None), ("late", None), ("fail", None)])
@example([("cache", [0, 0]), ("lose", None), ("cache", [0, 0, 0, 0]), ("fail", None), ("late", None), ("reconnect", None)])
@given(steps)
def test_with_replay_it_is_exact_in_the_end(script):
    wire = Wire(replayable=True, ring=10_000)
    for name, value in script:
        wire.step(name, value)
        wire.feed.check()
    wire.arrive()
    wire.replay()
    # The last message before a silence may be lost; the next one shows it.
    wire.publish(wire.engine.cache([0, 0, 1, 1, 2, 2]) or wire.engine.cache([2, 2]) or wire.engine.clear())
    wire.arrive()
    wire.replay()
    wire.feed.check()
    assert wire.feed.report()[0].standing is Standing.EXACT
    assert wire.held() == wire.true()


@settings(deadline=None)
@given(steps, st.booleans(), st.integers(0, 3))
def test_never_a_block_that_is_not_there(script, replayable, ring):
    wire = Wire(replayable=replayable, ring=ring)
    for name, value in script:
        wire.step("settle" if name == "swap" else name, value)
    wire.arrive()
    wire.publish(wire.engine.cache([0, 0, 1, 1, 2, 2]) or wire.engine.cache([2, 2]) or wire.engine.clear())
    wire.arrive()
    wire.replay()
    wire.feed.check()
    assert wire.held() <= wire.true()


@settings(deadline=None)
@example([("cache", [0, 0]), ("cache", [1, 1]), ("settle", None), ("restart", None), ("settle", None), ("cache", [0, 0])])
@given(steps)
def test_a_restart_counts_once(script):
    wire = Wire(replayable=True, ring=10_000)
    for name, value in script:
        # Messages that swap look like a restart, and so do replays that fail: they are made up for by another one.
        wire.step("settle" if name in {"swap", "fail"} else name, value)
    wire.arrive()
    wire.replay()
    assert wire.feed.report()[0].counts.restarts < wire.lives


@given(st.lists(st.tuples(st.integers(0, 3), tokens), max_size=20), st.lists(st.integers(0, 3), max_size=4))
def test_several_endpoints_and_forgetting(prompts, gone):
    strategy = Accurate(speculative=False)
    engines = [Engine(block=BLOCK, seed=slot) for slot in range(4)]
    for slot in range(4):
        strategy.feed.attach(slot, Endpoint(name=f"default/{slot}", address="10.0.0.1", port=slot), replayable=False)
    for slot, prompt in prompts:
        if (message := engines[slot].cache(prompt)) is not None:
            strategy.feed.receive_live(slot, *message, 0.0)
    for slot in gone:
        strategy.forget(slot)
        engines[slot].restart()
        strategy.feed.check()
    for _ in range(3):
        strategy.tick(0.0)
    strategy.feed.check()
    for slot in gone:
        strategy.feed.attach(slot, Endpoint(name=f"default/new-{slot}", address="10.0.0.1", port=slot), replayable=False)
    strategy.feed.check()
    for path in PATHS:
        column = np.zeros(4)
        strategy._lanes.match(prompt_keys([*path, 0], [BLOCK], lora="", salt="").by_size[BLOCK], BLOCK, column)
        for slot in range(4):
            depth = next((d for d in range(len(path), 0, -BLOCK) if path[:d] in engines[slot].handles), 0)
            assert column[slot] == depth


@given(st.lists(st.integers(0, 2**32 - 1), max_size=40), st.integers(1, 7), st.integers(0, 40))
def test_keys_are_those_of_the_prefix(ids, block, cut):
    """Extending a prompt keeps its keys, and going on from a block gives the keys that the whole chain has."""
    whole = prompt_keys([*ids, 0], [block], lora="a", salt="b").by_size[block]
    assert len(whole) == len(ids) // block
    assert prompt_keys([*ids[:cut], 0], [block], lora="a", salt="b").by_size[block] == whole[: len(ids[:cut]) // block]
    if len(whole) > 1:
        assert chain(np.array(ids[block:], dtype=np.uint32).tobytes(), block, whole[0]) == whole[1:]


@given(st.lists(st.tuples(st.floats(0, 0.7), st.integers(0, 3), st.integers(0, 3)), max_size=30))
def test_speculation_is_there_for_half_its_time_and_gone_after_it(decisions):
    speculative, now, sent = Speculative(2.0), 50.0, []
    for wait, slot, prompt in decisions:
        now += wait
        speculative.record({4: [prompt]}, slot, now)
        sent.append((now, slot, prompt))
    for wait in (0.0, 0.5, 0.5, 0.6, 0.5):
        now += wait
        speculative.tick(now)
        for prompt in range(4):
            column = np.zeros(4)
            speculative.match([prompt], 4, column)
            for slot in range(4):
                ages = [now - at for at, where, what in sent if (where, what) == (slot, prompt)]
                if any(age < 0.999 for age in ages):
                    assert column[slot] == 4
                if not any(age <= 2.001 for age in ages):
                    assert column[slot] == 0
