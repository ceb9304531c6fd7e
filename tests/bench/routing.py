"""How well each strategy routes: the same traffic through a real Envoy to eight stand-ins, once per configuration.

    python -m tests.bench.routing [--quick] [--workload NAME] [--load 0.8] [--strategy NAME] [--seconds 40] [--json FILE]

Open-loop arrivals at a share of what the fleet could take under random placement. The first fifth of each run fills the caches and
is not counted. Configurations of one cell run one after another, so that what else the machine does hits them alike; a run during
which the machine was busier than `CPU_MAX` says so, since then it measures the machine.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import uvloop

from epp.demo.strategies import config
from epp.testing.load_client import LoadClient
from epp.testing.stack import MODEL, Fleet, Gateway, cpu_s
from epp.testing.summary import Summary, summarize
from epp.testing.workload import Conversation, paced
from tests.bench.routing_workloads import BLOCK_TOKENS, BLOCKS, SCALE, Hardware, capacity_rps, ideal_cached, workloads

LOADS = (0.5, 0.8, 1.1)
SECONDS = 40.0
WARM_SHARE = 0.2
CPU_MAX = 0.7
KNOWN_TIMEOUT_S = 15.0
OURS, THEIRS = ("approximate", "accurate"), "llm-d"

Configure = Callable[[Path], Mapping[str, Any]]
STRATEGIES: Mapping[str, Configure] = {
    "random": lambda tokenizer: config("random", tokenizer),
    "consistent-hash": lambda _: {"strategy": {"chain": ["consistent-hash"], "load": "marginal-cost"}},
    "approximate": lambda tokenizer: config("approximate", tokenizer),
    "accurate": lambda tokenizer: config("accurate", tokenizer),
    THEIRS: lambda _: {"strategy": {"chain": ["approximate"], "load": "llm-d"}},
}
"""`llm-d`: the approximate strategy with the reference's default weights (prefix 3, queue 2, KV cache 2; highest score wins)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One configuration under one load of one workload."""

    workload: str
    load: float
    strategy: str
    rps: float
    ideal_ratio: float
    """Prompt tokens that one endless cache would have had."""
    summary: Summary
    machine_ratio: float
    """How busy the machine was, all its cores, 0..1."""
    picker_cpu_ms: float
    """Of the picker, per request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which cells, how long."""

    workloads: Sequence[str]
    loads: Sequence[float]
    strategies: Sequence[str]
    seconds: float = SECONDS
    hardware: Hardware = field(default_factory=Hardware)
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """One workload under one load, the same for every configuration."""

    workload: str
    load: float
    rps: float
    conversations: Sequence[Conversation]


def run(plan: Plan, directory: Path, told: Callable[[Cell], None] = lambda _: None) -> list[Cell]:
    """Run the cells of a plan; return them in the order in which they ran.

    Args:
        plan: which.
        directory: for the files of the processes.
        told: called with every cell as it is done.

    Raises:
        LaunchError: a process does not come up.
    """
    cells = []
    arguments = ["--kv-events", "--pad-metrics", "--blocks", str(BLOCKS), "--block-tokens", str(BLOCK_TOKENS)]
    arguments += ["--prompt-scale", str(SCALE), "--time-scale", str(plan.hardware.time_scale)]
    with Fleet(directory, plan.hardware.servers, arguments) as fleet:
        for name in plan.workloads:
            capacity = _capacity(plan, name)
            for load in plan.loads:
                rps = load * capacity
                made = workloads()[name](Random(plan.seed), max(10, round(rps * plan.seconds)))
                traffic = Traffic(workload=name, load=load, rps=rps, conversations=paced(made, rps))
                for strategy in plan.strategies:
                    cells.append(_cell(fleet, directory, traffic, strategy))
                    told(cells[-1])
    return cells


def _capacity(plan: Plan, name: str) -> float:
    """Return what the fleet can take of a workload of about the length that the run will have: how much is shared depends on it."""
    number = 100
    for _ in range(2):
        capacity = capacity_rps(workloads()[name](Random(plan.seed), number), plan.hardware)
        number = max(10, round(capacity * plan.seconds))
    return capacity


def _cell(fleet: Fleet, directory: Path, traffic: Traffic, strategy: str) -> Cell:
    fleet.reset()
    with Gateway(fleet, STRATEGIES[strategy](fleet.tokenizer), directory / "gateway") as gateway:
        gateway.picker.wait_until(gateway.knows_every_cache, KNOWN_TIMEOUT_S, "it follows the caches of all servers")
        picker_s, machine = cpu_s(gateway.picker.pid), _machine()
        results = uvloop.run(LoadClient(gateway.base, MODEL).run(traffic.conversations))
        picker_s, (busy, total) = cpu_s(gateway.picker.pid) - picker_s, _machine()
    warm = round(len(results) * WARM_SHARE)
    ideal = list(ideal_cached(results))
    counted = [(result, cached) for result, cached in zip(results[warm:], ideal[warm:], strict=True) if not result.error]
    return Cell(
        workload=traffic.workload,
        load=traffic.load,
        strategy=strategy,
        rps=traffic.rps,
        ideal_ratio=sum(cached for _, cached in counted) / max(1, sum(result.prompt_tokens for result, _ in counted)),
        summary=summarize(results[warm:], len(fleet.servers)),
        machine_ratio=(busy - machine[0]) / max(1, total - machine[1]),
        picker_cpu_ms=picker_s / max(1, len(results)) * 1e3,
    )


def _machine() -> tuple[int, int]:
    """Return the ticks that all cores have been busy, and all they had. Linux only."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


COLUMNS = (
    *((name, width) for name, width in (("workload", 10), ("load", 4), ("strategy", 16), ("req", 5), ("err", 4))),
    *((name, 6) for name in ("hit", "ideal", "TTFT", "p50", "p95", "p99")),
    *((name, width) for name, width in (("gap", 5), ("p99", 5), ("E2E", 6), ("busiest", 7), ("CPU", 5), ("picker", 6))),
)
"""Headings and widths. Times in milliseconds; CPU is the machine's, picker its CPU per request."""
HEADING = " ".join(f"{name:<{width}}" if width >= 10 else f"{name:>{width}}" for name, width in COLUMNS)


def line(cell: Cell) -> str:
    """Return a cell as a line of the table."""
    summary = cell.summary
    ttft = (summary.ttft_mean_s, summary.ttft_p50_s, summary.ttft_p95_s, summary.ttft_p99_s)
    values = (
        cell.workload,
        f"{cell.load:.2f}",
        cell.strategy,
        str(summary.requests),
        str(summary.errors),
        f"{summary.cached_ratio:.1%}",
        f"{cell.ideal_ratio:.1%}",
        *(f"{value * 1e3:.0f}" for value in ttft),
        f"{summary.gap_mean_s * 1e3:.1f}",
        f"{summary.gap_p99_s * 1e3:.0f}",
        f"{summary.e2e_mean_s * 1e3:.0f}",
        f"{summary.busiest_ratio:.2f}",
        f"{cell.machine_ratio:.0%}" + ("!" if cell.machine_ratio > CPU_MAX else ""),
        f"{cell.picker_cpu_ms:.2f}",
    )
    shown = zip(values, COLUMNS, strict=True)
    return " ".join(f"{value:<{width}}" if width >= 10 else f"{value:>{width}}" for value, (_, width) in shown)


def verdicts(cells: Iterable[Cell]) -> list[str]:
    """Return, for each of ours in each cell, whether it holds what is aimed for.

    That is: first tokens earlier than by the reference's weights, in the mean and at the 99th percentile, and a hit ratio within 2
    points of the best.
    """
    by_cell: dict[tuple[str, float], dict[str, Cell]] = {}
    for cell in cells:
        by_cell.setdefault((cell.workload, cell.load), {})[cell.strategy] = cell
    said = []
    for (workload, load), row in by_cell.items():
        theirs = row.get(THEIRS)
        for ours in (row[name] for name in OURS if name in row and theirs is not None):
            assert theirs is not None
            mean_ratio = ours.summary.ttft_mean_s / theirs.summary.ttft_mean_s
            p99_ratio = ours.summary.ttft_p99_s / theirs.summary.ttft_p99_s
            behind = max(cell.summary.cached_ratio for cell in row.values()) - ours.summary.cached_ratio
            met = mean_ratio < 1 and p99_ratio < 1 and behind <= 0.02
            said.append(
                f"{workload:10} {load:4.2f} {ours.strategy:16} TTFT mean x{mean_ratio:.2f}, p99 x{p99_ratio:.2f} of {THEIRS}; "
                f"{behind * 100:4.1f} points of hits behind the best: {'met' if met else 'MISSED'}"
            )
    return said


def quick(directory: Path) -> list[Cell]:
    """Run one tiny cell of two configurations: what the tests run."""
    hardware = Hardware(servers=2, time_scale=1.0)
    plan = Plan(workloads=("groups",), loads=(0.5,), strategies=("random", "approximate"), seconds=3.0, hardware=hardware)
    return run(plan, directory)


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns 1 when a request failed."""
    known = workloads()
    parser = argparse.ArgumentParser(prog="python -m tests.bench.routing", description=__doc__.partition("\n")[0])
    parser.add_argument("--workload", action="append", choices=known, help="may be repeated (all that there are)")
    parser.add_argument("--load", action="append", type=float, help="share of capacity; may be repeated (0.5, 0.8, 1.1)")
    parser.add_argument("--strategy", action="append", choices=STRATEGIES, help="may be repeated (all)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of traffic per cell (%(default)s)")
    parser.add_argument("--time-scale", type=float, default=Hardware().time_scale, help="of the engines (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the cells there too")
    parser.add_argument("--quick", action="store_true", help="one tiny cell")
    parsed = parser.parse_args(arguments)
    print(HEADING, flush=True)
    with tempfile.TemporaryDirectory(prefix="epp-routing-") as directory:
        if parsed.quick:
            cells = quick(Path(directory))
            print("\n".join(map(line, cells)))
        else:
            plan = Plan(
                workloads=parsed.workload or tuple(known),
                loads=parsed.load or LOADS,
                strategies=parsed.strategy or tuple(STRATEGIES),
                seconds=parsed.seconds,
                hardware=Hardware(time_scale=parsed.time_scale),
                seed=parsed.seed,
            )
            cells = run(plan, Path(directory), lambda cell: print(line(cell), flush=True))
    print("\n".join(["", *verdicts(cells)]))
    if parsed.json is not None:
        parsed.json.write_text(json.dumps([asdict(cell) for cell in cells], indent=1) + "\n")
    return 1 if any(cell.summary.errors for cell in cells) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
