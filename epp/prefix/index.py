"""Which endpoint holds which block: one bitmask of endpoints per block key.

The approximate strategy records where prompts went and asks who holds a new one. What is protected: a match is anchored at
block 0 of every endpoint; memory is bounded per endpoint in tokens; no call does work that grows with the number of endpoints
or of entries.

Blocks form a tree, since a key stands for everything before it. An endpoint holds a *closed* part of it: whoever holds a block
holds its ancestors. That follows from the two ways the part changes: a record adds a path from the root, an eviction takes the
tail of a path. So the mask of a block is a subset of its parent's, the depth at which an endpoint falls out is found by
bisection, and the least recently used part can be kept per path instead of per block: an endpoint costs one bit per block, not
an entry.

    masks     key -> bitmask of lanes that hold it       parents   key -> key of the block before it
    ends      per lane: last key of every path it was sent, least recently used first -> number of blocks of the path
    forks     per lane: key -> how many references it has beyond the first, where a reference is a child held or an end here

A *lane* is a bit of the masks, lent to a slot. A forgotten slot gives its lane back at once and answers nothing from then on;
the bits it leaves in the masks are swept later, a few with every record, and only then is the lane lent again.
"""

from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence

import numpy as np

from epp.model.match import FloatColumn, IntColumn

SWEEP_BLOCKS = 64
"""Blocks a record cleans up beyond twice what it added: left by forgotten endpoints, or over a limit that has shrunk."""
KNOWN_MAX = 256
"""Sets of lanes whose slots are kept: with a thousand lanes at most 2 MB."""
BYTES_PER_KEY = 190
"""Most bytes a block costs, whoever holds it, beside the bits of its mask: key, mask and an entry in each of two dicts."""
BYTES_PER_PATH = 200
"""Most bytes an end or a fork costs."""
UNLIMITED = 1 << 62


class _Lane:
    """What one endpoint holds."""

    __slots__ = ("bit", "blocks", "ceiling", "ends", "forks", "slot", "tokens")

    def __init__(self, slot: int, index: int) -> None:
        self.slot = slot
        self.bit = 1 << index
        self.ends: OrderedDict[int, int] = OrderedDict()
        self.forks: dict[int, int] = {}
        self.blocks = 0
        self.tokens = 0
        self.ceiling = UNLIMITED
        """Tokens to shrink to before the capacity counts again."""

    def release(self, key: int) -> bool:
        """Drop one of several references to a block; return False when there is only one."""
        more = self.forks.get(key, 0)
        if more > 1:
            self.forks[key] = more - 1
        elif more:
            del self.forks[key]
        return more > 0


class PrefixIndex:
    """Block keys of every endpoint.

    Args:
        tokens: `tokens[n]` is what the first n blocks of a prompt stand for, 0 first.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = tokens
        self._masks: dict[int, int] = {}
        self._parents: dict[int, int] = {}
        self._lanes: dict[int, _Lane] = {}
        self._live = 0
        self._slots: list[int] = []
        self._slot_column = np.zeros(0, np.int64)
        self._known: dict[int, IntColumn] = {}
        self._free: list[int] = []
        self._retired: deque[_Lane] = deque()

    def record(self, keys: Sequence[int], slot: int, capacity_tokens: int) -> None:
        """Note that an endpoint has been sent a prompt, and evict what it no longer has room for, least recently used tails first.

        What an endpoint holds never grows beyond the capacity; when the capacity itself has shrunk, every record evicts some more.

        Cost: O(log blocks) for what is known there already, O(1) per new block (0.15 us), amortized O(1) per block evicted.
        """
        if not keys:
            return
        lane = self._lanes.get(slot) or self._lend(slot)
        held, before = self._held(keys, lane.bit), lane.tokens
        self._touch(keys, held, lane)
        self._add(keys, held, lane)
        work = SWEEP_BLOCKS + 2 * (len(keys) - held)
        limit = min(capacity_tokens, lane.ceiling)
        if lane.tokens > limit:
            self._evict(lane, max(limit, before), UNLIMITED)
            self._evict(lane, limit, work)
        if lane.tokens <= lane.ceiling:
            lane.ceiling = UNLIMITED
        while self._retired and work > 0:
            work = self._sweep(work)

    def match(self, keys: Sequence[int], width: int) -> FloatColumn | None:
        """Return how many tokens of a prompt each slot holds, a column of `width`; None when nobody holds the first block.

        Cost: O(log blocks) per distinct depth at which endpoints fall out, whether ten or a thousand of them do.
        """
        if not keys or not self._masks.get(keys[0], 0) & self._live:
            return None
        column = np.zeros(width)
        for depth, lanes in self._falls(keys):
            column[self._slots_of(lanes)] = self._tokens[depth]
        return column

    def held(self, keys: Sequence[int], slot: int) -> int:
        """Return how many leading blocks of a prompt one endpoint holds. Cost: O(log blocks)."""
        lane = self._lanes.get(slot)
        return 0 if lane is None else self._held(keys, lane.bit)

    def shed(self, slot: int, keep_ratio: float) -> None:
        """Give up the least recently used part of what an endpoint holds, down to `keep_ratio` of its tokens.

        Done step by step by the records that follow. Cost: O(1).
        """
        lane = self._lanes.get(slot)
        if lane is not None:
            lane.ceiling = int(lane.tokens * keep_ratio)

    def forget(self, slot: int) -> None:
        """Give up everything an endpoint holds. The slot may be used for another at once.

        What it leaves is swept by the records that follow, also after a whole pool has gone: each sweeps more than it adds, so that
        no more waits than was held at once. Cost: O(1).
        """
        lane = self._lanes.pop(slot, None)
        if lane is None:
            return
        self._live ^= lane.bit
        self._retired.append(lane)

    @property
    def keys(self) -> int:
        """Distinct blocks, those not yet swept included."""
        return len(self._masks)

    @property
    def entries(self) -> int:
        """(block, endpoint) pairs. Cost: O(endpoints)."""
        return sum(lane.blocks for lane in self._lanes.values())

    @property
    def bytes(self) -> int:
        """Memory, an upper estimate. Cost: O(endpoints)."""
        paths = sum(len(lane.ends) + len(lane.forks) for lane in (*self._lanes.values(), *self._retired))
        return len(self._masks) * (BYTES_PER_KEY + len(self._slots) // 7) + paths * BYTES_PER_PATH

    def tokens(self, slot: int | None = None) -> int:
        """Return the tokens believed cached in one endpoint, or in all of them. Cost: O(endpoints) for all."""
        if slot is None:
            return sum(lane.tokens for lane in self._lanes.values())
        lane = self._lanes.get(slot)
        return 0 if lane is None else lane.tokens

    def check(self) -> None:
        """Assert that the structure is sound; for tests. Cost: O(everything)."""
        assert self._live == sum(lane.bit for lane in self._lanes.values())
        assert self._masks.keys() == self._parents.keys()
        assert all(self._masks.values())
        for slot, lane in self._lanes.items():
            assert lane.slot == slot == self._slots[lane.bit.bit_length() - 1]
            self._check_lane(lane)
        used = {lane.bit.bit_length() - 1 for lane in (*self._lanes.values(), *self._retired)}
        assert used.isdisjoint(self._free)
        assert used | set(self._free) == set(range(len(self._slots)))

    def _check_lane(self, lane: _Lane) -> None:
        """Assert that what a lane holds is closed, counted right and reachable from its ends."""
        held = {key for key, mask in self._masks.items() if mask & lane.bit}
        depths: dict[int, int] = {}
        references = dict.fromkeys(held, 0)
        for end, depth in lane.ends.items():
            references[end] += 1
            key = end
            for level in range(depth, 0, -1):
                assert depths.setdefault(key, level) == level
                key = self._parents[key]
            assert key == 0
        assert depths.keys() == held
        for key in held:
            if depths[key] > 1:
                references[self._parents[key]] += 1
        assert all(references.values())
        assert lane.forks == {key: count - 1 for key, count in references.items() if count > 1}
        assert lane.blocks == len(held)
        assert lane.tokens == sum(self._tokens[depth] - self._tokens[depth - 1] for depth in depths.values())

    def _held(self, keys: Sequence[int], bit: int) -> int:
        masks = self._masks
        return bisect_left(keys, True, key=lambda key: not masks.get(key, 0) & bit)

    def _falls(self, keys: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Yield (blocks held, lanes that hold exactly so many), shallow first; those that hold nothing are left out."""
        masks, live = self._masks, self._live
        depth, alive, last = 0, masks.get(keys[0], 0) & live, masks.get(keys[-1], 0) & live
        while alive != last:
            now = alive
            depth = bisect_left(keys, True, lo=depth + 1, key=lambda key: masks.get(key, 0) & live != now)
            alive = masks.get(keys[depth], 0) & live
            yield depth, now ^ alive
        if last:
            yield len(keys), last

    def _slots_of(self, lanes: int) -> IntColumn:
        """Return the slots of the bits set. The same sets come again and again, so the last ones are kept."""
        known = self._known.get(lanes)
        if known is not None:
            return known
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        raw = np.frombuffer(lanes.to_bytes((len(self._slots) + 7) // 8, "little"), np.uint8)
        bits = np.unpackbits(raw, bitorder="little", count=len(self._slots))
        slots = self._known[lanes] = self._slot_column[bits.view(np.bool_)]
        return slots

    def _lend(self, slot: int) -> _Lane:
        """Return a new lane for a slot, the lowest that is free."""
        if self._free:
            index = min(self._free)
            self._free.remove(index)
            self._slots[index] = slot
        else:
            index = len(self._slots)
            self._slots.append(slot)
        self._slot_column = np.array(self._slots, np.int64)
        self._known.clear()
        lane = self._lanes[slot] = _Lane(slot, index)
        self._live |= lane.bit
        return lane

    def _touch(self, keys: Sequence[int], held: int, lane: _Lane) -> None:
        """Make the path of `keys` the most recently used one. A path that it goes on from is no longer one of its own."""
        end, ends = keys[-1], lane.ends
        if held == len(keys):
            if end not in ends:
                lane.forks[end] = lane.forks.get(end, 0) + 1
        elif held:
            tip = keys[held - 1]
            if ends.pop(tip, None) is None:
                lane.forks[tip] = lane.forks.get(tip, 0) + 1
        ends[end] = len(keys)
        ends.move_to_end(end)

    def _add(self, keys: Sequence[int], held: int, lane: _Lane) -> None:
        """Set the lane's bit from block `held` on."""
        masks, parents, bit = self._masks, self._parents, lane.bit
        parent = keys[held - 1] if held else 0
        for key in keys[held:]:
            mask = masks.get(key)
            if mask is None:
                masks[key] = bit
                parents[key] = parent
            else:
                masks[key] = mask | bit
            parent = key
        lane.blocks += len(keys) - held
        lane.tokens += self._tokens[len(keys)] - self._tokens[held]

    def _evict(self, lane: _Lane, limit: int, work: int) -> None:
        """Take tails off the least recently used paths until the lane fits into `limit`, or about `work` blocks are gone."""
        while lane.tokens > limit and work > 0:
            end, depth = lane.ends.popitem(last=False)
            work -= max(1, self._cut(lane, end, depth, limit, work))

    def _cut(self, lane: _Lane, key: int, depth: int, limit: int, work: int) -> int:
        """Take blocks off the end of one path while nothing else refers to them; return how many."""
        cut = 0
        while depth and not lane.release(key):
            if lane.tokens <= limit or cut == work:
                lane.ends[key] = depth
                lane.ends.move_to_end(key, last=False)
                break
            lane.tokens -= self._tokens[depth] - self._tokens[depth - 1]
            lane.blocks -= 1
            key = self._clear(key, lane.bit)
            depth -= 1
            cut += 1
        return cut

    def _clear(self, key: int, bit: int) -> int:
        """Take one lane off a block, the block off the index when it was the last; return the key of its parent."""
        mask = self._masks[key] ^ bit
        if mask:
            self._masks[key] = mask
            return self._parents[key]
        del self._masks[key]
        return self._parents.pop(key)

    def _sweep(self, work: int) -> int:
        """Clear up to `work` blocks of the lane forgotten first, which is free after its last. Returns what is left of the work."""
        lane = self._retired[0]
        while lane.ends and work > 0:
            key, depth = lane.ends.popitem()
            work -= 1
            while depth and self._masks.get(key, 0) & lane.bit:
                if work <= 0:
                    lane.ends[key] = depth
                    break
                key = self._clear(key, lane.bit)
                depth -= 1
                work -= 1
        if not lane.ends:
            self._retired.popleft()
            self._free.append(lane.bit.bit_length() - 1)
        return work - 1  # a lane costs something, too
