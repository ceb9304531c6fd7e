"""The one mutable owner of the pool: who its endpoints are, which slot each has, and the columns with what is known of them.

Discovery calls `apply` with the whole set of endpoints, the poller `update` with what it read; the director reads `snapshot` and
`candidates`. Whoever keeps something per slot (prefix strategies, poller, event subscribers) registers with `on_forget` and is
told, before the slot can be given to another, that its owner has gone or lost its cache. Everything happens on one event loop.

What it protects from: half-applied membership (readers see one snapshot or the next), a slot's new owner inheriting anything from
the old one, and growth (`slots_max` endpoints, `ADAPTERS_MAX` adapter names).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from epp.model.endpoint import Endpoint, canonical, join_host_port
from epp.model.match import IntColumn
from epp.model.snapshot import Columns, Snapshot
from epp.pool.engines import Sample
from epp.pool.load import RATE_DEFAULT, REQUESTS_MAX, Ledger
from epp.pool.newcomers import Newcomers

SLOTS_MAX = 4096
"""Endpoints at most. The columns are made this long at once (half a megabyte, untouched pages cost nothing)."""
SLOTS_FIRST = 16
"""Length of the columns that the first snapshot shows; it doubles as the pool grows."""
ADAPTERS_MAX = 1024
"""Different LoRA adapter names that are tracked; more are not told apart from unknown ones."""

_COUNTS = "role", "block_tokens", "requests", "backlog_count", "decoding"
_DTYPES = {"live": np.bool_, **dict.fromkeys(_COUNTS, np.int64)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What one `apply` did, as slots. No slot is both removed and added in one step."""

    added: tuple[int, ...] = ()
    removed: tuple[int, ...] = ()
    changed: tuple[int, ...] = ()
    """Same endpoint, other labels: keeps its slot and all that is known of it."""
    reborn: tuple[int, ...] = ()
    """Same name and slot, another life (generation, address or port): everything known of it has been forgotten."""
    refused: tuple[str, ...] = ()
    """Names of endpoints for which there was no slot."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.reborn)


class PoolState:
    """Slots, columns and membership, with the in-flight ledger that writes some of the columns.

    Args:
        slots_max: most endpoints the pool can have.
        requests_max: most open requests the ledger keeps.
    """

    def __init__(self, *, slots_max: int = SLOTS_MAX, requests_max: int = REQUESTS_MAX) -> None:
        self.slots_max = slots_max
        self._store = Columns(**{field.name: np.zeros(slots_max, _DTYPES.get(field.name, np.float64)) for field in fields(Columns)})
        self._store.scraped_s[:] = -np.inf
        self.ledger = Ledger(self._store, requests_max=requests_max)
        self.newcomers = Newcomers()
        self._endpoints: list[Endpoint | None] = [None] * min(SLOTS_FIRST, slots_max)
        self._slots: dict[str, int] = {}
        self._adapters = _Adapters()
        self._forget: list[Callable[[int], None]] = []
        self._changed: list[Callable[[Changes], None]] = []
        self._snapshot = self._build(version=0)

    def on_forget(self, callback: Callable[[int], None]) -> None:
        """Have `callback(slot)` called when a slot's owner has gone or lost its cache, while the old snapshot is still in force."""
        self._forget.append(callback)

    def on_change(self, callback: Callable[[Changes], None]) -> Callable[[], None]:
        """Have `callback(changes)` called after every `apply` that changed something, with the new snapshot in force.

        Returns:
            The function that ends it.
        """
        self._changed.append(callback)
        return lambda: self._changed.remove(callback)

    def snapshot(self, now_s: float | None = None) -> Snapshot:
        """Return the pool as it is: the same object until membership or labels change.

        Args:
            now_s: monotonic seconds, to bring the ledger's pool-wide numbers and ghosts up to date; a decision needs that.

        Cost: about 1 us.
        """
        if now_s is not None:
            self.ledger.advance(now_s)
        self._snapshot.utilization_ratio = self.ledger.utilization_ratio
        self._snapshot.average_own = self.ledger.average_own
        return self._snapshot

    @staticmethod
    def candidates(snapshot: Snapshot, subset: Sequence[str] | None) -> IntColumn:
        """Return the slots a request may go to, ascending.

        Args:
            snapshot: the pool.
            subset: what the gateway allows, `ip:port`, `[ipv6]:port` or a bare `ip` for all its ports; what is not in the pool is
                ignored. None: everything.

        Cost: below 1 us without a subset, about 0.3 us for each item of it.
        """
        return snapshot.slots if subset is None else snapshot.named(subset)

    def apply(self, endpoints: Sequence[Endpoint], now_s: float) -> Changes:
        """Make the pool consist of exactly these endpoints, in one step.

        An endpoint keeps its slot for as long as its name stays. New ones get the lowest free slots, those of removed endpoints
        included: by then every `on_forget` has been told.

        Args:
            endpoints: the whole pool; names are unique.
            now_s: monotonic seconds.

        Returns:
            What happened; false when nothing did.
        """
        wanted = {endpoint.name: endpoint for endpoint in endpoints}
        before = {name: (slot, self._at(slot)) for name, slot in self._slots.items()}
        removed = tuple(slot for name, (slot, _) in before.items() if name not in wanted)
        kept = [(slot, old, wanted[name]) for name, (slot, old) in before.items() if name in wanted]
        reborn = tuple(slot for slot, old, new in kept if old.life != new.life)
        changed = tuple(slot for slot, old, new in kept if old != new and old.life == new.life)
        for slot in (*removed, *reborn):
            self._clear(slot, now_s)
        for slot in removed:
            del self._slots[self._at(slot).name]
            self._endpoints[slot] = None
        for slot, old, new in kept:
            if new != old:  # one that says the same stays the same object: requests under way know it by that
                self._endpoints[slot] = new
        added, refused = self._place([endpoint for name, endpoint in wanted.items() if name not in before])
        for slot in (*added, *reborn):
            self.ledger.open(slot, now_s)
        if len(self._slots) > len(added):
            self.newcomers.come((*added, *reborn), now_s)
        changes = Changes(added=added, removed=removed, changed=changed, reborn=reborn, refused=refused)
        if changes:
            self._snapshot = self._build(version=self._snapshot.version + 1)
            for callback in tuple(self._changed):
                callback(changes)
        return changes

    def update(self, slot: int, sample: Sample, now_s: float) -> None:
        """Take over what was read from the endpoint in `slot`. What the sample does not say stays as it was.

        Cost: about 3 us.
        """
        store, ledger = self._store, self.ledger
        if sample.waiting is not None:
            store.waiting[slot] = sample.waiting
            # Requests that came past this picker: what waits there beyond what we sent, taken for average prompts.
            store.foreign[slot] = max(0.0, sample.waiting - store.backlog_count[slot]) * ledger.average_own
        if sample.running is not None:
            store.running[slot] = sample.running
            ours = store.decoding[slot] + store.backlog_count[slot]
            store.foreign_decoding[slot] = max(0.0, sample.running - ours)  # other pickers', and those we no longer watch
        if sample.kv_usage is not None:
            store.kv_usage[slot] = sample.kv_usage
        if sample.block_tokens is not None:
            store.block_tokens[slot] = sample.block_tokens
            store.capacity_tokens[slot] = sample.block_tokens * (sample.blocks or 0)
        store.scraped_s[slot] = now_s
        if self._adapters.update(slot, sample):
            self._snapshot.adapter_room = self._adapters.room

    def lose_sight(self, slot: int) -> None:
        """The endpoint reports nothing any more: what others send there is not known, and the last guess must not stay for ever.

        The scraped values themselves stay, with the time they were read.
        """
        self._store.foreign[slot] = self._store.foreign_decoding[slot] = 0.0

    def check(self) -> None:
        """Assert what must hold between any two calls; for tests."""
        self.ledger.check()
        snapshot = self._snapshot
        for name, slot in self._slots.items():
            assert self._at(slot).name == name
        assert sorted(self._slots.values()) == snapshot.slots.tolist() == np.flatnonzero(self._store.live).tolist()
        assert snapshot.endpoints == tuple(self._endpoints)
        assert set(self.newcomers.slots) <= set(self._slots.values())
        assert len(set(self.newcomers.slots)) == len(self.newcomers.slots)
        assert len(snapshot.columns.live) == len(self._endpoints) <= self.slots_max
        empty = np.flatnonzero(~self._store.live)
        for field in fields(Columns):
            idle = {"rate": RATE_DEFAULT, "scraped_s": -np.inf}.get(field.name, 0)
            assert (getattr(self._store, field.name)[empty] == idle).all(), field.name

    def _at(self, slot: int) -> Endpoint:
        endpoint = self._endpoints[slot]
        assert endpoint is not None
        return endpoint

    def _place(self, endpoints: Sequence[Endpoint]) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Give each endpoint the lowest free slot; return the slots, and the names of those for which there was none."""
        while len(self._slots) + len(endpoints) > len(self._endpoints) < self.slots_max:
            grown = min(2 * len(self._endpoints), self.slots_max)
            self._endpoints += [None] * (grown - len(self._endpoints))
        free = [slot for slot, endpoint in enumerate(self._endpoints) if endpoint is None]
        added = tuple(free[: len(endpoints)])
        for slot, endpoint in zip(added, endpoints, strict=False):
            self._slots[endpoint.name] = slot
            self._endpoints[slot] = endpoint
        return added, tuple(endpoint.name for endpoint in endpoints[len(added) :])

    def _clear(self, slot: int, now_s: float) -> None:
        """Have everybody forget the owner of a slot."""
        self.ledger.close(slot, now_s)
        self.newcomers.go(slot)
        self._adapters.update(slot, Sample())
        for field in fields(Columns):
            if field.name != "rate":  # the ledger has just reset it
                getattr(self._store, field.name)[slot] = 0
        self._store.scraped_s[slot] = -np.inf
        for callback in self._forget:
            callback(slot)

    def _build(self, version: int) -> Snapshot:
        """Return a snapshot of the membership; its columns are views of the store, so that they stay live when the pool grows."""
        by_address: dict[str, tuple[int, ...]] = {}
        by_authority: dict[str, int] = {}
        for slot, endpoint in enumerate(self._endpoints):
            if endpoint is not None:
                address = canonical(endpoint.address)
                same = address == endpoint.address
                by_authority[endpoint.authority if same else join_host_port(address, endpoint.port)] = slot
                by_address[address] = (*by_address.get(address, ()), slot)
                self._store.role[slot] = endpoint.role
            self._store.live[slot] = endpoint is not None
        length = len(self._endpoints)
        return Snapshot(
            version=version,
            endpoints=tuple(self._endpoints),
            slots=np.flatnonzero(self._store.live),
            columns=Columns(**{field.name: getattr(self._store, field.name)[:length] for field in fields(Columns)}),
            by_authority=by_authority,
            by_address=by_address,
            adapters=self._adapters.masks,
            adapter_room=self._adapters.room,
        )


class _Adapters:
    """Which LoRA adapters run and wait where, as bitmasks of slots."""

    def __init__(self) -> None:
        self.masks: dict[str, tuple[int, int]] = {}
        self.room = 0
        self._known: dict[int, tuple[frozenset[str], frozenset[str], int]] = {}

    def update(self, slot: int, sample: Sample) -> bool:
        """Take over what a slot says of its adapters; return whether that is news."""
        nothing = (frozenset[str](), frozenset[str](), 0)
        old = self._known.get(slot, nothing)
        new = (sample.adapters, sample.adapters_waiting, sample.adapters_max)
        if old == new:
            return False
        self._known[slot] = new
        bit = 1 << slot
        for name in (old[0] | old[1]) - (new[0] | new[1]):
            self._mark(name, bit, runs=False, waits=False)
        for name in new[0] | new[1]:
            self._mark(name, bit, runs=name in new[0], waits=name in new[1])
        has_room = len(new[0] | new[1]) < new[2]
        self.room = self.room | bit if has_room else self.room & ~bit
        return True

    def _mark(self, name: str, bit: int, *, runs: bool, waits: bool) -> None:
        if name not in self.masks and len(self.masks) >= ADAPTERS_MAX:
            return
        running, waiting = self.masks.get(name, (0, 0))
        running = running | bit if runs else running & ~bit
        waiting = waiting | bit if waits else waiting & ~bit
        if running or waiting:
            self.masks[name] = (running, waiting)
        else:
            self.masks.pop(name, None)
