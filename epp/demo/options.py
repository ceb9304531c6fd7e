"""The flags of `epp demo`."""

import argparse
from dataclasses import dataclass
from importlib.util import find_spec

from epp.demo.strategies import STRATEGIES
from epp.errors import ConfigError

NEEDED = ("envoy", "envoy_data_plane", "rich")
"""Packages of the extra `standalone`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What the demo was asked for."""

    strategies: tuple[str, ...] = tuple(STRATEGIES)
    endpoints: int = 3
    seconds: float = 11.0
    """Length of the workload, for each strategy."""
    rate: float = 9.0
    """Requests per second."""
    seed: int = 1
    keep: bool = False


def add_demo_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags to a parser."""
    default = DemoOptions()
    parser.add_argument(
        "--strategies", default=",".join(default.strategies), metavar="NAMES", help="which, in this order (%(default)s)"
    )
    parser.add_argument("--endpoints", type=int, default=default.endpoints, metavar="N", help="stand-in servers (%(default)s)")
    parser.add_argument("--seconds", type=float, default=default.seconds, help="of traffic for each strategy (%(default)s)")
    parser.add_argument("--rate", type=float, default=default.rate, help="requests per second (%(default)s)")
    parser.add_argument("--seed", type=int, default=default.seed, help="of the workload (%(default)s)")
    parser.add_argument("--keep", action="store_true", help="leave everything running at the end, until Ctrl-C")


def read_demo_flags(arguments: argparse.Namespace) -> DemoOptions:
    """Return the options of parsed arguments.

    Raises:
        ConfigError: a value makes no sense, or what the demo needs beside the picker is not installed.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ConfigError(f"{', '.join(missing)} not installed: the demo needs the extra `epp[standalone]`")
    strategies = tuple(name for name in arguments.strategies.split(",") if name)
    for name in strategies:
        if name not in STRATEGIES:
            raise ConfigError(f"no strategy {name!r}; there are: {', '.join(STRATEGIES)}", "--strategies")
    if not strategies:
        raise ConfigError(f"name at least one of: {', '.join(STRATEGIES)}", "--strategies")
    if not 1 <= arguments.endpoints <= 32:
        raise ConfigError("from 1 to 32", "--endpoints")
    if not 1 <= arguments.seconds * arguments.rate <= 10_000:
        raise ConfigError("from 1 to 10000 requests, that is --seconds times --rate", "--seconds")
    return DemoOptions(
        strategies=strategies,
        endpoints=arguments.endpoints,
        seconds=arguments.seconds,
        rate=arguments.rate,
        seed=arguments.seed,
        keep=arguments.keep,
    )
