"""Which endpoint holds which block, as one bitmask per block and tier, in lanes.

A *lane* is a bit of the masks, owned by one endpoint between two losses of its cache. When the cache is lost, the lane is retired
in one step: no match sees its bits any more, and they are swept away later, a bounded number per call, off the request path. Only
then is the lane given to another. `residency` writes, `accurate` matches.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from epp.model.match import FloatColumn

SWEEP_BLOCKS: Final = 512
"""Blocks of retired lanes that one call of `sweep` clears; about 100 us."""
TIER_WEIGHTS: Final = (1.0, 0.8, 0.25)
"""By `Tier`: what a token is worth that has to be brought back from there; llm-d's figure for the host, Dynamo's for storage."""

FEW_BITS: Final = 8
"""Up to here bits are visited one by one, beyond they are unpacked as a whole."""

Masks = dict[int, int]


@dataclass(slots=True)
class Held:
    """The blocks of one lane in one tier."""

    keys: dict[int, int] = field(default_factory=dict)
    """Engine handle -> our key."""
    again: dict[int, int] = field(default_factory=dict)
    """Handle -> how many times more it was stored: engines keep several physical blocks under one hash."""
    shared: dict[int, int] = field(default_factory=dict)
    """Key -> how many more handles have it."""


@dataclass(slots=True)
class Lane:
    """One bit, and what it stands for."""

    bit: int
    slot: int
    held: tuple[Held, Held, Held] = field(default_factory=lambda: (Held(), Held(), Held()))

    @property
    def mask(self) -> int:
        """The lane's bit in a mask."""
        return 1 << self.bit

    @property
    def blocks(self) -> int:
        """Blocks held, all tiers."""
        return sum(len(held.keys) for held in self.held)


class Lanes:
    """The masks of all endpoints."""

    def __init__(self) -> None:
        self.masks: tuple[Masks, Masks, Masks] = ({}, {}, {})
        """Per tier: key -> bits of the lanes that hold it."""
        self.alive = 0
        """Bits of the lanes in use."""
        self._slots = np.zeros(0, dtype=np.int64)
        self._free: list[int] = []
        self._retired: list[Lane] = []

    def open(self, slot: int) -> Lane:
        """Return a lane of its own for an endpoint."""
        if not self._free:
            self._free.append(len(self._slots))
            self._slots = np.append(self._slots, 0)
        lane = Lane(bit=self._free.pop(), slot=slot)
        self._slots[lane.bit] = slot
        self.alive |= lane.mask
        return lane

    def retire(self, lane: Lane) -> None:
        """The endpoint has gone or lost its cache. Constant time."""
        self.alive &= ~lane.mask
        if lane.blocks:
            self._retired.append(lane)
        else:
            self._free.append(lane.bit)

    def sweep(self, blocks_max: int = SWEEP_BLOCKS) -> bool:
        """Clear bits of retired lanes, at most `blocks_max`; return whether any are left."""
        while self._retired and blocks_max > 0:
            lane = self._retired[-1]
            blocks_max = self._sweep_lane(lane, blocks_max)
            if not lane.blocks:
                self._free.append(lane.bit)
                self._retired.pop()
        return bool(self._retired)

    def _sweep_lane(self, lane: Lane, blocks_max: int) -> int:
        """Return how many blocks may still be cleared."""
        for held, masks in zip(lane.held, self.masks, strict=True):
            while held.keys and blocks_max > 0:
                clear(masks, held.keys.popitem()[1], lane.mask)
                blocks_max -= 1
        return blocks_max

    def match(self, keys: Sequence[int], block_tokens: int, into: FloatColumn) -> None:
        """Raise `into`, a column over slots, to the tokens that each endpoint holds of a prompt, contiguous from its start.

        What lies in a slower tier counts less, and so does all behind it.
        """
        device, *slower = self.masks
        reached = self._depths(keys, (device,))
        worth = reached * TIER_WEIGHTS[0]
        used = [device]
        for masks, weight in zip(slower, TIER_WEIGHTS[1:], strict=True):
            used.append(masks)
            if masks:
                depths = self._depths(keys, used)
                worth += (depths - reached) * weight
                reached = depths
        found = np.flatnonzero(worth)
        where = self._slots[found]  # an endpoint has one lane in use, so no slot is there twice
        into[where] = np.maximum(into[where], worth[found] * block_tokens)

    def _depths(self, keys: Sequence[int], tiers: Sequence[Masks]) -> FloatColumn:
        """Return, per lane, how many of the first keys it holds in any of the tiers."""
        depths = np.zeros(len(self._slots))
        for depth, bits in walk(keys, tiers, self.alive):
            if bits.bit_count() > FEW_BITS:
                depths[members(bits, len(depths))] = depth
                continue
            left = bits
            while left:
                depths[(left & -left).bit_length() - 1] = depth
                left &= left - 1
        return depths

    @property
    def entries(self) -> int:
        """Distinct blocks, over all tiers."""
        return sum(map(len, self.masks))

    def check(self, lanes: Iterable[Lane]) -> None:
        """Assert that the masks are what these lanes, all that are in use, and the retired ones hold; for tests."""
        used = [*lanes, *self._retired]
        assert sorted([lane.bit for lane in used] + self._free) == list(range(len(self._slots)))
        assert self.alive == sum(lane.mask for lane in used) - sum(lane.mask for lane in self._retired)
        for tier, masks in enumerate(self.masks):
            expected: Masks = {}
            for lane in used:
                held = lane.held[tier]
                assert held.again.keys() <= held.keys.keys()
                for key in set(held.keys.values()):
                    expected[key] = expected.get(key, 0) | lane.mask
                for key, count in Counter(held.keys.values()).items():
                    assert held.shared.get(key, 0) == count - 1 or lane in self._retired
            assert masks == expected


def walk(keys: Sequence[int], tiers: Sequence[Masks], alive: int) -> list[tuple[int, int]]:
    """Return (depth, bits) for each depth, above 0, at which bits of `alive` are last found; every bit at most once.

    Cost: below 0.1 us per key, whatever the number of endpoints.
    """
    found = []
    get = tiers[0].get if len(tiers) == 1 else _Union(tiers).get
    for depth, key in enumerate(keys):
        still = alive & get(key, 0)
        if still != alive:
            if depth:
                found.append((depth, alive & ~still))
            if not still:
                return found
            alive = still
    if keys and alive:
        found.append((len(keys), alive))
    return found


@dataclass(frozen=True, slots=True)
class _Union:
    """The masks of several tiers, read as one."""

    tiers: Sequence[Masks]

    def get(self, key: int, nobody: int) -> int:
        """Return who holds a block in any tier."""
        holders = nobody
        for masks in self.tiers:
            holders |= masks.get(key, 0)
        return holders


def members(bits: int, length: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return a mask as a column of truths."""
    raw = np.frombuffer(bits.to_bytes((length + 7) // 8, "little"), dtype=np.uint8)
    return np.unpackbits(raw, count=length, bitorder="little").view(np.bool_)


def clear(masks: Masks, key: int, mask: int) -> None:
    """Take a lane's bit from a key, and the key with its last bit."""
    left = masks.get(key, 0) & ~mask
    if left:
        masks[key] = left
    else:
        masks.pop(key, None)
