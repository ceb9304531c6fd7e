"""What one endpoint holds: its events applied to the shared masks.

`kv_stream` feeds it events in the engine's order; it keeps the map from the engine's block handles to our keys, which later events
need to name a parent or a victim. It protects the index from an engine's duplicates (several physical blocks under one hash), from
the partial groups of hybrid models, and from growing without bound.
"""

from dataclasses import dataclass, field
from typing import Final, assert_never

from epp.prefix.adoption import RecentPrompts
from epp.prefix.kv_events import Cleared, Event, Removed, Stored, Tier
from epp.prefix.lanes import Held, Lane, Lanes, Masks, clear
from epp.prefix.token_keys import chain, namespace

BLOCKS_MAX: Final = 1_000_000
"""Blocks of one endpoint in one tier: 16 million tokens in blocks of 16. Beyond, an engine does not report removals."""
ADAPTERS_MAX: Final = 1024
"""Adapter names kept, over all endpoints; those beyond are never matched."""
PARKED_MAX: Final = 256
"""Stored events of one endpoint that wait for their parent."""


@dataclass(slots=True)
class Counts:
    """What happened on the event stream of one endpoint, since it is known. Exported as metrics."""

    batches: int = 0
    stored: int = 0
    """Blocks."""
    removed: int = 0
    """Blocks."""
    cleared: int = 0
    orphans: int = 0
    """Stored events dropped because their parent is unknown: the health signal of the index."""
    adopted: int = 0
    """Stored events whose parent was unknown, but clear from a prompt that was sent there."""
    skipped: int = 0
    """Events of unknown types, of sparse groups, or of a second dense group."""
    conflicts: int = 0
    """Handles that were stored again with other tokens."""
    foreign: int = 0
    """Batches of a data-parallel rank that is another endpoint."""
    decode_errors: int = 0
    duplicates: int = 0
    gaps: int = 0
    restarts: int = 0
    replays: int = 0
    replay_failures: int = 0
    buffer_drops: int = 0
    lag_s: float = 0.0
    """Now minus the engine's clock at the last batch; both clocks' skew is in it."""


@dataclass(slots=True)
class Parking:
    """Stored events whose parent is not known yet, by that parent."""

    waiting: dict[int, list[Stored]] = field(default_factory=dict)
    parents: dict[int, list[int]] = field(default_factory=dict)
    """Block -> the parents under which it waits."""
    count: int = 0

    def add(self, event: Stored) -> bool:
        """Keep an event; False when the place is full."""
        if self.count >= PARKED_MAX or event.parent is None:
            return False
        self.waiting.setdefault(event.parent, []).append(event)
        for handle in event.handles:
            self.parents.setdefault(handle, []).append(event.parent)
        self.count += 1
        return True

    def take(self, handle: int) -> list[Stored]:
        """Return and drop the events that waited for a block."""
        events = self.waiting.pop(handle, [])
        for event in events:
            for block in event.handles:
                parents = self.parents[block]
                parents.remove(handle)
                if not parents:
                    del self.parents[block]
        self.count -= len(events)
        return events

    def cancel(self, handle: int) -> int:
        """A block was removed before its event could be applied: drop that event, return how many were dropped."""
        return sum(len(self.take(parent)) for parent in set(self.parents.get(handle, ())))


class Residency:
    """The blocks of one endpoint.

    Only one *reference group* is indexed: the first dense cache group that stores, or one with a lower index should it store later.
    All groups of an engine share block hashes, so another group, or another block size, would count the same blocks twice. Which it
    is, and how large its blocks are, is settled anew whenever all is forgotten: the engine may have restarted with others.

    Args:
        lanes: the masks that all endpoints share.
        slot: whose blocks these are.
        adapters: adapter names seen, shared by all endpoints.
    """

    def __init__(self, lanes: Lanes, slot: int, adapters: set[str]) -> None:
        self.counts = Counts()
        self.parking: Parking | None = None
        """Where events wait for their parent; None: they are dropped as orphans."""
        self.recent = RecentPrompts()
        """Prompts sent there, while the history is incomplete."""
        self.overfull = False
        """The engine exceeded BLOCKS_MAX since this was last set to False; everything was forgotten then."""
        self.block_tokens = 0
        """Size of the reference group's blocks; stays while that is not settled, since prompts go on being cut by it."""
        self._group = -1
        """Index of the reference group; -1: not settled, and no blocks are held."""
        self._lanes = lanes
        self._slot = slot
        self._adapters = adapters
        self._heads: dict[int, list[int]] = {}
        """Adopted parent -> the made-up handles of blocks that were adopted with it."""
        self.lane: Lane = lanes.open(slot)

    @property
    def blocks(self) -> int:
        """Blocks held, over all tiers."""
        return self.lane.blocks

    def apply(self, event: Event) -> None:
        """Take the next event.

        Cost: 0.5 us per block.
        """
        match event:
            case Stored():
                self._store(event)
            case Removed():
                self._remove(event)
            case Cleared():
                self.counts.cleared += 1
                self.reset()
            case _:
                assert_never(event)

    def reset(self) -> None:
        """Forget all blocks; constant time."""
        self._lanes.retire(self.lane)
        self.lane = self._lanes.open(self._slot)
        self._group = -1
        self._heads.clear()
        if self.parking is not None:
            self.parking = Parking()

    def close(self) -> None:
        """The endpoint has gone."""
        self._lanes.retire(self.lane)

    def end_parking(self) -> None:
        """No parent will come any more."""
        if self.parking is not None:
            self.counts.orphans += self.parking.count
            self.parking = None

    def _store(self, event: Stored) -> None:
        if not event.dense or not self._is_reference(event):
            self.counts.skipped += 1
            return
        events = [event]
        while events:
            event = events.pop()
            keys = self._keys(event)
            if keys is None and self._adopt(event):
                keys = self._keys(event)
            if keys is None:
                self._orphan(event)
                continue
            self._hold(event.tier, event.handles, keys)
            if self.parking is not None and self.parking.count:
                for handle in event.handles:
                    events += self.parking.take(handle)

    def _is_reference(self, event: Stored) -> bool:
        """Whether the event is of the group that is indexed; settles which that is."""
        if self._group == event.group and event.block_tokens in {self.block_tokens, 0}:
            return True
        if event.block_tokens <= 0 or 0 <= self._group <= event.group:
            return False
        if self._group >= 0:
            self.reset()
        self._group, self.block_tokens = event.group, event.block_tokens
        return True

    def _keys(self, event: Stored) -> list[int] | None:
        """Return our keys of the event's blocks, None when they hang on a block that is not known."""
        if not event.tokens:  # An offloading connector's placeholder: known blocks, now in another tier as well.
            known = [key for handle in event.handles if (key := self._key(handle)) is not None]
            return known if len(known) == len(event.handles) else None
        seed = self._namespace(event) if event.parent is None else self._key(event.parent)
        return None if seed is None else chain(event.tokens, event.block_tokens, seed, event.extras)

    def _namespace(self, event: Stored) -> int:
        if event.lora and event.lora not in self._adapters and len(self._adapters) < ADAPTERS_MAX:
            self._adapters.add(event.lora)
        return namespace(event.lora, event.salt)

    def _key(self, handle: int) -> int | None:
        for held in self.lane.held:
            if (key := held.keys.get(handle)) is not None:
                return key
        return None

    def _adopt(self, event: Stored) -> bool:
        """Learn from the prompts sent there what an unknown parent is; all before it is there, too.

        Not during a replay: the parent may still come, and would count twice. Engines evict the tail of a prompt before its head,
        so what was adopted with a parent is given up when that is removed, which is never later than it is gone. Its handles are
        not known; the complement of the key stands for each, since it is negative and handles are not.
        """
        if event.parent is None or not event.tokens or event.tier is not Tier.DEVICE or self.parking is not None:
            return False
        head = self.recent.head_of(event)
        if not head:
            return False
        masks, mine = self._lanes.masks[Tier.DEVICE], self.lane.mask
        new = [key for key in head[:-1] if not masks.get(key, 0) & mine]
        made_up = [~key for key in new]
        self._heads[event.parent] = made_up
        self._hold(Tier.DEVICE, (*made_up, event.parent), [*new, head[-1]])
        self.counts.adopted += 1
        return True

    def _orphan(self, event: Stored) -> None:
        if self.parking is None or not self.parking.add(event):
            self.counts.orphans += 1

    def _hold(self, tier: Tier, handles: tuple[int, ...], keys: list[int]) -> None:
        held, masks, mine = self.lane.held[tier], self._lanes.masks[tier], self.lane.mask
        known, again = held.keys, held.again
        for handle, key in zip(handles, keys, strict=True):
            before = known.get(handle)
            if before is None:
                known[handle] = key
                bits = masks.get(key, 0)
                if bits & mine:
                    held.shared[key] = held.shared.get(key, 0) + 1
                else:
                    masks[key] = bits | mine
            else:
                again[handle] = again.get(handle, 0) + 1
                if before != key:
                    self._rename(held, masks, handle, key)
        self.counts.stored += len(handles)
        if len(known) > BLOCKS_MAX:
            self.overfull = True
            self.reset()

    def _rename(self, held: Held, masks: Masks, handle: int, key: int) -> None:
        """Engines whose hash ignores the adapter store one handle for two contents: believe the later one."""
        self.counts.conflicts += 1
        self._release(held, masks, held.keys[handle])
        held.keys[handle] = key
        bits = masks.get(key, 0)
        if bits & self.lane.mask:
            held.shared[key] = held.shared.get(key, 0) + 1
        masks[key] = bits | self.lane.mask

    def _remove(self, event: Removed) -> None:
        if event.group != self._group:
            self.counts.skipped += 1
            return
        held, masks = self.lane.held[event.tier], self._lanes.masks[event.tier]
        handles = event.handles
        if self._heads and event.tier is Tier.DEVICE:
            handles += tuple([one for handle in handles for one in self._heads.pop(handle, ())])
        for handle in handles:
            if more := held.again.get(handle, 0):
                _count_down(held.again, handle, more)
            elif (key := held.keys.pop(handle, None)) is not None:
                self._release(held, masks, key)
            elif self.parking is not None and self.parking.count:
                self.counts.orphans += self.parking.cancel(handle)
        self.counts.removed += len(handles)

    def _release(self, held: Held, masks: Masks, key: int) -> None:
        """One handle less has the key."""
        if more := held.shared.get(key, 0):
            _count_down(held.shared, key, more)
        else:
            clear(masks, key, self.lane.mask)


def _count_down(counts: dict[int, int], key: int, count: int) -> None:
    if count > 1:
        counts[key] = count - 1
    else:
        del counts[key]
