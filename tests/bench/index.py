"""What it costs to hash a prompt, to ask who holds it, and to note where it went; for ten endpoints and for a thousand.

The floor of hashing is xxh3 over the same bytes in one call; the sum of the three steps has a target of its own. Bytes per entry
are measured by tracemalloc, flat churn is a unit test. Run: `python -m tests.bench.index`.
"""

import gc
import sys
import tracemalloc
from collections.abc import Callable
from itertools import cycle
from random import Random

from msgspec.structs import replace
from xxhash import xxh3_64_intdigest

from epp.model.request import InferenceRequest
from epp.model.snapshot import Snapshot
from epp.prefix.approximate import Approximate
from epp.prefix.blocks import Blocks
from epp.prefix.chain import Chain
from epp.prefix.consistent_hash import ConsistentHash
from epp.prefix.index import PrefixIndex
from epp.prefix.strategy import Strategy
from epp.testing.builders import build_endpoint, build_request, build_snapshot
from tests.bench.frame import Row, cpu_us, show

SIZES = {"2 kB": (2_000, 25.0), "20 kB": (20_000, 40.0), "200 kB": (200_000, 100.0)}
"""Bytes of a prompt, and the most that hashing, matching and recording it may take together, in microseconds."""
POOLS = (10, 1000)
CAPACITY_TOKENS = 500_000


def known(size: int, count: int) -> list[InferenceRequest]:
    """Return prompts of which every one shares its first half with all others, the rest with nobody."""
    random = Random(size)
    head = random.randbytes(size // 2)
    return [build_request(head + random.randbytes(size - size // 2)) for _ in range(count)]


def unseen(size: int, count: int) -> list[InferenceRequest]:
    """Return prompts that share nothing: the same text for as many tenants."""
    request = build_request(Random(size).randbytes(size))
    return [replace(request, cache_salt=str(tenant)) for tenant in range(count)]


def build_pool(endpoints: int) -> Snapshot:
    """Return a pool of so many idle endpoints."""
    members = [build_endpoint(index, address=f"10.0.{index // 250}.{index % 250 + 1}") for index in range(endpoints)]
    return build_snapshot(members, capacity_tokens=[CAPACITY_TOKENS] * endpoints)


def one_request(strategy: Strategy, requests: list[InferenceRequest], pool: Snapshot) -> Callable[[], None]:
    """Return a call that takes the next request through a strategy, to an endpoint in turn."""
    following, slots = cycle(requests), cycle(range(len(pool.endpoints)))

    def call() -> None:
        request = next(following)
        keys = strategy.prepare(request)
        strategy.match(keys, request, pool, pool.slots)
        strategy.record(keys, request, pool, next(slots), 0.0)

    for _ in range(len(pool.endpoints)):
        call()
    return call


def hashing(name: str, size: int, number: int) -> Row:
    """Return the row of hashing alone, beside the bare hash."""
    request, other = known(size, 2)
    blocks, data = Blocks(), request.prompt

    def hash_it() -> None:
        blocks.keys(request)
        blocks.keys(other)

    floor = cpu_us(lambda: xxh3_64_intdigest(data), number=number)
    return Row(name=f"hash, {name}", value=cpu_us(hash_it, number=number) / 2, floor=floor, floor_name="xxh3 in one call")


def bytes_per_entry(endpoints: int, paths: int) -> float:
    """Return what one block of one endpoint costs, when `endpoints` hold the same prompts."""
    random = Random(1)
    gc.collect()
    tracemalloc.start()
    try:
        index = PrefixIndex(Blocks().tokens)
        for _ in range(paths):
            keys = [random.getrandbits(64) for _ in range(30)]
            for slot in range(endpoints):
                index.record(keys, slot, CAPACITY_TOKENS * 100)
        return tracemalloc.get_traced_memory()[0] / index.entries
    finally:
        tracemalloc.stop()


def measure(quick: bool) -> list[Row]:
    """Return the rows: hash, match and record of one request. `quick`: from a handful of calls, without targets."""
    number = 3 if quick else 400
    rows: list[Row] = []
    for name, (size, target) in SIZES.items():
        rows.append(hashing(name, size, number))
        half, new = known(size, 8 if quick else 200), unseen(size, number * 5 + max(POOLS))
        for endpoints in POOLS:
            pool, blocks = build_pool(endpoints), Blocks()
            for label, strategy, requests, most in (
                ("approximate, half known", Approximate(blocks), half, target),
                ("approximate, all new", Approximate(blocks), new, target),
                ("consistent-hash", ConsistentHash(blocks), half, None),
                ("chain of both", Chain([Approximate(blocks), ConsistentHash(blocks)]), half, None),
            ):
                value = cpu_us(one_request(strategy, requests, pool), number=number)
                rows.append(Row(name=f"{label}, {name}, {endpoints} endpoints", value=value, target=None if quick else most))
    for endpoints, most_bytes in ((1, 200.0), (20, 20.0)):
        value = bytes_per_entry(endpoints, 20 if quick else 1000)
        name = f"memory of a block that {endpoints} endpoint(s) hold, each"
        rows.append(Row(name=name, unit="B", value=value, target=None if quick else most_bytes))
    return rows


if __name__ == "__main__":
    print(show("prefix index", measure(quick="--quick" in sys.argv)))
