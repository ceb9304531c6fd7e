"""KV events as vLLM publishes them: ZMQ PUB with three frames, a replay ROUTER with a bounded ring, both generations of each shape.

The model server hands over what its cache reports, once a step. Faults are built in: batches that are lost or swapped on the way
(the ring keeps them, as a real one would), and a restart, after which everything is as in a new process.
"""

import asyncio
import contextlib
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, assert_never

import msgspec
import zmq
import zmq.asyncio

from epp.testing.block_cache import CacheEvent, Cleared, Removed, Stored

END = b"\xff" * 8
"""Sequence number -1: the end of a replay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KvEventOptions:
    """How events go out.

    `maps` False is the shape of vLLM before 0.24 (tagged arrays), True the one since. `hash_bytes` sends 32 bytes instead of the
    integer of the last eight. `replay_topic` False is the reply shape before 0.26.
    """

    endpoint: str = "tcp://127.0.0.1:0"
    replay_endpoint: str = "tcp://127.0.0.1:0"
    """Empty: no replay."""
    topic: str = ""
    maps: bool = True
    hash_bytes: bool = False
    replay_topic: bool = True
    rank: int = 0
    ring_batches: int = 10_000


class KvPublisher:
    """One publisher. Binds in `start`; `port` and `replay_port` are known then."""

    def __init__(self, options: KvEventOptions, block_tokens: int) -> None:
        self.options = options
        self.block_tokens = block_tokens
        self.port = 0
        self.replay_port = 0
        self.sequence = 0
        self.drop_batches = 0
        """So many of the next batches are not sent; they have a number and are in the ring."""
        self.swap_batches = 0
        """So many of the next pairs of batches are sent second first."""
        self._held: list[bytes] | None = None
        self._ring: deque[tuple[bytes, bytes]] = deque(maxlen=options.ring_batches)
        self._context: zmq.asyncio.Context | None = None
        self._pub: zmq.Socket[bytes] | None = None
        self._replay: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Bind both sockets. Needs a running loop when there is a replay endpoint."""
        self._context = zmq.asyncio.Context()
        self._pub = zmq.Context.shadow(self._context).socket(zmq.PUB)
        self.port = self._bind(self._pub, self.port, self.options.endpoint)
        if self.options.replay_endpoint:
            router = self._context.socket(zmq.ROUTER)
            self.replay_port = self._bind(router, self.replay_port, self.options.replay_endpoint)
            self._replay = asyncio.get_running_loop().create_task(self._serve_replay(router))

    async def stop(self) -> None:
        """Close both sockets; what was not sent is dropped."""
        if self._replay is not None:
            self._replay.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._replay
            self._replay = None
        if self._pub is not None:
            self._pub.close(linger=0)
            self._pub = None
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None

    async def restart(self) -> None:
        """Be a new process on the same ports: numbers from 0, an empty ring, every subscriber disconnected."""
        await self.stop()
        self.sequence = 0
        self._held = None
        self._ring.clear()
        self.start()

    def publish(self, events: list[CacheEvent]) -> None:
        """Send one batch, unless it is empty. Cost: about ten microseconds and what the token ids weigh."""
        if not events or self._pub is None:
            return
        payload = self._encode(events)
        number = self.sequence.to_bytes(8, "big")
        self.sequence += 1
        self._ring.append((number, payload))
        if self.drop_batches:
            self.drop_batches -= 1
            return
        frames = [self.options.topic.encode(), number, payload]
        if self.swap_batches and self._held is None:
            self._held = frames
            return
        self._pub.send_multipart(frames, zmq.DONTWAIT)
        if self._held is not None:
            self._pub.send_multipart(self._held, zmq.DONTWAIT)
            self._held = None
            self.swap_batches -= 1

    def _encode(self, events: list[CacheEvent]) -> bytes:
        return msgspec.msgpack.encode([time.time(), [self._event(event) for event in events], self.options.rank])

    def _hash(self, key: bytes) -> bytes | int:
        return key if self.options.hash_bytes else int.from_bytes(key[-8:], "big")

    def _event(self, event: CacheEvent) -> list[Any] | dict[str, Any]:
        match event:
            case Stored():
                return self._stored(event)
            case Removed():
                if self.options.maps:
                    return {"type": "BlockRemoved", "block_hashes": [self._hash(event.key)], "medium": "GPU", "group_idx": 0}
                return ["BlockRemoved", [self._hash(event.key)], "GPU"]
            case Cleared():
                return {"type": "AllBlocksCleared"} if self.options.maps else ["AllBlocksCleared"]
            case _:
                assert_never(event)

    def _stored(self, event: Stored) -> list[Any] | dict[str, Any]:
        hashes = [self._hash(key) for key in event.keys]
        parent = self._hash(event.parent) if event.parent is not None else None
        extra: list[list[str] | None] = [[event.lora] if event.lora else None for _ in hashes]
        if event.salt:
            extra[0] = [*(extra[0] or []), event.salt]
        tokens, size, lora = list(event.token_ids), self.block_tokens, event.lora or None
        if not self.options.maps:
            return ["BlockStored", hashes, parent, tokens, size, 1 if lora else None, "GPU", lora, extra]
        return {
            "type": "BlockStored",
            "block_hashes": hashes,
            "parent_block_hash": parent,
            "token_ids": tokens,
            "block_size": size,
            "lora_id": 1 if lora else None,
            "medium": "GPU",
            "lora_name": lora,
            "extra_keys": extra,
            "group_idx": 0,
            "kv_cache_spec_kind": "full_attention",
        }

    async def _serve_replay(self, router: "zmq.asyncio.Socket") -> None:
        while True:
            frames = await router.recv_multipart()
            if len(frames) != 3 or len(frames[2]) != 8:
                continue
            peer, first = frames[0], int.from_bytes(frames[2], "big")
            topic = [self.options.topic.encode()] if self.options.replay_topic else []
            for number, payload in list(self._ring):
                if int.from_bytes(number, "big") >= first:
                    await router.send_multipart([peer, b"", *topic, number, payload])
            await router.send_multipart([peer, b"", *([b""] if topic else []), END, b""])

    @staticmethod
    def _bind(socket: "zmq.Socket[bytes] | zmq.asyncio.Socket", port: int, endpoint: str) -> int:
        base = endpoint.rpartition(":")[0]
        socket.bind(f"{base}:{port}" if port else endpoint)
        bound: bytes | int | str = socket.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(bound, bytes)
        return int(bound.rstrip(b"\0").rpartition(b":")[2])
