"""The demo from start to end: a fleet of stand-ins once, then for each strategy a fresh picker and Envoy, and the same workload.

Called by the command line. Everything it starts is a process of its own and is stopped when it leaves, whatever the reason; what it
cannot start, or what dies underneath it, is shown with the end of its log.
"""

import asyncio
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from epp.demo.options import DemoOptions
from epp.demo.show import Counting, Run, Screen
from epp.demo.strategies import config
from epp.errors import LaunchError
from epp.testing.load_client import LoadClient, Result
from epp.testing.stack import MODEL, Fleet, Gateway, cpu_s
from epp.testing.summary import summarize
from epp.testing.workload import example, paced, size

SERVER_ARGUMENTS = ("--kv-events", "--pad-metrics", "--blocks", "180", "--prompt-scale", "16")
"""A cache of 2,900 tokens, a third of what the workload shares; each token with the weight of 16, so that short prompts cost what
long ones do."""
KNOWN_TIMEOUT_S = 10.0
REASONS = 3


def run(options: DemoOptions) -> int:
    """Show the product at work.

    Returns:
        0, or 1 when a process could not be started or requests failed.
    """
    screen = Screen()
    with tempfile.TemporaryDirectory(prefix="epp-demo-") as directory, _terminated_like_interrupted():
        try:
            return _Demo(options, screen, Path(directory)).run()
        except LaunchError as error:
            print(f"epp: {error}", file=sys.stderr)
            return 1


class _Demo:
    def __init__(self, options: DemoOptions, screen: Screen, directory: Path) -> None:
        self._options = options
        self._screen = screen
        self._directory = directory
        count = round(options.seconds * options.rate)
        self._workload = paced(example(options.seed, count), options.rate)

    def run(self) -> int:
        options, screen = self._options, self._screen
        screen.say(f"Starting {options.endpoints} model servers without models; then, for each strategy, a picker and an Envoy.")
        runs: list[Run] = []
        with Fleet(self._directory, options.endpoints, SERVER_ARGUMENTS) as fleet, ExitStack() as kept:
            for strategy in options.strategies:
                kept.close()  # the strategy before
                fleet.reset()
                setup = config(strategy, fleet.tokenizer)
                gateway = kept.enter_context(Gateway(fleet, setup, self._directory / strategy))
                runs.append(self._measure(strategy, fleet, gateway))
            screen.table(runs)
            screen.reasons(runs)
            failed = any(one.summary.errors for one in runs)
            if failed:
                self._show_logs(fleet, gateway)
            if options.keep:
                screen.addresses(gateway, options.strategies[-1])
                signal.pause()
        return 1 if failed else 0

    def _measure(self, strategy: str, fleet: Fleet, gateway: Gateway) -> Run:
        gateway.picker.wait_until(gateway.knows_every_cache, KNOWN_TIMEOUT_S, "it follows the caches of all servers")
        before_s = cpu_s(gateway.picker.pid)
        with self._screen.counting(strategy, size(self._workload)) as counting:
            results = asyncio.run(self._send(gateway, counting))
        spent_s = cpu_s(gateway.picker.pid) - before_s
        _check_alive(fleet, gateway)
        return Run(
            strategy=strategy,
            summary=summarize(results, len(fleet.servers)),
            picker_cpu_s=spent_s,
            decisions=_telling(gateway.admin("/decisions?limit=200")["decisions"]),
        )

    async def _send(self, gateway: Gateway, counting: Counting) -> list[Result]:
        return await LoadClient(gateway.base, MODEL, lambda _: counting.one_more()).run(self._workload)

    def _show_logs(self, fleet: Fleet, gateway: Gateway) -> None:
        """Requests failed and nobody died: what the processes said last."""
        for child in (gateway.picker, gateway.envoy.child, *(server.child for server in fleet.servers)):
            if child.tail():
                self._screen.say(f"\n{child.name} said:\n{child.tail()}")


def _telling(decisions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a few decisions of different endpoints, those first that had something to go by."""
    chosen: dict[str, dict[str, Any]] = {}
    for decision in sorted(decisions, key=lambda one: -one["strategy"]["matched_tokens"]):
        chosen.setdefault(decision["endpoint"]["name"], decision)
    return list(chosen.values())[:REASONS]


def _check_alive(fleet: Fleet, gateway: Gateway) -> None:
    """Raise LaunchError, with its log, if a process has ended."""
    for child in (gateway.picker, gateway.envoy.child, *(server.child for server in fleet.servers)):
        if child.exit_code is not None:
            raise LaunchError(f"{child.name} ended with code {child.exit_code}\n{child.tail()}")


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Make SIGTERM raise KeyboardInterrupt too, so that both ends stop everything."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
