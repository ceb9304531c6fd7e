"""What the demo prints: progress on a terminal, plain lines elsewhere, and at the end a table and the reasons."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from epp.demo.strategies import STRATEGIES
from epp.testing.stack import MODEL, Gateway
from epp.testing.summary import Summary
from epp.testing.workload import SYSTEM


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One strategy's turn."""

    strategy: str
    summary: Summary
    picker_cpu_s: float
    decisions: Sequence[dict[str, Any]]
    """A few of the picker's own, as its admin port has them."""


class Counting:
    """Counts requests as they come back."""

    def __init__(self, progress: Progress | None, task: Any) -> None:  # noqa: ANN401 - rich's TaskID
        self._progress = progress
        self._task = task

    def one_more(self) -> None:
        """A request has come back."""
        if self._progress is not None:
            self._progress.advance(self._task)


class Screen:
    """Where the demo is shown.

    Args:
        console: rich's; decides itself whether it is a terminal.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def counting(self, strategy: str, requests: int) -> Iterator[Counting]:
        """Show how many of a strategy's requests have come back; on something that is no terminal, that it has begun."""
        name = f"{strategy:16}"
        if not self._console.is_terminal:
            self.say(f"{name} {requests} requests: {STRATEGIES[strategy]}")
            yield Counting(None, None)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console) as progress:
            yield Counting(progress, progress.add_task(name, total=requests))

    def table(self, runs: Sequence[Run]) -> None:
        """Print the comparison."""
        table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        table.add_column("strategy", no_wrap=True)
        for heading in ("requests", "cached", "TTFT p50", "TTFT p95", "spread", "picker CPU"):
            table.add_column(heading, justify="right", no_wrap=True)
        for run in runs:
            summary = run.summary
            table.add_row(
                run.strategy,
                f"{summary.requests}" + (f" ({summary.errors} failed)" if summary.errors else ""),
                f"{summary.cached_ratio:.1%}",
                f"{summary.ttft_p50_s * 1e3:.0f} ms",
                f"{summary.ttft_p95_s * 1e3:.0f} ms",
                f"{summary.busiest_ratio:.2f}",
                f"{run.picker_cpu_s / max(1, summary.requests) * 1e3:.2f} ms",
            )
        self._console.print(table)
        self.say("cached      share of all prompt tokens, as the servers counted them")
        self.say("TTFT        time to the first token, as the client saw it")
        self.say("spread      prompt tokens of the busiest server over the mean")
        self.say("picker CPU  per request, with all that it streams, and reading the servers' metrics\n")

    def reasons(self, runs: Sequence[Run]) -> None:
        """Print where a few requests went, and why, as the picker explains it; a prompt is shown as a short hash, never as text."""
        for run in runs:
            if run.decisions:
                self.say(run.strategy)
            for decision in run.decisions:
                self.say(f"  {decision['why']}")

    def addresses(self, gateway: Gateway, strategy: str) -> None:
        """Print where everything is and how to talk to it."""
        admin = f"http://127.0.0.1:{gateway.admin_port}"
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "A line about rivers, please"}]
        body = json.dumps({"model": MODEL, "max_tokens": 16, "messages": messages})
        self.say(f"\nStill running, with the strategy {strategy}, until Ctrl-C:")
        self.say(f"  gateway    {gateway.base}")
        self.say(f"  decisions  {admin}/decisions   pool  {admin}/pool   metrics  {admin}/metrics")
        self.say(f"  Envoy      http://{gateway.envoy.admin_host}:{gateway.envoy.admin_port}")
        self.say(f"\ncurl -s {gateway.base}/v1/chat/completions -H 'content-type: application/json' -d '{body}'")
