"""All benches in one run, as tables: `python -m tests.bench [--quick] [name ...]`.

Exits with 1 when a target is missed, and lists what missed. The routing bench is a program of its own, since it takes long.
"""

import argparse
import importlib
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench.frame import Row, show

TITLES = {
    "picker": "The whole picker: CPU of its process, beside a bare server",
    "decision": "A decision without transport: last message of a request in, answer out",
    "stages": "Where the microseconds of a decision go",
    "wire": "The wire: messages in, answers out, without a decision",
    "parse": "Parsers: body to request",
    "index": "Prefix index: hash, match and record",
    "accurate": "Accurate strategy: events and matches",
    "pool": "Pool: ledger and metrics pages",
    "telemetry": "Being observed: series, ring, log",
    "transport": "Transport: CPU of the process beside a bare echo",
    "scrape": "Scraping idle endpoints",
}
"""In the order in which they run; those that have no module here are left out."""

# The arrays of a decision have one element per endpoint: threads of a linear algebra library would only disturb.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def names() -> list[str]:
    """Return the benches there are."""
    return [name for name in TITLES if (Path(__file__).parent / f"{name}.py").exists()]


def machine() -> str:
    """Return what was measured on, in one line."""
    model = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    load = os.getloadavg()[0]
    return f"{model}, {os.cpu_count()} cores, load {load:.1f}; Python {platform.python_version()}, {platform.platform()}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def run(name: str, *, quick: bool) -> list[Row]:
    """Return the rows of one bench."""
    rows: list[Row] = importlib.import_module(f"tests.bench.{name}").measure(quick=quick)
    return rows


def main(arguments: Sequence[str]) -> int:
    """Run the benches that are asked for, all without a name; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.partition("\n")[0])
    parser.add_argument("name", nargs="*", metavar="name", help=f"one of {', '.join(names())}; all without")
    parser.add_argument("--quick", action="store_true", help="prove that they run; the figures mean little")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.name) - set(names())):
        parser.error(f"no bench is named {', '.join(unknown)}")
    print(machine(), flush=True)
    missed = []
    for name in options.name or names():
        rows = run(name, quick=options.quick)
        print(f"\n{show(f'{TITLES[name]} ({name})', rows)}", flush=True)
        missed += [f"{name}: {row.name}" for row in rows if row.met is False]
    if missed:
        print("\nmissed:", *missed, sep="\n  ")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
