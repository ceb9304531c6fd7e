"""What the pool costs a request: booking, snapshot, candidates, and taking over what was scraped."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from epp.model.endpoint import Endpoint
from epp.pool.engines import Sample
from epp.pool.state import PoolState
from tests.bench.frame import Row, cpu_us, show


def build_pool(endpoints: int) -> PoolState:
    """Return a pool of that many endpoints, each with some requests under way."""
    pool = PoolState()
    pool.apply(
        [Endpoint(name=f"default/e{index}", address=f"10.0.{index // 250}.{index % 250}", port=8000) for index in range(endpoints)],
        0.0,
    )
    for slot in range(endpoints):
        for _ in range(3):
            pool.ledger.reserve(slot, 500.0, 1.0)
    return pool


def rows_of(endpoints: int, *, number: int, floor: float) -> list[Row]:
    """Return the rows of one size of pool."""
    pool = build_pool(endpoints)
    ledger, ticks = pool.ledger, itertools.count()
    subset = [f"10.0.0.{index}:8000" for index in range(5)] + ["10.0.0.7"]
    sample = Sample(waiting=1.0, running=2.0, kv_usage=0.5, block_tokens=16, blocks=1000)

    def book() -> None:
        now_s = 2.0 + next(ticks) * 0.001
        handle = ledger.reserve(3, 500.0, now_s)
        ledger.first_token(handle, now_s + 0.0004)
        ledger.release(handle, now_s + 0.0008)

    def book_lean() -> None:
        now_s = 1e6 + next(ticks) * 0.001
        ledger.released(ledger.reserve(5, 5.0, now_s), now_s)

    def cost(call: Callable[[], object]) -> float:
        return cpu_us(call, number=number)

    whole = Row(name="reserve, first token, release", value=cost(book), floor=floor, floor_name="writing 21 elements", target=10)
    rows = [
        whole,
        Row(name="reserve, released (lean)", value=cost(book_lean), target=10),
        Row(name="snapshot", value=cost(lambda: pool.snapshot(2e6)), target=1),
        Row(name="candidates, subset of 6", value=cost(lambda: pool.candidates(pool.snapshot(), subset)), target=5),
        Row(name="taking over a sample", value=cost(lambda: pool.update(4, sample, 3.0)), target=5),
    ]
    ledger.check()
    return [replace(row, name=f"{row.name}: {endpoints} endpoints") for row in rows]


def measure(quick: bool = False) -> list[Row]:
    """Return the rows; `quick` is for the test suite."""
    number = 200 if quick else 20_000
    column = np.zeros(16)

    def write_columns() -> None:
        for _ in range(3 * 7):  # what three calls of the ledger write
            column[3] = 1.0

    floor = cpu_us(write_columns, number=number)
    return [row for endpoints in (10, 100, 1000) for row in rows_of(endpoints, number=number, floor=floor)]


if __name__ == "__main__":
    print(show("pool", measure()))
