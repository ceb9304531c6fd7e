"""What every bench shares: how a cost is taken, and how a row is shown beside its floor.

A cost is CPU time of this process for one call, the best of several rounds, since noise on a shared machine only ever adds. A row
is compared with a *floor* taken in the same run (the raw library call it rests on) or with a stated target, never with another day.
"""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a bench. `value` and `floor` share `unit`; `target` is the most that `value` should be, in `unit`."""

    name: str
    value: float
    unit: str = "us"
    floor: float | None = None
    floor_name: str = ""
    ratio_target: float | None = None
    """The most that value / floor should be."""
    target: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the targets hold; None when the row has none."""
        verdicts = []
        if self.target is not None:
            verdicts.append(self.value <= self.target)
        if self.ratio_target is not None and self.floor:
            verdicts.append(self.value / self.floor <= self.ratio_target)
        return all(verdicts) if verdicts else None


def cpu_us(call: Callable[[], object], *, number: int = 1000, rounds: int = 5) -> float:
    """Return microseconds of CPU for one call: the best round of `rounds`, each of `number` calls."""
    best = float("inf")
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            start = time.process_time_ns()
            for _ in range(number):
                call()
            best = min(best, (time.process_time_ns() - start) / number / 1000)
    finally:
        gc.enable()
    return best


def show(title: str, rows: Sequence[Row]) -> str:
    """Return the rows as a table of plain text."""
    lines = [title, f"  {'what':58} {'value':>10} {'floor':>10} {'ratio':>7}  target"]
    for row in rows:
        floor = f"{row.floor:10.2f}" if row.floor is not None else " " * 10
        ratio = f"{row.value / row.floor:7.2f}" if row.floor else " " * 7
        wanted = [f"<= {row.target:g} {row.unit}"] if row.target is not None else []
        wanted += [f"<= {row.ratio_target:g} x"] if row.ratio_target is not None else []
        verdict = {None: "", True: "met", False: "MISSED"}[row.met]
        lines.append(f"  {row.name:58} {row.value:10.2f} {floor} {ratio}  {', '.join(wanted)} {verdict} {row.floor_name}".rstrip())
    return "\n".join(lines)
