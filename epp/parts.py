"""What a plan and the flags come to, part by part: settings of the configuration as options of the packages that take them.

Called by `app` when it puts a picker together; pure but for the files that certificates are read from.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import methodcaller
from ssl import SSLContext

from epp.config import EndpointPickerConfig, Scrape
from epp.extproc.events import BodyMode
from epp.extproc.options import WireOptions
from epp.flags import ServeOptions
from epp.prefix.chain import Chain
from epp.prefix.strategy import Strategy
from epp.scheduling.api import Producer
from epp.scheduling.build import Plan
from epp.scheduling.producers.prefix_chain import PrefixChainProducer
from epp.scheduling.settings import MetricsDataSource
from epp.scrape.page_tls import PageTls
from epp.scrape.poller import Pace, Target
from epp.sockets import ANY_ADDRESS
from epp.transport.base import Transport, TransportOptions
from epp.transport.tls import TlsOptions, page_context

BODY_MODES = {
    "none": BodyMode.NONE,
    "streamed": BodyMode.STREAMED,
    "buffered": BodyMode.BUFFERED,
    "buffered-partial": BodyMode.BUFFERED_PARTIAL,
    "full-duplex": BodyMode.FULL_DUPLEX,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategies:
    """The strategies a plan comes to, by producer name."""

    all: Mapping[str, Strategy]
    driven: Mapping[str, Strategy]
    """Those the director drives: all but the members of the chain, which the chain drives."""


def build_strategies(plan: Plan, build: Callable[[Producer], Strategy] = methodcaller("build")) -> Strategies:
    """Return the strategies of the plan's producers.

    Args:
        plan: the configuration.
        build: returns the strategy of a producer that is no chain: a new one, or one that is there already.
    """
    built: dict[str, Strategy] = {}
    members: set[str] = set()
    for name, producer in plan.producers.items():
        if isinstance(producer, PrefixChainProducer):
            chain: Chain = producer.build_chain(built)
            built[name] = chain
            members.update(producer.chain)
        else:
            built[name] = build(producer)
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
        served_header=server.served_header,
    )


def transport_kind(options: ServeOptions) -> type[Transport]:
    """Return what carries streams; imported here, so that grpcio is not paid for where it is not used."""
    if options.transport == "grpcio":
        from epp.transport.grpc_aio import GrpcAioTransport  # noqa: PLC0415

        return GrpcAioTransport
    from epp.transport.native import NativeTransport  # noqa: PLC0415

    return NativeTransport


def host(options: ServeOptions) -> str:
    """Return where all three ports listen."""
    return options.bind or ANY_ADDRESS


def probe_options(options: ServeOptions) -> TransportOptions:
    """Return where and how to listen for probes."""
    return TransportOptions(host=host(options), port=options.grpc_health_port, tls=TlsOptions(secure=False))


def transport_options(options: ServeOptions, wire: WireOptions) -> TransportOptions:
    """Return where and how to listen for streams. A whole body must fit in what a stream may have queued for its peer."""
    return TransportOptions(
        host=host(options),
        port=options.grpc_port,
        tls=TlsOptions(
            secure=options.secure_serving,
            cert_path=str(options.cert_path or ""),
            reload=options.enable_cert_reload,
            min_version=options.tls_min_version,
        ),
        message_bytes_max=options.grpc_max_recv_msg_bytes,
        outlet_bytes_max=2 * wire.body_bytes_max,
    )


def admin_tls(options: ServeOptions) -> SSLContext | None:
    """Return how the admin port is secured; None: it is not.

    Raises:
        ConfigError: a file cannot be used.
    """
    directory = options.metrics_cert_dir
    return page_context(directory, options.metrics_client_ca_file) if directory is not None else None


def pace(scrape: Scrape, options: ServeOptions) -> Pace:
    """Return how often endpoints are asked; the flag is a floor for the file."""
    busy_s = max(scrape.busy_interval_ms / 1000, options.refresh_metrics_interval_s)
    return Pace(
        busy_interval_s=busy_s,
        idle_interval_s=max(busy_s, scrape.idle_interval_ms / 1000),
        timeout_s=scrape.timeout_ms / 1000,
        page_bytes_max=scrape.page_bytes_max,
        concurrency_max=scrape.concurrency_max,
    )


def target(source: MetricsDataSource) -> Target:
    """Return where on an endpoint its metrics are."""
    return Target(scheme=source.scheme, path=source.path, port=source.port, tls=_page_tls(source))


def _page_tls(source: MetricsDataSource) -> PageTls | None:
    """Return how the connections to the endpoints' metrics are secured; None for plain HTTP."""
    if source.scheme != "https":
        return None
    return PageTls(
        verify=not source.insecure_skip_verify,
        ca_path=source.ca_cert_path,
        cert_path=source.client_cert_path,
        key_path=source.client_key_path,
    )
