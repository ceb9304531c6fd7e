"""A picker's inside without ports: pool, director, assembly and controller, with two clocks that a test turns."""

import asyncio
import json
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points

from msgspec.structs import replace

from epp.config import load
from epp.flags import ServeOptions
from epp.live.assembly import Assembly, prepare
from epp.live.controller import Controller, Event, Parts
from epp.live.report import LiveConfig
from epp.model.decision import Decision, Outcome, Usage
from epp.model.request import RequestHead
from epp.pool.state import PoolState
from epp.scheduling.build import build
from epp.scheduling.registry import GROUP, Registry
from epp.telemetry.metrics import Metrics
from epp.telemetry.observers import Observers
from epp.telemetry.sheets import DecisionRing
from epp.testing.builders import build_endpoint

CHAT = RequestHead(path="/v1/chat/completions")
APPROXIMATE = "strategy: {chain: [approximate]}"
HASH = "strategy: {chain: [consistent-hash], load: none}"


class World:
    """Made on a running loop."""

    def __init__(self, text: str = APPROXIMATE, *, endpoints: int = 3, points: Iterable[EntryPoint] = ()) -> None:
        self.now_s = 1000.0
        self.wall_s = 5e9
        self.pool = PoolState()
        self.pool.apply([build_endpoint(index) for index in range(endpoints)], self.now_s)
        self.metrics = Metrics(lambda: self.now_s)
        self.ring = DecisionRing(lambda: self.wall_s)
        self.observers = Observers([self.metrics, self.ring])
        registry = Registry(points=[*entry_points(group=GROUP), *points])
        self.assembly = Assembly(
            ServeOptions(),
            prepare(build(load(text), registry)),
            pool=self.pool,
            ring=self.ring,
            observers=self.observers,
            clock=lambda: self.now_s,
        )
        parts = Parts(assembly=self.assembly, registry=registry, metrics=self.metrics, ring=self.ring, observers=self.observers)
        self.controller = Controller(parts, "test", wall=lambda: self.wall_s)
        self.events: list[Event] = []
        self.controller.tell(self.events.append)
        self.live = LiveConfig(self.controller, self.assembly.parking)
        _run(self.assembly.subscriptions.run())

    async def offer(self, text: str) -> None:
        await self.controller.offer(text, "test")
        await asyncio.sleep(0)

    async def wait(self, seconds: float) -> None:
        """Let time pass, and the controller look at what became of it."""
        self.now_s += seconds
        self.wall_s += seconds
        await self.controller.tick()

    def ask(self, content: str = "x" * 4000, headers: Mapping[str, str] | None = None) -> Decision:
        return self.ask_chat([{"role": "user", "content": content}], headers)

    def ask_chat(self, messages: Sequence[Mapping[str, str]], headers: Mapping[str, str] | None = None) -> Decision:
        body = json.dumps({"model": "tiny", "messages": messages}).encode()
        answers: list = []
        self.assembly.director.schedule(replace(CHAT, headers=headers or {}), body, answers.append)
        return answers[0]

    def end(self, decision: Decision, *, status: int = 200, cached: int | None = None) -> None:
        usage = None if cached is None else Usage(prompt_tokens=1000, cached_tokens=cached)
        self.assembly.director.finish(decision, Outcome(end="complete", status=status, usage=usage))

    def serve(self, count: int, *, status: int = 200, cached: int | None = None) -> None:
        """Have requests come and go."""
        for _ in range(count):
            self.end(self.ask(), status=status, cached=cached)

    @property
    def strategies(self) -> dict:
        """Those in use, by their own names."""
        return {one.name: one for one in self.assembly.strategies.all.values()}

    @property
    def reasons(self) -> list[str]:
        return [event.reason for event in self.events]

    @property
    def in_force(self) -> str:
        """The names of the strategies in use, one of a chain before the others."""
        return "+".join(sorted(self.strategies))


_RUNNING: set[asyncio.Task] = set()
"""Tasks of worlds. A loop holds its tasks weakly: one of a world that is dropped before its loop ends would be destroyed."""


def _run(what: Coroutine) -> None:
    task = asyncio.get_running_loop().create_task(what)
    _RUNNING.add(task)
    task.add_done_callback(_RUNNING.discard)
