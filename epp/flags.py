"""The flags of `epp serve`: the reference's names and defaults, so that its deployments carry over.

A boolean flag may be given bare, as `--flag=false` or as `--flag false`; a duration as `50ms`, `30s`, `2m`; a size as `10MiB`.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from epp.errors import ConfigError
from epp.kube.objects import LEGACY_POOL_GROUP, POOL_GROUP
from epp.sockets import parse_port

KUBERNETES_ONLY = ("ha-enable-leader-election", "metrics-endpoint-auth")
"""Accepted, and said to have no effect beside a file-listed pool."""

WITHOUT_EFFECT = (
    "refresh-prometheus-metrics-interval",
    "metrics-staleness-threshold",
    "tracing",
    "enable-pprof",
    "enable-grpc-stream-metrics",
    "tls-cipher-suites",
    "grpc-max-send-msg-size",
    "zap-encoder",
    "zap-log-level",
    "zap-devel",
    "zap-stacktrace-level",
    "zap-time-encoding",
)
"""Flags of the reference whose subject does not exist here; accepted, and said to have no effect."""

TARGET_PORTS_MAX = 8
"""As InferencePool."""

_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")

REFRESH_S_MIN = 0.05
"""As the reference: an endpoint is never scraped more often than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What `epp serve` was asked for. Ports of 0 are chosen by the system and printed."""

    config_file: Path | None = None
    config_text: str | None = None
    config_map: str = ""
    """`name` or `name/entry` of a ConfigMap that is watched through the API server."""
    watch_config: bool = True
    """Take up what changes in the file or the ConfigMap."""
    grpc_port: int = 9002
    grpc_health_port: int = 9003
    metrics_port: int = 9090
    bind: str = ""
    """Address to listen on; empty means every one."""
    secure_serving: bool = True
    cert_path: Path | None = None
    enable_cert_reload: bool = False
    tls_min_version: str = ""
    metrics_cert_dir: Path | None = None
    """Directory of `tls.crt` and `tls.key` for the admin port; None: plain HTTP."""
    metrics_client_ca_file: Path | None = None
    """Authorities of which a client of the admin port has to show a certificate."""
    health_checking: bool = True
    refresh_metrics_interval_s: float = REFRESH_S_MIN
    drain_timeout_s: float = 30.0
    emit_endpoint_scores: bool = False
    disable_endpoint_subset_filter: bool = False
    allow_experimental_plugins: bool = False
    grpc_max_recv_msg_bytes: int = -1
    verbosity: int = 2
    log_format: str = "json"
    pool_name: str = ""
    """The InferencePool whose pods are the endpoints."""
    pool_namespace: str = ""
    """Of the pool, or of the pods; empty: found out (`epp.kube.access.own_namespace`)."""
    pool_group: str = POOL_GROUP
    endpoint_selector: Mapping[str, str] = field(default_factory=dict)
    """Labels of the pods that are the endpoints, where there is no pool object."""
    endpoint_target_ports: tuple[int, ...] = ()
    """Their ports."""
    leader_election: bool = False
    """Of several pickers have one elected; the others are not ready."""
    metrics_endpoint_auth: bool = True
    """Where the endpoints are pods: the admin port's pages want a token that the API server knows."""
    transport: str = "native"
    """What carries streams and health: `native` (our own HTTP/2) or `grpcio`, the reference that it is held against."""
    ignored: tuple[str, ...] = ()
    """Flags given that have no effect here."""


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as `1m30s`, `50ms` or plain `2` (seconds)."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)(h|ms|us|m|s)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 50ms, 30s or 1m30s")
    return sum(float(number) * units[unit] for number, unit in parts)


def parse_size(text: str) -> int:
    """Return the bytes of a size such as `10MiB`, `25MB` or plain `4194304`; empty or `-1` means no limit."""
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    if text in ("", "-1"):
        return -1
    found = re.fullmatch(r"(\d+)\s*([A-Za-z]*)", text)
    if found is None or found[2].upper() not in units:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 10MiB")
    return int(found[1]) * units[found[2].upper()]


def parse_flag(text: str) -> bool:
    """Return the truth of a boolean flag's value."""
    values = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return values[text.lower()]


def parse_name(text: str) -> str:
    """Return the name of an object or a namespace; empty for none."""
    if text and not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name that Kubernetes takes")
    return text


def parse_config_map(text: str) -> str:
    """Return `name` or `name/entry` of a ConfigMap."""
    name, slash, entry = text.partition("/")
    if not _NAME.fullmatch(name) or (slash and not re.fullmatch(r"[-._A-Za-z0-9]{1,253}", entry)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a ConfigMap as in epp-config or epp-config/config.yaml")
    return text


def parse_selector(text: str) -> Mapping[str, str]:
    """Return the labels of a selector such as `app=vllm,tier=gpu`."""
    labels: dict[str, str] = {}
    for item in text.split(","):
        key, equals, value = item.strip().partition("=")
        if not equals or not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value) or key in labels:
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of labels such as app=vllm,tier=gpu")
        labels[key] = value
    return labels


def parse_ports(text: str) -> tuple[int, ...]:
    """Return the ports of a list such as `8000,8001`."""
    ports = tuple(parse_port(item.strip()) for item in text.split(","))
    if 0 in ports:
        raise argparse.ArgumentTypeError("0 is not a port that can be listened on")
    return ports


def _verbosity(text: str) -> int:
    number = text.removeprefix("=")
    if not number.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a verbosity, 0 to 5")
    return int(number)


def _boolean(group: argparse._ArgumentGroup, name: str, default: bool | None, help_text: str) -> None:
    group.add_argument(name, type=parse_flag, nargs="?", const=True, default=default, metavar="BOOL", help=help_text)


def add_serve_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags to a parser."""
    default = ServeOptions()
    _add_configuration(parser)
    _add_kubernetes(parser, default)
    _add_ports(parser, default)
    _add_tls(parser)
    _add_running(parser)
    for name in WITHOUT_EFFECT:
        parser.add_argument(f"--{name}", nargs="?", const="true", help=argparse.SUPPRESS)


def _add_configuration(parser: argparse.ArgumentParser) -> None:
    config = parser.add_argument_group("configuration")
    config.add_argument("--config-file", type=Path, metavar="FILE", help="an EndpointPickerConfig")
    config.add_argument("--config-text", metavar="YAML", help="the same, inline")
    config.add_argument(
        "--config-map",
        type=parse_config_map,
        metavar="NAME[/ENTRY]",
        help="the same, of a ConfigMap that is watched",
    )
    _boolean(config, "--watch-config", True, "take up changes of the file and the ConfigMap without a restart (true)")
    _boolean(config, "--allow-experimental-plugins", False, "admit plugins marked experimental")


def _add_kubernetes(parser: argparse.ArgumentParser, default: ServeOptions) -> None:
    kubernetes = parser.add_argument_group("Kubernetes (with KUBECONFIG, or as the pod's service account)")
    kubernetes.add_argument("--pool-name", type=parse_name, metavar="NAME", default="", help="InferencePool to serve")
    kubernetes.add_argument(
        "--pool-namespace", type=parse_name, metavar="NAME", default="", help="of the pool or the pods ($NAMESPACE, own, default)"
    )
    kubernetes.add_argument(
        "--pool-group",
        choices=(POOL_GROUP, LEGACY_POOL_GROUP),
        default=default.pool_group,
        help="API group of the pool (%(default)s)",
    )
    kubernetes.add_argument(
        "--endpoint-selector", type=parse_selector, metavar="LABELS", default={}, help="instead of a pool: app=vllm,tier=gpu"
    )
    kubernetes.add_argument(
        "--endpoint-target-ports", type=parse_ports, action="extend", metavar="PORTS", help="of those pods: 8000,8001"
    )
    _boolean(kubernetes, "--ha-enable-leader-election", None, "of several, have one elected and be ready alone (false)")
    _boolean(kubernetes, "--metrics-endpoint-auth", None, "have who reads metrics and other pages show a token (true)")


def _add_ports(parser: argparse.ArgumentParser, default: ServeOptions) -> None:
    ports = parser.add_argument_group("ports")
    ports.add_argument("--grpc-port", type=parse_port, metavar="PORT", default=default.grpc_port, help="ext_proc (%(default)s)")
    ports.add_argument(
        "--grpc-health-port", type=parse_port, metavar="PORT", default=default.grpc_health_port, help="gRPC health (%(default)s)"
    )
    ports.add_argument(
        "--metrics-port", type=parse_port, metavar="PORT", default=default.metrics_port, help="metrics and decisions (%(default)s)"
    )
    ports.add_argument("--bind", default=default.bind, metavar="ADDRESS", help="address of all three (every one)")
    _boolean(ports, "--health-checking", True, "serve gRPC health on the ext_proc port too (true)")
    ports.add_argument(
        "--transport", choices=("native", "grpcio"), default=default.transport, help="what carries streams (%(default)s)"
    )
    ports.add_argument("--grpc-max-recv-msg-size", type=parse_size, default=-1, metavar="SIZE", help="such as 10MiB (no limit)")


def _add_tls(parser: argparse.ArgumentParser) -> None:
    tls = parser.add_argument_group("TLS")
    _boolean(tls, "--secure-serving", True, "TLS on the ext_proc port (true)")
    tls.add_argument("--cert-path", type=Path, metavar="DIR", help="directory of tls.crt and tls.key (self-signed without)")
    _boolean(tls, "--enable-cert-reload", False, "read the certificate again when it changes")
    tls.add_argument("--tls-min-version", default="", metavar="VERSION", help="VersionTLS12 or, native, VersionTLS13")
    tls.add_argument("--metrics-cert-dir", type=Path, metavar="DIR", help="the same for the metrics port (plain HTTP without)")
    tls.add_argument("--metrics-client-ca-file", type=Path, metavar="FILE", help="who reads metrics shows a certificate of these")


def _add_running(parser: argparse.ArgumentParser) -> None:
    running = parser.add_argument_group("running")
    running.add_argument(
        "--refresh-metrics-interval", type=parse_duration, default=0.05, metavar="TIME", help="of busy endpoints (50ms)"
    )
    running.add_argument("--drain-timeout", type=parse_duration, default=30.0, metavar="TIME", help="served on after SIGTERM (30s)")
    _boolean(running, "--emit-endpoint-scores", False, "put every candidate's score in the metadata")
    _boolean(running, "--disable-endpoint-subset-filter", False, "ignore the gateway's subset hint")
    running.add_argument(
        "-v",
        "--v",
        type=_verbosity,
        default=2,
        metavar="N",
        help="0 warnings, 1 and 2 decisions too, 3 to 5 everything (%(default)s)",
    )
    running.add_argument("--log-format", choices=("json", "text"), default="json", help="(%(default)s)")


def read_serve_flags(arguments: argparse.Namespace) -> ServeOptions:
    """Return the options of parsed arguments.

    Raises:
        ConfigError: two flags contradict each other.
    """
    if arguments.config_file is not None and arguments.config_text is not None:
        raise ConfigError("--config-file and --config-text exclude each other")
    if arguments.config_map and arguments.config_text is not None:
        raise ConfigError("--config-map and --config-text exclude each other")
    if arguments.metrics_client_ca_file is not None and arguments.metrics_cert_dir is None:
        raise ConfigError("--metrics-client-ca-file wants --metrics-cert-dir: certificates are shown over TLS only")
    target_ports = tuple(arguments.endpoint_target_ports or ())
    _check_target(arguments.pool_name, arguments.endpoint_selector, target_ports)
    kubernetes = bool(arguments.pool_name or arguments.endpoint_selector)
    without_effect = WITHOUT_EFFECT if kubernetes else (*KUBERNETES_ONLY, *WITHOUT_EFFECT)
    given: Sequence[str] = [name for name in without_effect if getattr(arguments, name.replace("-", "_")) is not None]
    return ServeOptions(
        config_file=arguments.config_file,
        config_text=arguments.config_text,
        config_map=arguments.config_map or "",
        watch_config=arguments.watch_config,
        grpc_port=arguments.grpc_port,
        grpc_health_port=arguments.grpc_health_port,
        metrics_port=arguments.metrics_port,
        bind=arguments.bind,
        secure_serving=arguments.secure_serving,
        cert_path=arguments.cert_path,
        enable_cert_reload=arguments.enable_cert_reload,
        tls_min_version=arguments.tls_min_version,
        metrics_cert_dir=arguments.metrics_cert_dir,
        metrics_client_ca_file=arguments.metrics_client_ca_file,
        health_checking=arguments.health_checking,
        refresh_metrics_interval_s=max(REFRESH_S_MIN, arguments.refresh_metrics_interval),
        drain_timeout_s=arguments.drain_timeout,
        emit_endpoint_scores=arguments.emit_endpoint_scores,
        disable_endpoint_subset_filter=arguments.disable_endpoint_subset_filter,
        allow_experimental_plugins=arguments.allow_experimental_plugins,
        grpc_max_recv_msg_bytes=arguments.grpc_max_recv_msg_size,
        verbosity=arguments.v,
        log_format=arguments.log_format,
        pool_name=arguments.pool_name,
        pool_namespace=arguments.pool_namespace,
        pool_group=arguments.pool_group,
        endpoint_selector=arguments.endpoint_selector,
        endpoint_target_ports=target_ports,
        leader_election=kubernetes and arguments.ha_enable_leader_election is True,
        metrics_endpoint_auth=arguments.metrics_endpoint_auth is not False,
        transport=arguments.transport,
        ignored=tuple(given),
    )


def _check_target(pool_name: str, selector: Mapping[str, str], ports: tuple[int, ...]) -> None:
    """Raise ConfigError if the flags do not say in one way which pods are the endpoints."""
    if pool_name and selector:
        raise ConfigError("--pool-name and --endpoint-selector exclude each other")
    if selector and not 1 <= len(ports) <= TARGET_PORTS_MAX:
        raise ConfigError(f"--endpoint-selector wants --endpoint-target-ports, 1 to {TARGET_PORTS_MAX} of them")
    if ports and not selector:
        raise ConfigError("--endpoint-target-ports belongs to --endpoint-selector; the ports of a pool are in the InferencePool")
    if len(set(ports)) != len(ports):
        raise ConfigError("--endpoint-target-ports names a port twice")
