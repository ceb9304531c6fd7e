"""A paged KV cache as an engine keeps it: blocks pinned while a request runs, found by content, the longest free evicted first.

After vLLM's `v1/core/block_pool.py`: full blocks are keyed by a chained hash; a block nobody uses stays in the free queue *with*
its content until it is handed out again; a finished request frees its blocks tail first, so that tails go before the prefixes they
hang on. Identical blocks computed at the same time are not merged: one key may stand for several blocks. Pure; driven by an engine.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Blocks that became full: their keys, the key before them, and their tokens."""

    keys: tuple[bytes, ...]
    parent: bytes | None
    token_ids: Sequence[int]
    lora: str = ""
    salt: str = ""
    """Only where the first of these blocks is the first of the prompt; that is where the salt entered the hash."""


@dataclass(frozen=True, slots=True)
class Removed:
    """One block lost its content."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Cleared:
    """All blocks lost their content."""


CacheEvent = Stored | Removed | Cleared


def chain(parent: bytes, token_ids: Iterable[int], extra: bytes = b"") -> bytes:
    """Return the key (32 bytes) of the block that follows `parent`. Cost: about a microsecond."""
    return hashlib.sha256(parent + extra + array("I", token_ids).tobytes()).digest()


def block_keys(token_ids: Sequence[int], block_tokens: int, *, root: bytes, lora: str = "", salt: str = "") -> list[bytes]:
    """Return the keys of the full blocks of a prompt. `root` stands before the first block and is the process's own."""
    keys: list[bytes] = []
    parent = root
    adapter = b"lora:" + lora.encode() + b"\0" if lora else b""
    for end in range(block_tokens, len(token_ids) + 1, block_tokens):
        salted = adapter + b"salt:" + salt.encode() + b"\0" if salt and not keys else adapter
        parent = chain(parent, token_ids[end - block_tokens : end], salted)
        keys.append(parent)
    return keys


class BlockCache:
    """The blocks of one engine.

    Args:
        blocks: how many there are.
        block_tokens: tokens of one block.
    """

    def __init__(self, *, blocks: int, block_tokens: int) -> None:
        self.blocks = blocks
        self.block_tokens = block_tokens
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(blocks))
        self._users = [0] * blocks
        self._keys: list[bytes | None] = [None] * blocks
        self._by_key: dict[bytes, list[int]] = {}
        self._events: list[CacheEvent] = []

    @property
    def free_blocks(self) -> int:
        """Blocks no running request uses, with or without content."""
        return len(self._free)

    @property
    def used_ratio(self) -> float:
        """Share of the blocks that running requests use, 0..1."""
        return 1.0 - len(self._free) / self.blocks

    @property
    def held_keys(self) -> set[bytes]:
        """Keys of everything that could be reused now."""
        return set(self._by_key)

    def lookup(self, keys: Sequence[bytes], limit: int) -> list[int]:
        """Return the blocks that hold the longest known run of `keys` from its start, at most `limit` of them."""
        found = []
        for key in keys[:limit]:
            holders = self._by_key.get(key)
            if not holders:
                break
            found.append(holders[0])
        return found

    def pin(self, blocks: Iterable[int]) -> None:
        """Count one more user of each block."""
        for block in blocks:
            if self._users[block] == 0:
                del self._free[block]
            self._users[block] += 1

    def unused_among(self, blocks: Iterable[int]) -> int:
        """Return how many of the blocks are free, that is how many `pin` would take from the free queue."""
        return sum(1 for block in blocks if self._users[block] == 0)

    def take(self, count: int) -> list[int]:
        """Return `count` empty pinned blocks; what they held is evicted. The caller has looked at `free_blocks`."""
        taken = []
        for _ in range(count):
            block, _nothing = self._free.popitem(last=False)
            self._evict(block)
            self._users[block] = 1
            taken.append(block)
        return taken

    def seal(self, blocks: Sequence[int], stored: Stored) -> None:
        """The blocks are full and hold `stored`, from now on to be found."""
        for block, key in zip(blocks, stored.keys, strict=True):
            self._keys[block] = key
            self._by_key.setdefault(key, []).append(block)
        self._events.append(stored)

    def free(self, blocks: Sequence[int]) -> None:
        """A request gives its blocks back; the last one will be evicted first."""
        for block in reversed(blocks):
            self._users[block] -= 1
            if self._users[block] == 0:
                self._free[block] = None

    def clear(self) -> bool:
        """Forget all content. Returns False, and does nothing, while a request runs."""
        if len(self._free) < self.blocks:
            return False
        self._keys = [None] * self.blocks
        self._by_key.clear()
        self._events.append(Cleared())
        return True

    def events(self) -> list[CacheEvent]:
        """Return what happened since the last call."""
        events, self._events = self._events, []
        return events

    def _evict(self, block: int) -> None:
        key = self._keys[block]
        if key is None:
            return
        self._keys[block] = None
        holders = self._by_key[key]
        holders.remove(block)
        if not holders:
            del self._by_key[key]
        self._events.append(Removed(key))
