"""Any order of configurations, good and bad, of pins, rollbacks, requests and endpoints that come and go: the picker goes on."""

import asyncio
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from epp.errors import ConfigError
from epp.live.generations import HISTORY_MAX
from epp.live.parking import PARKED_MAX, PARKED_S
from epp.model.decision import Decision
from epp.testing.builders import build_endpoint
from tests.unit.live.world import APPROXIMATE, HASH, World

TEXTS = (
    APPROXIMATE,
    HASH,
    "",
    "strategy: {chain: [approximate], approximate: {blockSizeTokens: 32}}",
    "strategy: {chain: [accurate, approximate, consistent-hash], load: llm-d}",
    "plugins: [{type: random-picker}]",
    "{trial: {for: 30s}, plugins: [{type: approx-prefix-cache-producer, name: mine}, {type: token-load-scorer}]}",
    "plugins: [{type: approx-prefix-cache-producer, name: a}, {type: approx-prefix-cache-producer, name: b}, "
    "{type: prefix-cache-scorer, parameters: {prefixMatchInfoProducerName: b}}]",
    "strategy: {chian: []}",
    "strategy: [",
    "limits: {endpointsMax: 1}",
    "plugins: [{type: label-selector-filter, parameters: {matchLabels: {nobody: has-it}}}, {type: queue-scorer}]",
)

OFFERS = st.tuples(st.just("offer"), st.sampled_from(TEXTS))
STEPS = st.lists(
    OFFERS
    | st.tuples(st.just("rollback"), st.none() | st.integers(min_value=1, max_value=12))
    | st.tuples(st.sampled_from(["pin", "unpin"]), st.none())
    | st.tuples(st.just("endpoints"), st.sets(st.integers(min_value=0, max_value=6), min_size=1))
    | st.tuples(st.just("ask"), st.integers(min_value=0, max_value=5))
    | st.tuples(st.just("end"), st.sampled_from([200, 503]))
    | st.tuples(st.just("fail"), st.booleans())
    | st.tuples(st.just("wait"), st.sampled_from([1.0, 40.0, PARKED_S])),
    max_size=25,
)


class Stage(World):
    """A world that is played on."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[Decision] = []
        self.failing = False
        """Whether nothing can be put in force, as when a file that it needs is away."""
        self._rehearse, self.assembly.rehearse = self.assembly.rehearse, self.rehearse

    def rehearse(self, plan):
        if self.failing:
            raise ConfigError("not now")
        return self._rehearse(plan)

    async def do(self, what: str, how) -> None:
        if what == "offer":
            await self.offer(how)
        elif what == "fail":
            self.failing = how
        elif what == "rollback":
            with suppress(ConfigError):
                await self.controller.rollback(how)
        elif what == "pin":
            await self.controller.pin()
        elif what == "unpin":
            with suppress(ConfigError):
                await self.controller.unpin()
                failure, newest = self.controller.failure, self.controller.generations.newest
                assert failure is None or failure.hash != newest.hash, "what is followed is not refused"
        elif what == "endpoints":
            self.pool.apply([build_endpoint(index) for index in sorted(how)], self.now_s)
        elif what == "wait":
            await self.wait(how)
        elif what == "ask":
            answer = self.ask(f"{how}" * 3000)
            self.open += [answer] if isinstance(answer, Decision) else []
        elif self.open:
            self.end(self.open.pop(0), status=how, cached=100)

    def check(self) -> None:
        assembly, history = self.assembly, self.controller.generations
        used = [id(one.strategy) for one in assembly._used]
        parked = [id(one.strategy) for one in assembly.parking.holdings]
        assert len(set(used)) == len(used)
        assert set(used).isdisjoint(parked)
        assert len(parked) <= PARKED_MAX
        assert len(history.previous) <= HISTORY_MAX
        assert history.current.candidate.config == assembly.plan.config
        failure = self.controller.failure
        assert failure is None or failure.hash != history.current.candidate.hash, "what is in force is not refused"
        assert assembly.director.routing.profiles is assembly.plan.profiles
        assert assembly.director.in_flight == len(self.open)
        observing = [one for one in self.observers._observers if one is assembly.parking]
        assert len(observing) == bool(parked)
        assert len(self.observers._observers) == 2 + bool(parked) + (self.controller.trial is not None)
        self.pool.check()
        for one in (*assembly._used, *assembly.parking.holdings):
            if hasattr(one.strategy, "_index"):
                one.strategy._index.check()
        live = {slot for slot, one in enumerate(self.pool.snapshot().endpoints) if one is not None}
        for one in assembly.parking.holdings:
            if hasattr(one.strategy, "_index"):
                assert set(one.strategy._index._lanes) <= live, "what is parked knows nobody who has gone"
        self.live.report()
        self.live.state()


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_whatever_comes_the_picker_goes_on(steps):
    async def play() -> None:
        stage = Stage()
        for what, how in steps:
            await stage.do(what, how)
            stage.check()
        for decision in stage.open:
            stage.end(decision)
        assert stage.pool.snapshot().columns.requests.sum() == 0

    asyncio.run(play())
