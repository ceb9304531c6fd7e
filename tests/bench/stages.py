"""Where the microseconds of a decision go: the functions it passes through, timed from within.

Each row is the median time that one function takes by itself, what it calls of the others taken off. The clock is read at both
ends of every function, which makes the sum some 10 us more than a decision takes, and it is wall time, where the median leaves
out the moments in which the machine did something else.
"""

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from epp.director import Director
from epp.extproc import pump
from epp.extproc.session import Session
from epp.parsers.select import Parsers
from epp.pool.load import Ledger
from epp.prefix.approximate import Approximate
from epp.prefix.blocks import Blocks
from epp.prefix.chain import Chain
from epp.prefix.consistent_hash import ConsistentHash
from epp.prefix.index import PrefixIndex
from epp.scheduling.pickers.max_score import MaxScorePicker
from epp.scheduling.profile import Profile
from epp.scheduling.scorers.marginal_cost import MarginalCostScorer
from epp.telemetry.metrics import Metrics
from epp.telemetry.sheets import DecisionRing
from tests.bench.decision import Outlet, bodies, build_director, messages_of
from tests.bench.frame import Row, show

STAGES: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
    ("pump", pump.Pump, ("receive",)),
    ("codec: decode", pump, ("decode",)),
    ("session", Session, ("receive",)),
    ("director: around the decision", Director, ("schedule",)),
    ("parser: body to request", Parsers, ("parse",)),
    ("director: the decision's own steps", Director, ("_decide",)),
    ("chain: prepare, match, record", Chain, ("prepare", "match", "record")),
    ("hash of the prompt's blocks", Blocks, ("keys",)),
    ("approximate: match, record", Approximate, ("match", "record")),
    ("index: match", PrefixIndex, ("match",)),
    ("index: record", PrefixIndex, ("record",)),
    ("consistent-hash: count prefixes", ConsistentHash, ("match", "record")),
    ("profile: clamp, add up, sheet", Profile, ("run",)),
    ("marginal-cost scorer", MarginalCostScorer, ("score",)),
    ("picker", MaxScorePicker, ("pick",)),
    ("ledger: advance, reserve", Ledger, ("advance", "reserve")),
    ("series", Metrics, ("decided",)),
    ("ring of decisions", DecisionRing, ("decided",)),
    ("codec: encode", pump, ("encode",)),
)


class Clock:
    """Time spent in each stage during one message."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, int] = defaultdict(int)
        self._inner: list[int] = []

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, its time noted under `stage`."""
        inner, now = self._inner, time.perf_counter_ns

        def run(*arguments: object, **named: object) -> object:
            inner.append(0)
            start = now()
            try:
                return function(*arguments, **named)
            finally:
                took = now() - start
                self.spent[stage] += took - inner.pop()
                if inner:
                    inner[-1] += took

        return run


@contextmanager
def instrumented() -> Iterator[Clock]:
    """Have every stage timed."""
    clock = Clock()
    with ExitStack() as stack:
        for stage, owner, names in STAGES:
            for name in names:
                stack.enter_context(patch.object(owner, name, clock.timed(stage, getattr(owner, name))))
        yield clock


def stages_us(size: int, endpoints: int, *, rounds: int) -> dict[str, float]:
    """Return the median microseconds of each stage, for requests of `size` bytes; the first two rounds warm the index."""
    director, requests = build_director(endpoints), [messages_of(body, lean=False) for body in bodies(size)]
    taken: defaultdict[str, list[int]] = defaultdict(list)
    with instrumented() as clock:
        for count in range(rounds + 2):
            for messages in requests:
                stream = pump.Pump(Outlet(), director)
                for message in messages[:-1]:
                    stream.receive(message)
                clock.spent.clear()
                stream.receive(messages[-1])
                if count >= 2:
                    for stage, spent in clock.spent.items():
                        taken[stage].append(spent)
                stream.end()
    return {stage: statistics.median(taken[stage]) / 1000 for stage, _, _ in STAGES if taken[stage]}


def measure(*, quick: bool = False) -> list[Row]:
    """Return a row for each stage; `quick` proves that it runs, its figures mean little."""
    rows = []
    for size, endpoints in ((2_000, 10), (2_000, 1000), (200_000, 10)):
        found = stages_us(size, endpoints, rounds=1 if quick else 10)
        what = f"{size // 1000} kB, {endpoints} endpoints"
        rows += [Row(name=f"{what}: {stage}", value=value) for stage, value in found.items()]
        rows.append(Row(name=f"{what}: sum", value=sum(found.values())))
    return rows


if __name__ == "__main__":
    print(show("Stages of a decision", measure(quick="--quick" in sys.argv)))
