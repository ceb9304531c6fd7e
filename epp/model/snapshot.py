"""The pool at one moment, as columns over slots.

A *slot* is a small integer that an endpoint owns while it is in the pool; after the endpoint has gone and everybody has forgotten
it, the slot is given to another. Bit i of a bitmask and element i of a column belong to slot i. Columns are written by one owner
(`pool.state.PoolState`) on the event loop and read between two writes; readers never write them and never keep them over an await.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epp.model.endpoint import Endpoint, canonical
from epp.model.match import BoolColumn, FloatColumn, IntColumn


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """One array per fact, all of the same length (the slot capacity). Empty slots hold zeros."""

    live: BoolColumn
    """The slot has an endpoint that may be picked."""
    role: NDArray[np.int64]
    """Bits of `model.endpoint.Role`."""
    waiting: FloatColumn
    """Scraped: requests queued in the engine."""
    running: FloatColumn
    """Scraped: requests being decoded or prefilled."""
    kv_usage: FloatColumn
    """Scraped: share of the KV cache in use, 0..1."""
    scraped_s: FloatColumn
    """When the scraped values were read, monotonic seconds; -inf means never."""
    capacity_tokens: FloatColumn
    """Tokens the engine's KV cache holds, as it reports; 0 means unknown."""
    block_tokens: IntColumn
    """Tokens of one engine block, as it reports; 0 means unknown."""
    requests: IntColumn
    """Ours: requests sent there and not yet over."""
    tokens: FloatColumn
    """Ours: uncached prompt tokens of those requests."""
    backlog: FloatColumn
    """Ours: uncached prompt tokens of requests whose first token has not come, the head of the queue not yet drained."""
    backlog_count: IntColumn
    """Ours: how many requests `backlog` stands for."""
    decoding: IntColumn
    """Ours: requests not yet over whose first token has come, as far as we see it (in lean mode we do not)."""
    foreign: FloatColumn
    """Requests seen waiting at the last scrape beyond those `backlog_count` then stood for, as average prompts, in tokens."""
    foreign_decoding: FloatColumn
    """Requests seen running at the last scrape beyond those that `decoding` and `backlog_count` then stood for."""
    head_tokens: FloatColumn
    """Ours: `own` of the request at the head of the prefill queue; 0 when there is none."""
    head_since_s: FloatColumn
    """Ours: when that request became the head, monotonic seconds."""
    rate: FloatColumn
    """Ours: prefill rate learned from first tokens, tokens per second, already cut by its safety factor; never 0."""
    speed: FloatColumn
    """Ours: the same with the fixed cost of a request counted in as tokens: what endpoints are compared by; 0 while unknown."""


@dataclass(slots=True, kw_only=True, eq=False)
class Snapshot:
    """The pool between two changes of membership, with live numbers.

    The object is replaced when membership or labels change (`version` goes up). Between two replacements it is the same object,
    equal only to itself, so that a cache can be keyed by it. What is marked *live* below, and every element of the columns, moves
    all the time: the pool's owner writes it in place, nobody else does.
    """

    version: int
    endpoints: tuple[Endpoint | None, ...]
    """By slot; None for an empty slot."""
    slots: IntColumn
    """The slots that are live, ascending."""
    columns: Columns
    by_authority: Mapping[str, int]
    """`ip:port` -> slot."""
    by_address: Mapping[str, tuple[int, ...]]
    """bare `ip` -> slots."""
    adapters: Mapping[str, tuple[int, int]]
    """Live: LoRA adapter name -> (bitmask of slots where it runs, bitmask where it waits)."""
    adapter_room: int
    """Live: bitmask of slots that have a free adapter place."""
    utilization_ratio: float = 0.0
    """Live: share of the last seconds in which the endpoints had prefill backlog, mean over the pool, 0..0.9."""
    average_own: float = 0.0
    """Live: uncached prompt tokens of a request, running mean over the pool; 0 before the first."""
    memo: dict[object, Any] = field(default_factory=dict)
    """Columns derived from labels and roles, by whoever derives them; lives as long as the membership they were derived from."""

    def has(self, slot: int, endpoint: Endpoint) -> bool:
        """Return whether a slot is still this engine's; what else is said of it may have changed."""
        there = self.endpoints[slot]
        return there is endpoint or (there is not None and there.life == endpoint.life)

    def named(self, items: Iterable[str]) -> IntColumn:
        """Return the slots of the endpoints that are called so, ascending.

        Args:
            items: `ip:port`, `[ipv6]:port` or a bare `ip` for all its ports; what is not in the pool is ignored.

        Cost: about 0.3 us for each item.
        """
        slots: set[int] = set()
        for item in items:
            name = item if item in self.by_authority else canonical(item)
            slot = self.by_authority.get(name)
            slots.update(self.by_address.get(name, ()) if slot is None else (slot,))
        return np.array(sorted(slots), dtype=np.int64)
