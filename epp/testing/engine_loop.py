"""The clock of an engine: calls `advance` when it is due, and hands its cache's events to the publisher once a step."""

import asyncio
from collections.abc import Callable

from epp.testing.block_cache import CacheEvent
from epp.testing.engine import Engine
from epp.testing.generation import Generation


class EngineLoop:
    """Runs one engine on the running event loop, with a timer and no task.

    Args:
        engine: what is driven.
        publish: takes the cache events of a step, at its end, as vLLM does.
    """

    def __init__(self, engine: Engine, publish: Callable[[list[CacheEvent]], None]) -> None:
        self.engine = engine
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_s: float | None = None

    def submit(self, generation: Generation) -> None:
        """Queue a request."""
        self.engine.submit(generation, self._loop.time())
        self._arm()

    def abort(self, generation: Generation) -> None:
        """Drop a request; nothing when it is done."""
        if not generation.done:
            self.engine.abort(generation, self._loop.time())
            self._arm()

    def reset_cache(self) -> bool:
        """Forget what is cached. Returns False while requests run."""
        cleared = self.engine.cache.clear()
        self._publish(self.engine.cache.events())
        return cleared

    def stop(self) -> None:
        """Stop the clock."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        self._publish(self.engine.cache.events())
        self.engine.advance(self._loop.time() + 0.0005)  # timers of a loop are a millisecond coarse
        if self.engine.next_s is None:
            self._publish(self.engine.cache.events())
        self._arm()

    def _arm(self) -> None:
        due_s = self.engine.next_s
        if self._timer is not None:
            if due_s == self._armed_s:
                return
            self._timer.cancel()
            self._timer = None
        if due_s is not None:
            self._armed_s = due_s
            self._timer = self._loop.call_at(due_s, self._tick)
