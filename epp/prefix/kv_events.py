"""The KV cache events of a model server, from the bytes of a ZMQ message to typed events.

A message has three frames: topic, sequence number, msgpack. The msgpack is a batch `[ts, events, data_parallel_rank?]` (a map in
one development version), each event a tagged array (vLLM up to 0.23, older SGLang: it grew from 6 to 12 elements) or a map with
`type` (vLLM from 0.24, SGLang, TensorRT-LLM). Hashes are integers, signed or not, or bytes. All of it comes out as `Stored`,
`Removed` and `Cleared`, so nobody behind this module knows an engine's version. Called by `kv_stream` for every message of every
endpoint; it protects it from malformed bytes (`WireError`, nothing else) and from what is not known here (skipped, counted).

Source: vllm/distributed/kv_events.py of the releases 0.9 to 0.33, sglang/srt/disaggregation/kv_events.py.
"""

from array import array
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final, assert_never

import msgspec
from msgspec.msgpack import Decoder, Encoder

from epp.errors import WireError

HASH_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF
END_OF_REPLAY: Final = 0xFFFF_FFFF_FFFF_FFFF
"""Sequence number -1: the frame that ends a replay."""

Hash = int | bytes


class Tier(IntEnum):
    """Where a block lies, fastest first."""

    DEVICE = 0
    HOST = 1
    STORAGE = 2


# An absent medium is the device: releases before 0.10.2 knew no other. What is not listed is somewhere slow.
TIERS: Final = {
    None: Tier.DEVICE,
    "GPU": Tier.DEVICE,
    "CPU": Tier.HOST,
    "CPU_PINNED": Tier.HOST,
    "CPU_TIER1": Tier.HOST,
}
# Kinds of cache groups in which every token of the span has its block. The others (sliding window, mamba) hold parts of it.
DENSE_KINDS: Final = frozenset({None, "full_attention", "mla_attention", "sink_full_attention"})


class Stored(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Consecutive blocks have become reusable.

    `handles` name them in this endpoint's later events and mean nothing elsewhere. `tokens` are their token ids, 4 bytes each in
    native order, in a `dense` event `block_tokens` a handle; empty when it only says that known blocks lie in one more tier.
    """

    handles: tuple[int, ...]
    parent: int | None
    tokens: bytes
    block_tokens: int
    tier: Tier = Tier.DEVICE
    lora: str = ""
    salt: str = ""
    """Cache salt of the request, seen only on blocks without a parent: the others inherit it."""
    extras: tuple[bytes, ...] = ()
    """What besides tokens, adapter and salt went into each block (images, embeddings); empty when there is none in any."""
    group: int = 0
    dense: bool = True


class Removed(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Blocks have been evicted from a tier."""

    handles: tuple[int, ...]
    tier: Tier = Tier.DEVICE
    group: int = 0


class Cleared(msgspec.Struct, frozen=True, gc=False):
    """The whole cache was dropped, all tiers."""


Event = Stored | Removed | Cleared


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """The events of one message, in order. `ts` is the engine's wall clock in seconds, `rank` its data-parallel rank if told."""

    ts: float
    events: tuple[Event, ...]
    rank: int | None = None
    skipped: int = 0
    """Events of a type this module does not know."""


class _StoredMap(msgspec.Struct, tag="BlockStored"):
    block_hashes: list[Hash]
    token_ids: list[int]
    block_size: int
    parent_block_hash: Hash | None = None
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: list[list[Any] | None] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    cache_salt: str | None = None


class _RemovedMap(msgspec.Struct, tag="BlockRemoved"):
    block_hashes: list[Hash]
    medium: str | None = None
    group_idx: int | None = None


class _ClearedMap(msgspec.Struct, tag="AllBlocksCleared"):
    pass


class _StoredRow(msgspec.Struct, array_like=True, tag="BlockStored"):
    block_hashes: list[Hash]
    parent_block_hash: Hash | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: list[list[Any] | None] | None = None
    # group_idx, kind, window; patched engines shift them, so they are told apart by type.
    tail_9: Any = None
    tail_10: Any = None
    tail_11: Any = None


class _RemovedRow(msgspec.Struct, array_like=True, tag="BlockRemoved"):
    block_hashes: list[Hash]
    medium: str | None = None
    group_idx: int | None = None


class _ClearedRow(msgspec.Struct, array_like=True, tag="AllBlocksCleared"):
    pass


KNOWN_TYPES: Final = frozenset({"BlockStored", "BlockRemoved", "AllBlocksCleared"})

_MapEvent = _StoredMap | _RemovedMap | _ClearedMap
_RowEvent = _StoredRow | _RemovedRow | _ClearedRow


class _MapBatch(msgspec.Struct, array_like=True):
    ts: float
    events: list[_MapEvent]
    data_parallel_rank: int | None = None


class _RowBatch(msgspec.Struct, array_like=True):
    ts: float
    events: list[_RowEvent]
    data_parallel_rank: int | None = None


class _RawBatch(msgspec.Struct, array_like=True):
    ts: float
    events: list[msgspec.Raw]
    data_parallel_rank: int | None = None


class _RawBatchMap(msgspec.Struct):
    ts: float
    events: list[msgspec.Raw]
    data_parallel_rank: int | None = None


_map_batch = Decoder(_MapBatch)
_row_batch = Decoder(_RowBatch)
_raw_batch = Decoder(_RawBatch)
_raw_batch_map = Decoder(_RawBatchMap)
_map_event = Decoder(_MapEvent)
_row_event = Decoder(_RowEvent)
_anything = Decoder()
_encode = Encoder(order="deterministic").encode


def decode_batch(payload: bytes) -> Batch:
    """Return the events of one message.

    Raises:
        WireError: not a batch, or an event of a known type that is not what its type says. The message as a whole is lost.

    Cost: about 2 us for a message with one block of 16 tokens, 0.7 us per block in larger ones.
    """
    try:
        return _decode_uniform(payload) or _decode_mixed(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, OverflowError, TypeError, RecursionError) as error:
        # Messages of msgspec name positions and types, never values; the class is enough.
        raise WireError(f"not a batch of KV events: {type(error).__name__}") from error


def decode_live(frames: Sequence[bytes]) -> tuple[int, bytes]:
    """Return sequence number and payload of a message of the live stream; the topic is not looked at.

    Raises:
        WireError: other than three frames, or a sequence number of other than 8 bytes.
    """
    if len(frames) != 3:
        raise WireError(f"a live message has 3 frames, not {len(frames)}")
    return _sequence(frames[1]), frames[2]


def decode_replay(frames: Sequence[bytes]) -> tuple[int, bytes]:
    """Return sequence number and payload of a reply to a replay request; the number is `END_OF_REPLAY` after the last.

    Three frames `["", seq, payload]` up to vLLM 0.25, four `["", topic, seq, payload]` since.

    Raises:
        WireError: neither of the two.
    """
    if len(frames) not in {3, 4}:
        raise WireError(f"a replay message has 3 or 4 frames, not {len(frames)}")
    return _sequence(frames[-2]), frames[-1]


def handle(value: Hash) -> int:
    """Return an engine's block hash as 64 bits: of bytes the last 8, of a signed integer its unsigned twin."""
    return value & HASH_MASK if isinstance(value, int) else int.from_bytes(value[-8:], "big")


def _sequence(frame: bytes) -> int:
    if len(frame) != 8:
        raise WireError(f"a sequence number has 8 bytes, not {len(frame)}")
    return int.from_bytes(frame, "big")


def _decode_uniform(payload: bytes) -> Batch | None:
    """Return the batch if it is an array whose events are all known and of one form, as from every released engine; else None.

    Events that are maps start with their type; its key is among the first bytes of the message.
    """
    try:
        batch = (_map_batch if payload.find(b"\xa4type", 0, 32) > 0 else _row_batch).decode(payload)
    except msgspec.ValidationError:
        return None
    return Batch(ts=batch.ts, events=tuple([_event(event) for event in batch.events]), rank=batch.data_parallel_rank)


def _decode_mixed(payload: bytes) -> Batch:
    """Return the batch, looking at the form of everything; slower."""
    batch = (_raw_batch_map if _is_map(payload) else _raw_batch).decode(payload)
    events = []
    for raw in batch.events:
        view = memoryview(raw)
        try:
            events.append(_event((_map_event if _is_map(view) else _row_event).decode(view)))
        except msgspec.ValidationError:
            if not _unknown_type(view):
                raise
    return Batch(ts=batch.ts, events=tuple(events), rank=batch.data_parallel_rank, skipped=len(batch.events) - len(events))


def _is_map(raw: bytes | memoryview) -> bool:
    """Whether msgpack starts with a map (fixmap, map 16, map 32)."""
    return len(raw) > 0 and (0x80 <= raw[0] <= 0x8F or raw[0] in {0xDE, 0xDF})


def _event(event: _MapEvent | _RowEvent) -> Event:
    match event:
        case _StoredMap():
            return _stored(event, event.group_idx, kind=event.kv_cache_spec_kind, salt=event.cache_salt or "")
        case _RemovedMap() | _RemovedRow():
            return Removed(handles=_handles(event.block_hashes), tier=_tier(event.medium), group=event.group_idx or 0)
        case _StoredRow():
            group, kind = _tail(event.tail_9, event.tail_10, event.tail_11)
            return _stored(event, group, kind=kind, salt="")
        case _ClearedMap() | _ClearedRow():
            return Cleared()
        case _:
            assert_never(event)


def _unknown_type(raw: memoryview) -> bool:
    """Whether the bytes are an event, of a type that is not ours."""
    value = _anything.decode(raw)
    name = value.get("type") if isinstance(value, dict) else value[0] if isinstance(value, list) and value else None
    return isinstance(name, str) and name not in KNOWN_TYPES


def _tail(*values: object) -> tuple[int | None, str | None]:
    """Return group and kind of the cache group: the first integer and the first string."""
    if values[0] is None and values[1] is None:
        return None, None
    numbers = [value for value in values if isinstance(value, int)]
    texts = [value for value in values if isinstance(value, str)]
    return (numbers[0] if numbers else None), (texts[0] if texts else None)


def _stored(event: _StoredMap | _StoredRow, group: int | None, *, kind: str | None, salt: str) -> Stored:
    hashes, parent, tokens = event.block_hashes, event.parent_block_hash, event.token_ids
    dense = kind in DENSE_KINDS and len(tokens) == event.block_size * len(hashes)
    extras: tuple[bytes, ...] = ()
    if event.extra_keys is not None and any(event.extra_keys):
        if dense and len(event.extra_keys) != len(hashes):
            raise WireError("not a batch of KV events: extra_keys of another length than block_hashes")
        found, extras = _split_extras(event.extra_keys, event.lora_name, first=parent is None)
        salt = salt or found
    return Stored(
        handles=_handles(hashes),
        parent=None if parent is None else handle(parent),
        tokens=array("I", tokens).tobytes(),
        block_tokens=event.block_size,
        tier=_tier(event.medium),
        lora=event.lora_name or (f"\0lora-id {event.lora_id}" if event.lora_id else ""),
        salt=salt if parent is None else "",
        extras=extras,
        group=group or 0,
        dense=dense,
    )


def _split_extras(extra_keys: list[list[Any] | None], lora: str | None, *, first: bool) -> tuple[str, tuple[bytes, ...]]:
    """Return the cache salt, and what else distinguishes each block.

    The adapter's name stands there as a bare string: dropped, since it is in the event. On the first block of a prompt the last
    bare string is the salt (vLLM appends it behind the identifiers of images); should it have been an identifier, the block only
    gets a namespace nobody asks for, never that of another request.
    """
    salt = ""
    rest = []
    for position, keys in enumerate(extra_keys):
        kept = [key for key in keys or () if not (isinstance(key, str) and key == lora)]
        if first and position == 0 and kept and isinstance(kept[-1], str):
            salt = kept.pop()
        rest.append(_encode(kept) if kept else b"")
    return salt, tuple(rest) if any(rest) else ()


def _handles(hashes: list[Hash]) -> tuple[int, ...]:
    return tuple([value & HASH_MASK if value.__class__ is int else handle(value) for value in hashes])


def _tier(medium: str | None) -> Tier:
    return TIERS.get(medium, Tier.STORAGE)
