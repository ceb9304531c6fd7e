"""The composition root: options and a configuration in, a running picker out. The only file that knows every package.

Reads from top to bottom as a story: build everything, start what listens, run the background tasks, wait for a signal, drain,
stop. A background task that dies takes the process down: half a picker is worse than none.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import uvloop

from epp.admin.server import Admin
from epp.config import EndpointPickerConfig, config_hash, dump, load
from epp.director import Director, Routing
from epp.discovery.file import FileDiscovery
from epp.errors import ConfigError
from epp.extproc.events import BodyMode
from epp.extproc.options import WireOptions
from epp.extproc.pump import Pump
from epp.flags import ServeOptions
from epp.model.endpoint import Endpoint
from epp.model.stream import Outlet, StreamHandler
from epp.parsers.select import Parsers
from epp.pool.engines import Engines
from epp.pool.state import PoolState
from epp.prefix.accurate import Accurate
from epp.prefix.chain import Chain
from epp.prefix.strategy import Strategy
from epp.scheduling.build import Plan, build
from epp.scheduling.producers.precise_prefix_cache import PrecisePrefixCacheProducer
from epp.scheduling.producers.prefix_chain import PrefixChainProducer
from epp.scheduling.registry import Registry
from epp.scrape.kv_subscriber import KvSubscriber
from epp.scrape.poller import Pace, Poller, Target
from epp.telemetry import logs, loop_lag
from epp.telemetry.health import Fact, HealthState
from epp.telemetry.metrics import Metrics
from epp.telemetry.observers import Observers
from epp.telemetry.sheets import DecisionRing
from epp.telemetry.state_metrics import ConfigState, Sources
from epp.tokenizer import Tokenizer
from epp.transport.base import Transport, TransportOptions
from epp.transport.tls import TlsOptions

log = logging.getLogger(__name__)

ANY_ADDRESS = "[::]"
"""IPv6 and IPv4; where there is no IPv6, that falls back to IPv4."""


def run(options: ServeOptions) -> int:
    """Serve until told to stop.

    Returns:
        0 after a drain.

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
    plan = build(load(_text(options)), Registry(allow_experimental=options.allow_experimental_plugins))
    for warning in plan.warnings:
        log.warning("configuration", extra={"doubt": warning})
    if options.ignored:
        log.info("flags without effect beside a file-listed pool", extra={"flags": ", ".join(options.ignored)})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(options, plan))


async def _serve(options: ServeOptions, plan: Plan) -> int:
    return await Picker(options, plan).serve()


def _text(options: ServeOptions) -> str:
    if options.config_file is not None:
        return options.config_file.read_text(encoding="utf-8")
    return options.config_text or ""


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
        self.strategies = build_strategies(plan)
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
        self._wire = wire_options(plan.config, options)
        self._stop = asyncio.Event()

    async def serve(self) -> int:
        """Start, run until a signal, drain, stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        async with AsyncExitStack() as stack:
            transport = await self._listen(stack)
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
        kind = transport_kind(options)
        probes = kind(probe_options(options))
        health_port = await probes.start(None, self.health)
        stack.push_async_callback(probes.stop, 0)
        transport = kind(transport_options(options))
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
            os._exit(128 + number)
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
        source, scrape = self._plan.metrics_source, self._plan.config.scrape
        busy_s = max(scrape.busy_interval_ms / 1000, self._options.refresh_metrics_interval_s)
        return Poller(
            self.pool,
            self._engines(),
            clock=time.monotonic,
            random=Random(),
            pace=Pace(
                busy_interval_s=busy_s,
                idle_interval_s=max(busy_s, scrape.idle_interval_ms / 1000),
                timeout_s=scrape.timeout_ms / 1000,
                page_bytes_max=scrape.page_bytes_max,
                concurrency_max=scrape.concurrency_max,
            ),
            target=Target(scheme=source.scheme, path=source.path, port=source.port),
        )

    def _engines(self) -> Engines:
        extractor = self._plan.metrics_extractor
        return Engines(extractor.engine_configs, default=extractor.default_engine, label=extractor.engine_label_key)

    def _sources(self) -> Sources:
        return Sources(
            snapshot=self.pool.snapshot,
            clock=time.monotonic,
            strategies=self.strategies.driven.values,
            config=lambda: self._config,
            poll_errors=lambda: {cause.value: count for cause, count in self._poller.errors.items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategies:
    """The strategies a plan comes to, by producer name."""

    all: Mapping[str, Strategy]
    driven: Mapping[str, Strategy]
    """Those the director drives: all but the members of the chain, which the chain drives."""


def build_strategies(plan: Plan) -> Strategies:
    """Return the strategies that the plan's producers make, empty."""
    built: dict[str, Strategy] = {}
    members: set[str] = set()
    for name, producer in plan.producers.items():
        if isinstance(producer, PrefixChainProducer):
            chain: Chain = producer.build_chain(built)
            built[name] = chain
            members.update(producer.chain)
        else:
            built[name] = producer.build()
    return Strategies(all=built, driven={name: one for name, one in built.items() if name not in members})


def wire_options(config: EndpointPickerConfig, options: ServeOptions) -> WireOptions:
    """Return how streams are spoken: the configuration's `server` and `limits`, and the flags that overrule them."""
    server = config.server
    return WireOptions(
        body_bytes_max=config.limits.body_bytes_max,
        mode_default=BODY_MODES[server.body_mode_default],
        mode_forced=None if server.body_mode_forced is None else BODY_MODES[server.body_mode_forced],
        skip_response_body=server.skip_response_body,
        emit_endpoint_scores=server.emit_endpoint_scores or options.emit_endpoint_scores,
        echo_headers=server.echo_headers,
    )


BODY_MODES = {
    "none": BodyMode.NONE,
    "streamed": BodyMode.STREAMED,
    "buffered": BodyMode.BUFFERED,
    "buffered-partial": BodyMode.BUFFERED_PARTIAL,
    "full-duplex": BodyMode.FULL_DUPLEX,
}


def transport_kind(options: ServeOptions) -> type[Transport]:
    """Return what carries streams; imported here, so that a picker without grpcio's does not pay for it."""
    if options.transport == "grpcio":
        from epp.transport.grpc_aio import GrpcAioTransport  # noqa: PLC0415

        return GrpcAioTransport
    from epp.transport.native import NativeTransport  # noqa: PLC0415

    return NativeTransport


def probe_options(options: ServeOptions) -> TransportOptions:
    """Return where and how to listen for probes."""
    return TransportOptions(host=options.bind or ANY_ADDRESS, port=options.grpc_health_port, tls=TlsOptions(secure=False))


def transport_options(options: ServeOptions) -> TransportOptions:
    """Return where and how to listen for streams."""
    return TransportOptions(
        host=options.bind or ANY_ADDRESS,
        port=options.grpc_port,
        tls=TlsOptions(
            secure=options.secure_serving,
            cert_path=str(options.cert_path or ""),
            reload=options.enable_cert_reload,
            min_version=options.tls_min_version,
        ),
        message_bytes_max=options.grpc_max_recv_msg_bytes,
    )
