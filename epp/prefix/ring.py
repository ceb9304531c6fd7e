"""Consistent hashing with bounded loads, as functions of columns.

Rendezvous hashing (Thaler and Ravishankar, 1998): every endpoint's score for a key is a hash of both, and the scores in
descending order are the key's *permutation*: the first is its home, the others are where it overflows to, in this order at any
load. An endpoint that joins or leaves moves only the keys it is first for. Nothing is kept: every replica of the picker
computes the same.

The bound (Mirrokni, Thorup, Zadimoghaddam, arXiv 1608.01350): with m requests in flight over n endpoints, this one counted,
none takes a request that brings it over `ceil(c * m / n)`. For c >= 1 somebody is always under it, and since the i-th choice is
taken only when the first i are full, no key ever spreads over more than ceil(n / c) endpoints.
"""

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from epp.model.match import FloatColumn, IntColumn
from epp.model.snapshot import Snapshot

HashColumn = NDArray[np.uint64]

LOAD_FACTOR = 1.25
LOAD_FLOOR = 2
"""Requests every endpoint may have whatever the bound: with fewer requests than endpoints the bound is 1 or 2, and a lone second
request would already be sent away from its home."""

_MEMO = "ring.name_hashes"
_PARTITION_MIN = 64
"""Fewer are sorted as a whole."""


def name_hashes(snapshot: Snapshot) -> HashColumn:
    """Return a hash of every endpoint's name, by slot; computed once per membership.

    By name, not by slot or address: it is what replicas agree on, and what stays when an endpoint comes back.
    """
    found: HashColumn | None = snapshot.memo.get(_MEMO)
    if found is None:
        names = [endpoint.name if endpoint is not None else "" for endpoint in snapshot.endpoints]
        found = snapshot.memo[_MEMO] = np.array([xxh3_64_intdigest(name.encode()) for name in names], np.uint64)
    return found


def scores(key: int, hashes: HashColumn, weights: FloatColumn | None = None) -> HashColumn | FloatColumn:
    """Return how well each endpoint goes with a key: the finalizer of splitmix64 over both hashes.

    Without its last step, which changes only low bits, and it is the high ones that decide.

    Args:
        key: 64-bit hash of what is to be placed.
        hashes: one 64-bit hash per endpoint.
        weights: how many keys an endpoint gets in proportion to the others; all equal when None.

    Cost: O(n); 6 us for 10, 8 us for 1000.
    """
    mixed = hashes ^ np.uint64(key)
    mixed ^= mixed >> 30
    mixed *= 0xBF58476D1CE4E5B9
    mixed ^= mixed >> 27
    mixed *= 0x94D049BB133111EB
    if weights is None:
        return mixed
    # -w / ln(u) for u uniform in (0, 1): the highest is w's with probability w / sum(w).
    uniform = ((mixed >> 11).astype(np.float64) + 0.5) * 2.0**-53
    return -weights / np.log(uniform)


def order(rated: HashColumn | FloatColumn) -> IntColumn:
    """Return the permutation of a key, home first, as indexes into what `scores` returned. Cost: O(n log n); 40 us for 1000."""
    return np.argsort(rated)[::-1]


def bound(in_flight: int, endpoints: int, *, load_factor: float = LOAD_FACTOR, floor: int = LOAD_FLOOR) -> int:
    """Return how many requests an endpoint may have, `max(floor, ceil(load_factor * in_flight / endpoints))`.

    Args:
        in_flight: requests of all eligible endpoints, the one to be placed counted.
        endpoints: how many are eligible; at least 1.
        load_factor: at least 1; taken to the thousandth, in whole numbers, since a rounding error would raise the ceiling by one.
        floor: lower limit of the result; 0 for none.
    """
    return max(floor, -(-round(load_factor * 1000) * in_flight // (1000 * endpoints)))


def choices(rated: HashColumn | FloatColumn, loads: IntColumn, cap: int, most: int) -> IntColumn:
    """Return the first `most` of a key's permutation that may take one more request, in its order.

    Args:
        rated: what `scores` returned.
        loads: requests in flight per endpoint, without the one to be placed.
        cap: what `bound` returned.
        most: how many to return; the others are not sorted.

    Cost: O(n); 5 us for 10, 12 us for 1000.
    """
    free = np.flatnonzero(loads < cap)
    best = rated[free]
    if len(free) > max(most, _PARTITION_MIN):
        top = np.argpartition(best, len(free) - most)[len(free) - most :]
        free, best = free[top], best[top]
    return free[order(best)][:most]
