"""Small functions of columns that several plugins share."""

import numpy as np

from epp.model.match import BoolColumn, FloatColumn


def least_is_best(values: FloatColumn) -> FloatColumn:
    """Return `(max - v) / (max - min)`: 1 for the smallest, 0 for the largest, and 1 for all where all are equal."""
    high = values.max()
    spread = high - values.min()
    return np.ones_like(values) if spread <= 0 else (high - values) / spread


def fresh_or_worst(values: FloatColumn, age_s: FloatColumn, stale_s: float) -> FloatColumn:
    """Return the values, those older than `stale_s` replaced by the largest fresh one (0 when none is fresh).

    An endpoint that stopped answering must not be chosen for the load it had when it still did, nor a silent one for having none.
    """
    stale = age_s > stale_s
    if not stale.any():
        return values
    fresh = values[~stale]
    return np.where(stale, fresh.max() if len(fresh) else 0.0, values)


def bits(mask: int, length: int) -> BoolColumn:
    """Return a bitmask of slots as a column of `length` elements: element i is bit i."""
    octets = np.frombuffer(mask.to_bytes((length + 7) // 8, "little"), dtype=np.uint8)
    return np.unpackbits(octets, count=length, bitorder="little").view(np.bool_)
