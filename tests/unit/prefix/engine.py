"""An engine's event publisher, as far as its bytes go: blocks, handles of its own, numbered batches, and a replay buffer."""

import itertools
from collections import deque
from random import Random

import msgspec

from epp.prefix.kv_events import END_OF_REPLAY

encode = msgspec.msgpack.encode
CLEARED = {"type": "AllBlocksCleared"}


def stored(handles, tokens, *, parent=None, block=4, **more):
    return {
        "type": "BlockStored",
        "block_hashes": handles,
        "parent_block_hash": parent,
        "token_ids": list(tokens),
        "block_size": block,
        "medium": "GPU",
        **more,
    }


def removed(*handles, **more):
    return {"type": "BlockRemoved", "block_hashes": list(handles), "medium": "GPU", **more}


def batch(*events, ts=1.0, rank=None):
    return encode([ts, list(events)] if rank is None else [ts, list(events), rank])


class Engine:
    """Publishes what it is told to cache; every life has its own handles and counts from 0."""

    def __init__(self, *, block=4, ring=1000, seed=1):
        self.block = block
        self.ring_size = ring
        self.random = Random(seed)
        self.clock = itertools.count(1000.0, 0.01)
        self.restart()

    def restart(self):
        self.seq = 0
        self.ring = deque(maxlen=self.ring_size)
        self.handles = {}
        self.born = next(self.clock) + 1000

    def publish(self, *events):
        """Return the message (seq, payload) that carries these events."""
        message = (self.seq, batch(*events, ts=next(self.clock), rank=0))
        self.seq += 1
        self.ring.append(message)
        return message

    def cache(self, tokens):
        """Return the message that announces the blocks of a prompt that are new, None when there are none."""
        new, parent = [], None
        for end in range(self.block, len(tokens) + 1, self.block):
            path = tuple(tokens[:end])
            if path in self.handles:
                parent = self.handles[path]
            else:
                self.handles[path] = self.random.getrandbits(64)
                new.append(path)
        if not new:
            return None
        tail = [token for path in new for token in path[-self.block :]]
        return self.publish(stored([self.handles[path] for path in new], tail, parent=parent, block=self.block))

    def evict(self, tokens):
        """Return the message that a prompt's last full block is gone."""
        path = tuple(tokens[: len(tokens) // self.block * self.block])
        return self.publish(removed(self.handles.pop(path)))

    def clear(self):
        self.handles.clear()
        return self.publish(CLEARED)

    def replay(self, from_seq):
        """Return the replies to a replay request."""
        return [message for message in self.ring if message[0] >= from_seq] + [(END_OF_REPLAY, b"")]
