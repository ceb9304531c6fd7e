"""Reads every endpoint's metrics page, often where there is traffic and seldom where there is none.

`run` is one background task for all endpoints. Every `TICK_S` it looks, over columns, at which endpoints are due and starts to
fetch their pages; what comes back goes through the endpoint's `Reader` into `PoolState.update`. Membership it learns from the pool.

What it protects from: polls that pile up (one under way per endpoint, `concurrency_max` in all, `timeout_s` each), thundering herds
(jitter), hammering the dead (back-off, and they go last), floods of log lines (one per change of an endpoint's state), and values
of an endpoint that has gone landing in its slot's next owner.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np

from epp.model.endpoint import Endpoint, join_host_port
from epp.model.match import BoolColumn, IntColumn
from epp.pool.engines import Engines, Reader
from epp.pool.state import Changes, PoolState
from epp.scrape.page_client import Cause, Connection
from epp.scrape.page_tls import PageTls

TICK_S = 0.025
"""How exactly due times are kept. Polls that fall due together are cheaper: with 100 idle endpoints, a poll costs 0.25 ms of CPU at
ticks of 10 ms and 0.17 ms at 30 ms, most of it waking up with cold caches."""
JITTER_RATIO = 0.1
"""Intervals are shortened at random by up to this share."""
BACKOFF_MAX_S = 10.0
"""Longest interval after failures; each one doubles it."""
FAILURES_BLIND = 3
"""Failures in a row after which the last reading says nothing about now."""

_log = logging.getLogger(__name__)


@cache
def _any_tls() -> PageTls:
    return PageTls()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where on an endpoint the page is."""

    scheme: str = "http"
    """`http` or `https`."""
    path: str = "/metrics"
    port: int | None = None
    """None: the endpoint's own."""
    tls: PageTls | None = None
    """How to secure `https`; None: encrypted, whatever the certificate."""

    def connection(self, endpoint: Endpoint, bytes_max: int) -> Connection:
        """Return a connection to the endpoint's page, not yet made."""
        port = self.port or endpoint.port
        host = join_host_port(endpoint.address, port)
        request = f"GET {self.path} HTTP/1.1\r\nHost: {host}\r\nAccept: text/plain;version=0.0.4\r\nUser-Agent: epp\r\n\r\n"
        tls = (self.tls or _any_tls()).context if self.scheme == "https" else None
        return Connection(endpoint.address, port, request.encode(), bytes_max=bytes_max, tls=tls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often, and how much at once."""

    busy_interval_s: float = 0.1
    """Between two polls of an endpoint with traffic."""
    idle_interval_s: float = 1.0
    """Between two polls of an endpoint without; also how long it counts as one with traffic after the last."""
    timeout_s: float = 1.0
    page_bytes_max: int = 4 << 20
    concurrency_max: int = 256
    """Polls under way in all."""


class Poller:
    """The schedule, the connections, and the counts.

    Args:
        pool: whose endpoints are polled, and who is told.
        engines: how to read their pages.
        clock: monotonic seconds; the same clock as the director's.
        random: for jitter.
        pace: how often.
        target: which page.
    """

    def __init__(
        self,
        pool: PoolState,
        engines: Engines,
        *,
        clock: Callable[[], float],
        random: Random,
        pace: Pace | None = None,
        target: Target | None = None,
    ) -> None:
        self._pool = pool
        self._engines = engines
        self._clock = clock
        self._random = random
        self._pace = pace or Pace()
        self._target = target or Target()
        self.polls = 0
        """Pages read, since the start."""
        self.errors: Counter[Cause] = Counter()
        """Pages not read, by cause, since the start."""
        size = pool.slots_max
        self._started_s = np.full(size, -np.inf)
        """When the last poll of a slot started."""
        self._stretch = np.zeros(size)
        """Jitter and back-off: what the interval is multiplied by. 0 for an endpoint that was never polled."""
        self._busy_s = np.full(size, -np.inf)
        """When traffic was last seen."""
        self._failures = np.zeros(size, np.int64)
        """In a row."""
        self._connections: dict[int, Connection] = {}
        self._readers: dict[int, Reader] = {}
        self._under_way: dict[int, float] = {}
        """Slot -> when its poll started, oldest first."""
        self._polling = np.zeros(size, np.bool_)
        """The same as a column."""
        pool.on_forget(self._forget)
        pool.on_change(self._follow)

    def configure(self, engines: Engines, *, pace: Pace, target: Target) -> None:
        """Go on with other settings. What was read stays; connections to another page than before are made anew."""
        if target != self._target or pace.page_bytes_max != self._pace.page_bytes_max:
            for slot in list(self._connections):
                self._forget(slot)
        elif engines is not self._engines:
            endpoints = self._pool.snapshot().endpoints
            self._readers = {slot: Reader(engines.of(one)) for slot in self._readers if (one := endpoints[slot]) is not None}
        self._engines, self._pace, self._target = engines, pace, target

    @property
    def failing(self) -> int:
        """Endpoints whose last poll failed."""
        return int(np.count_nonzero(self._failures))

    async def run(self) -> None:
        """Poll until cancelled."""
        try:
            while True:
                self.tick(self._clock())
                await asyncio.sleep(TICK_S)
        finally:
            for slot in list(self._connections):
                self._forget(slot)

    def tick(self, now_s: float) -> None:
        """Give up on what takes too long, and start what is due. Cost: some 20 us, plus 10 us for each poll started."""
        while self._under_way and now_s - next(iter(self._under_way.values())) > self._pace.timeout_s:
            self._connections[next(iter(self._under_way))].abandon(Cause.TIMEOUT)
        for slot in self._due(now_s).tolist():
            self._start(slot, now_s)

    def _due(self, now_s: float) -> IntColumn:
        """Return the slots to poll now: those that answered the last time first, the longest overdue before others."""
        columns, pace = self._pool.snapshot().columns, self._pace
        size = len(columns.live)
        traffic: BoolColumn = (columns.requests > 0) | (columns.running > 0) | (columns.waiting > 0)
        self._busy_s[:size][traffic] = now_s
        busy = now_s - self._busy_s[:size] < pace.idle_interval_s
        interval = np.where(busy, pace.busy_interval_s, pace.idle_interval_s)
        interval = np.minimum(interval * self._stretch[:size], np.maximum(interval, BACKOFF_MAX_S))
        # What falls due before the next look is due now.
        late = now_s + TICK_S - self._started_s[:size] - interval
        due = np.flatnonzero(columns.live & ~self._polling[:size] & (late >= 0))
        free = pace.concurrency_max - len(self._under_way)
        if len(due) > free:
            due = due[np.lexsort((-late[due], self._failures[due] > 0))]
        return due[: max(0, free)]

    def _start(self, slot: int, now_s: float) -> None:
        endpoint = self._pool.snapshot().endpoints[slot]
        assert endpoint is not None
        if slot not in self._connections:
            self._connections[slot] = self._target.connection(endpoint, self._pace.page_bytes_max)
            self._readers[slot] = Reader(self._engines.of(endpoint))
        self._started_s[slot] = self._under_way[slot] = now_s
        self._polling[slot] = True
        connection = self._connections[slot]
        connection.get(lambda result: self._done(slot, connection, result))

    def _done(self, slot: int, connection: Connection, result: bytes | Cause) -> None:
        """Take the end of a poll; of a connection that was forgotten meanwhile, nothing."""
        if self._connections.get(slot) is not connection:
            return
        del self._under_way[slot]
        self._polling[slot] = False
        first = not self._stretch[slot]
        # The first interval is cut anywhere, so that endpoints that came together are not polled together for ever.
        jitter = self._random.random() if first else 1.0 - JITTER_RATIO * self._random.random()
        if isinstance(result, Cause):
            self._failed(slot, result)
        elif (sample := self._readers[slot].read(result)) is None:
            self._failed(slot, Cause.NO_SERIES)
        else:
            self._answered(slot)
            self._pool.update(slot, sample, self._clock())
        self._stretch[slot] = jitter * 2.0 ** min(int(self._failures[slot]), 10)

    def _answered(self, slot: int) -> None:
        self.polls += 1
        if self._failures[slot]:
            _log.info("metrics are read again", extra=self._fields(slot))
            self._failures[slot] = 0

    def _failed(self, slot: int, cause: Cause) -> None:
        self.errors[cause] += 1
        if not self._failures[slot]:
            _log.warning("metrics cannot be read", extra={**self._fields(slot), "cause": cause.value})
        self._failures[slot] += 1
        if self._failures[slot] == FAILURES_BLIND:
            self._pool.lose_sight(slot)

    def _fields(self, slot: int) -> dict[str, str]:
        endpoint = self._pool.snapshot().endpoints[slot]
        return {"endpoint": endpoint.name, "address": endpoint.authority} if endpoint is not None else {}

    def _forget(self, slot: int) -> None:
        """Let go of everything about a slot's owner."""
        connection = self._connections.pop(slot, None)
        self._readers.pop(slot, None)
        self._under_way.pop(slot, None)
        self._polling[slot] = False
        self._started_s[slot] = self._busy_s[slot] = -np.inf
        self._stretch[slot] = self._failures[slot] = 0
        if connection is not None:
            connection.abandon(Cause.CLOSED)

    def _follow(self, changes: Changes) -> None:
        """Read by the new label what has another label now."""
        endpoints = self._pool.snapshot().endpoints
        for slot in changes.changed:
            endpoint = endpoints[slot]
            if endpoint is not None and slot in self._readers:
                self._readers[slot] = Reader(self._engines.of(endpoint))
