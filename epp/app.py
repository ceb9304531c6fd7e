"""The composition root: options and a configuration in, a running picker out. The only file that knows every package.

Reads from top to bottom as a story: build everything, start what listens, run the background tasks, wait for a signal, drain,
stop. A background task that dies takes the process down: half a picker is worse than none.
"""

import asyncio
import gc
import logging
import signal
import sys
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

import uvloop

from epp import heap, parts
from epp.admin.config_pages import ConfigPages
from epp.admin.server import Admin
from epp.cluster import Cluster
from epp.config import load
from epp.discovery.file import FileDiscovery
from epp.errors import ConfigError
from epp.extproc.pump import Pump
from epp.flags import ServeOptions
from epp.live.assembly import Assembly, Prepared, prepare
from epp.live.controller import Controller, Parts
from epp.live.report import LiveConfig
from epp.live.sources import ConfigSources
from epp.model.budget import Budget
from epp.model.endpoint import Endpoint
from epp.model.stream import Outlet, StreamHandler
from epp.pool.state import PoolState
from epp.scheduling.build import build
from epp.scheduling.registry import Registry
from epp.telemetry import logs, loop_lag
from epp.telemetry.health import Fact, HealthState
from epp.telemetry.metrics import Metrics
from epp.telemetry.observers import Observers
from epp.telemetry.sheets import DecisionRing
from epp.telemetry.state_metrics import Sources, Watched
from epp.transport.base import Transport

log = logging.getLogger(__name__)

SECOND_SIGNAL_CODE = 130
SWITCH_S = 0.0005
"""How long a thread that renders a page or a template may keep the event loop waiting. Python has 5 ms, a p99 by itself."""
HANDOVER_SHARE = 1 / 3
"""Of the drain timeout: how long a leader that has given up the lead stays ready, for whoever takes it over to get there."""


def run(options: ServeOptions) -> int:
    """Serve until told to stop.

    Returns:
        0 after a drain, `SECOND_SIGNAL_CODE` when a second signal cut it short.

    Raises:
        ConfigError: the configuration cannot be used.
        OSError: a port cannot be bound.
    """
    heap.keep_freed()
    sys.setswitchinterval(SWITCH_S)
    flush = logs.configure(verbosity=options.verbosity, json=options.log_format == "json")
    try:
        return _run(options)
    finally:
        flush()


def _run(options: ServeOptions) -> int:
    if options.ignored:
        log.info("flags without effect", extra={"flags": ", ".join(options.ignored)})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(_serve(options))
        except asyncio.CancelledError:
            return SECOND_SIGNAL_CODE
        except BaseExceptionGroup as group:  # of the task group; what a user can mend is said in one line, like anywhere else
            for error in group.exceptions:
                if isinstance(error, (ConfigError, OSError)):
                    raise error from None
            raise


async def _serve(options: ServeOptions) -> int:
    registry = Registry(allow_experimental=options.allow_experimental_plugins)
    async with ConfigSources(options) as sources:
        plan = build(load(await sources.first()), registry)
        for warning in plan.warnings:
            log.warning("configuration", extra={"doubt": warning})
        return await Picker(options, prepare(plan), sources, registry).serve()


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


class Picker:
    """Everything one process is made of. Made on the event loop it will live on.

    Args:
        options: the flags.
        first: the configuration to begin with.
        sources: where it came from, and the next ones will.
        registry: the plugins there are.

    Raises:
        ConfigError: they do not fit together.
    """

    def __init__(self, options: ServeOptions, first: Prepared, sources: ConfigSources, registry: Registry) -> None:
        limits = first.plan.config.limits
        self._options = options
        self._config_sources = sources
        self.health = HealthState(elected=options.leader_election)
        self._held = Budget(max(limits.bodies_bytes_max, limits.body_bytes_max))
        self.pool = PoolState(slots_max=limits.endpoints_max, requests_max=limits.requests_max)
        self.metrics = Metrics(time.monotonic)
        self.ring = DecisionRing(time.time, records_max=limits.decisions_kept)
        observers = Observers([self.metrics, self.ring, logs.DecisionLog()])
        self.assembly = Assembly(options, first, pool=self.pool, ring=self.ring, observers=observers)
        live = Parts(assembly=self.assembly, registry=registry, metrics=self.metrics, ring=self.ring, observers=observers)
        self.controller = Controller(live, sources.began_with)
        self._live_config = LiveConfig(self.controller, self.assembly.parking)
        self._cluster = self._make_cluster()
        self._discovery = self._make_discovery()
        self.health.on_remark(sources.remarks)
        self._stop = asyncio.Event()
        self._main = _current_task()

    async def serve(self) -> int:
        """Start, run until a signal, drain, stop.

        Raises:
            CancelledError: a second signal came.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        async with AsyncExitStack() as stack:
            stack.callback(self.assembly.close)
            if self._cluster is not None:
                await stack.enter_async_context(self._cluster)
            transport = await self._listen(stack)
            gc.collect()
            gc.freeze()  # what is there now stays; looking through it again and again costs a request a tenth of its time
            async with asyncio.TaskGroup() as tasks:
                background = [tasks.create_task(job, name=name) for name, job in self._jobs().items()]
                await self._stop.wait()
                await self._drain(transport)
                for task in background:
                    task.cancel()
        log.info("stopped")
        return 0

    def accept(self, outlet: Outlet) -> StreamHandler:
        """Answer one stream."""
        return Pump(outlet, self.assembly.director, self.assembly.wire, self._held)

    async def _listen(self, stack: AsyncExitStack) -> Transport:
        """Open the three ports, and say which they are."""
        options = self._options
        pages = ConfigPages(self._live_config).routes()
        gate = self._cluster.gate if self._cluster is not None else None
        admin = Admin(self._sources(), self.metrics, self.ring, self.health, pages, gate=gate)
        metrics_port = await admin.start(parts.host(options), options.metrics_port, tls=parts.admin_tls(options))
        stack.push_async_callback(admin.stop)
        kind = parts.transport_kind(options)
        probes = kind(parts.probe_options(options))
        health_port = await probes.start(None, self.health)
        stack.push_async_callback(probes.stop, 0)
        transport = kind(parts.transport_options(options, self.assembly.wire))
        grpc_port = await transport.start(self.accept, self.health if options.health_checking else None)
        stack.push_async_callback(transport.stop, 0)
        log.info(
            "serving",
            extra={
                "grpc_port": grpc_port,
                "grpc_health_port": health_port,
                "metrics_port": metrics_port,
                "tls": options.secure_serving,
                "config_hash": self._live_config.state().hash,
            },
        )
        return transport

    def _jobs(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """Return the background tasks by name."""
        return {
            **(self._cluster.jobs() if self._cluster is not None else {}),
            **({"discovery": self._discovery.run()} if self._discovery is not None else {}),
            **self._config_sources.jobs(self.controller),
            "configuration": self.controller.run(),
            "poller": self.assembly.poller.run(),
            "KV events": self.assembly.subscriptions.run(),
            "loop lag": loop_lag.watch(self.metrics.loop_lag.observe),
        }

    def _signalled(self, number: int) -> None:
        """Begin to drain at the first signal, leave at the second."""
        if self._stop.is_set():
            log.warning("second signal, leaving at once", extra={"signal": number})
            self._main.cancel()
        self._stop.set()

    async def _drain(self, transport: Transport) -> None:
        """Be not ready while still serving, so that gateways turn away in time; then let open streams end.

        A leader gives up the lead first and stays ready a little, so that there is no moment in which nobody is.
        """
        log.info("draining", extra={"seconds": self._options.drain_timeout_s, "in_flight": self.assembly.director.in_flight})
        left_s = self._options.drain_timeout_s
        if self._cluster is not None and await self._cluster.resign():
            await asyncio.sleep(HANDOVER_SHARE * left_s)
            left_s -= HANDOVER_SHARE * left_s
        self.health.set(Fact.DRAINING, True)
        await asyncio.sleep(left_s)
        await transport.stop(self._options.drain_timeout_s)

    def _make_cluster(self) -> Cluster | None:
        """Return our side of the API server, if the flags say that the endpoints are pods."""
        options = self._options
        if not options.pool_name and not options.endpoint_selector:
            return None
        cluster = Cluster(options, self, self.assembly.director.objectives, clock=time.monotonic, random=Random())
        self.health.on_remark(cluster.remarks)
        return cluster

    def _make_discovery(self) -> FileDiscovery | None:
        """Return who reads the list of endpoints, if there is one."""
        settings = self.assembly.plan.discovery
        if (settings is None) == (self._cluster is None):
            raise ConfigError(
                "say in one way where the endpoints are: --pool-name, --endpoint-selector, or a file-discovery plugin here",
                "dataLayer.discovery",
            )
        return None if settings is None else FileDiscovery(Path(settings.path), watch=settings.watch_file, found=self.found)

    def lost(self, reason: str) -> None:
        """There is no pool, or none any more."""
        self.health.set(Fact.POOL_SYNCED, False, reason=reason)
        self._apply(())

    def found(self, endpoints: Sequence[Endpoint]) -> None:
        """Take the list of endpoints as it is now."""
        self._apply(endpoints)
        self.health.set(Fact.POOL_SYNCED, True)

    def elected(self, leads: bool, holder: str) -> None:
        """Be ready only while we lead; whoever is told to stop hands over before (`_drain`)."""
        if not self._stop.is_set():
            self.health.set(Fact.LEADER, leads, reason=f"{holder} leads" if holder else "nobody leads")

    def _apply(self, endpoints: Sequence[Endpoint]) -> None:
        """Have the pool consist of these."""
        changes = self.pool.apply(tuple(endpoints), time.monotonic())
        self.metrics.keep_endpoints({one.name for one in self.pool.snapshot().endpoints if one is not None})
        log.info(
            "endpoints",
            extra={
                "added": len(changes.added),
                "removed": len(changes.removed),
                "reborn": len(changes.reborn),
                "refused": changes.refused,
            },
        )

    def _watched(self) -> Iterator[Watched]:
        """Yield how everything is followed in the API server."""
        if self._cluster is not None:
            yield from self._cluster.watched()
        yield from self._config_sources.watched()

    def _sources(self) -> Sources:
        return Sources(
            snapshot=self.pool.snapshot,
            clock=time.monotonic,
            strategies=lambda: tuple(self.assembly.strategies.driven.values()),
            config=self._live_config.state,
            watched=self._watched,
            candidacies=self._cluster.candidacies if self._cluster is not None else tuple,
            pool_name=self._options.pool_name,
            saturation=self.assembly.director.saturation,
            untokenized=lambda: self.assembly.untokenized,
            bodies_held=lambda: self._held.held,
            poll_errors=lambda: {cause.value: count for cause, count in self.assembly.poller.errors.items()},
        )
