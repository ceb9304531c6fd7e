"""The composition root: options and a configuration in, a running picker out. The only file that knows every package.

Reads from top to bottom as a story: build everything, start what listens, run the background tasks, wait for a signal, drain,
stop. A background task that dies takes the process down: half a picker is worse than none.
"""

import asyncio
import gc
import logging
import signal
import time
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

import uvloop

from epp import parts
from epp.admin.server import Admin
from epp.config import config_hash, dump, load, load_file
from epp.director import Director, Routing
from epp.discovery.file import FileDiscovery
from epp.errors import ConfigError
from epp.extproc.pump import Pump
from epp.flags import ServeOptions
from epp.model.endpoint import Endpoint
from epp.model.stream import Outlet, StreamHandler
from epp.parsers.select import Parsers
from epp.pool.state import PoolState
from epp.prefix.accurate import Accurate
from epp.prefix.strategy import Strategy
from epp.scheduling.build import Plan, build
from epp.scheduling.producers.precise_prefix_cache import PrecisePrefixCacheProducer
from epp.scheduling.registry import Registry
from epp.scrape.kv_subscriber import KvSubscriber
from epp.scrape.poller import Poller
from epp.telemetry import logs, loop_lag
from epp.telemetry.health import Fact, HealthState
from epp.telemetry.metrics import Metrics
from epp.telemetry.observers import Observers
from epp.telemetry.sheets import DecisionRing
from epp.telemetry.state_metrics import ConfigState, Sources
from epp.tokenizer import Tokenizer
from epp.transport.base import Transport

log = logging.getLogger(__name__)

SECOND_SIGNAL_CODE = 130


def run(options: ServeOptions) -> int:
    """Serve until told to stop.

    Returns:
        0 after a drain, `SECOND_SIGNAL_CODE` when a second signal cut it short.

    Raises:
        ConfigError: the configuration cannot be used.
        OSError: a port cannot be bound.
    """
    flush = logs.configure(verbosity=options.verbosity, json=options.log_format == "json")
    try:
        return _run(options)
    finally:
        flush()


def _run(options: ServeOptions) -> int:
    config = load(options.config_text or "") if options.config_file is None else load_file(options.config_file)
    plan = build(config, Registry(allow_experimental=options.allow_experimental_plugins))
    for warning in plan.warnings:
        log.warning("configuration", extra={"doubt": warning})
    if options.ignored:
        log.info("flags without effect beside a file-listed pool", extra={"flags": ", ".join(options.ignored)})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(_serve(options, plan))
        except asyncio.CancelledError:
            return SECOND_SIGNAL_CODE
        except BaseExceptionGroup as group:  # of the task group; what a user can mend is said in one line, like anywhere else
            for error in group.exceptions:
                if isinstance(error, (ConfigError, OSError)):
                    raise error from None
            raise


async def _serve(options: ServeOptions, plan: Plan) -> int:
    return await Picker(options, plan).serve()


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


class Picker:
    """Everything one process is made of. Made on the event loop it will live on.

    Args:
        options: the flags.
        plan: the configuration.

    Raises:
        ConfigError: they do not fit together.
    """

    def __init__(self, options: ServeOptions, plan: Plan) -> None:
        limits = plan.config.limits
        self._options = options
        self._plan = plan
        self.health = HealthState()
        self.pool = PoolState(slots_max=limits.endpoints_max, requests_max=limits.requests_max)
        self.strategies = parts.build_strategies(plan)
        self.metrics = Metrics(time.monotonic)
        self.ring = DecisionRing(time.time, records_max=limits.decisions_kept)
        self._tokenizer = self._make_tokenizer()
        self.director = Director(
            routing=self._routing(),
            pool=self.pool,
            parsers=Parsers(plan.parsers),
            observer=Observers([self.metrics, self.ring, logs.DecisionLog()]),
            clock=time.monotonic,
            random=Random(),
            ignore_subset=options.disable_endpoint_subset_filter,
        )
        self._discovery = self._make_discovery()
        self._poller = self._make_poller()
        self._config = ConfigState(hash=config_hash(plan.config), generation=1, effective=dump(plan.config))
        self._wire = parts.wire_options(plan.config, options)
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
            if self._tokenizer is not None:
                stack.callback(self._tokenizer.close)
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
        return Pump(outlet, self.director, self._wire)

    async def _listen(self, stack: AsyncExitStack) -> Transport:
        """Open the three ports, and say which they are."""
        options = self._options
        admin = Admin(self._sources(), self.metrics, self.ring, self.health)
        metrics_port = await admin.start(options.bind or "0.0.0.0", options.metrics_port)
        stack.push_async_callback(admin.stop)
        kind = parts.transport_kind(options)
        probes = kind(parts.probe_options(options))
        health_port = await probes.start(None, self.health)
        stack.push_async_callback(probes.stop, 0)
        transport = kind(parts.transport_options(options, self._wire))
        grpc_port = await transport.start(self.accept, self.health if options.health_checking else None)
        stack.push_async_callback(transport.stop, 0)
        log.info(
            "serving",
            extra={
                "grpc_port": grpc_port,
                "grpc_health_port": health_port,
                "metrics_port": metrics_port,
                "tls": options.secure_serving,
                "config_hash": self._config.hash,
            },
        )
        return transport

    def _jobs(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """Return the background tasks by name."""
        jobs: dict[str, Coroutine[Any, Any, None]] = {
            "discovery": self._discovery.run(),
            "poller": self._poller.run(),
            "loop lag": loop_lag.watch(self.metrics.loop_lag.observe),
        }
        for name, producer in self._plan.producers.items():
            strategy = self.strategies.all[name]
            if isinstance(producer, PrecisePrefixCacheProducer) and isinstance(strategy, Accurate):
                subscriber = KvSubscriber(strategy, producer.ports)
                self._follow(subscriber)
                jobs[f"KV events of {name}"] = subscriber.run()
        return jobs

    def _follow(self, subscriber: KvSubscriber) -> None:
        """Have a subscriber know the endpoints, now and after every change."""
        self.pool.on_change(lambda _: subscriber.sync(self.pool.snapshot()))
        subscriber.sync(self.pool.snapshot())

    def _signalled(self, number: int) -> None:
        """Begin to drain at the first signal, leave at the second."""
        if self._stop.is_set():
            log.warning("second signal, leaving at once", extra={"signal": number})
            self._main.cancel()
        self._stop.set()

    async def _drain(self, transport: Transport) -> None:
        """Be not ready while still serving, so that gateways turn away in time; then let open streams end."""
        log.info("draining", extra={"seconds": self._options.drain_timeout_s, "in_flight": self.director.in_flight})
        self.health.set(Fact.DRAINING, True)
        await asyncio.sleep(self._options.drain_timeout_s)
        await transport.stop(self._options.drain_timeout_s)

    def _routing(self) -> Routing:
        plan = self._plan
        return Routing(
            profiles=plan.profiles,
            handler=plan.handler,
            strategies=self.strategies.driven,
            asked=self._asked(),
            default=plan.default_producer,
            tokenizer=self._tokenizer,
        )

    def _make_tokenizer(self) -> Tokenizer | None:
        """Return the tokenizer, if one is configured and some strategy would use the ids."""
        settings = self._plan.tokenizer
        if settings is None or not any(isinstance(one, Accurate) for one in self.strategies.all.values()):
            return None
        return Tokenizer.load(settings)

    def _asked(self) -> Mapping[str, Strategy]:
        """Return the strategies that plugins ask by name and the director does not drive."""
        names = {getattr(plugin, "prefix_match_info_producer_name", "") for plugin in self._plan.plugins.values()}
        return {name: self.strategies.all[name] for name in names if name and name not in self.strategies.driven}

    def _make_discovery(self) -> FileDiscovery:
        settings = self._plan.discovery
        if settings is None:
            raise ConfigError(
                "no pool: name a file-discovery plugin here; discovery by Kubernetes is not available yet", "dataLayer.discovery"
            )
        return FileDiscovery(Path(settings.path), watch=settings.watch_file, found=self._found)

    def _found(self, endpoints: Iterable[Endpoint]) -> None:
        """Take the list of endpoints as it is now."""
        changes = self.pool.apply(tuple(endpoints), time.monotonic())
        self.health.set(Fact.POOL_SYNCED, True)
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

    def _make_poller(self) -> Poller:
        return Poller(
            self.pool,
            self._plan.metrics_extractor.engines(),
            clock=time.monotonic,
            random=Random(),
            pace=parts.pace(self._plan.config.scrape, self._options),
            target=parts.target(self._plan.metrics_source),
        )

    def _sources(self) -> Sources:
        return Sources(
            snapshot=self.pool.snapshot,
            clock=time.monotonic,
            strategies=self.strategies.driven.values,
            config=lambda: self._config,
            poll_errors=lambda: {cause.value: count for cause, count in self._poller.errors.items()},
        )
