"""Whatever an engine means, in whatever form it says it, is what is understood; and no bytes do harm."""

from array import array

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from epp.errors import WireError
from epp.prefix.kv_events import Cleared, Removed, Stored, Tier, decode_batch, decode_live, decode_replay

U64 = st.integers(0, 2**64 - 1)
MEDIA = {Tier.DEVICE: "GPU", Tier.HOST: "CPU", Tier.STORAGE: "DISK"}


@st.composite
def stored_events(draw):
    count, block = draw(st.integers(0, 4)), draw(st.integers(1, 5))
    parent = draw(st.none() | U64)
    return Stored(
        handles=tuple(draw(st.lists(U64, min_size=count, max_size=count))),
        parent=parent,
        tokens=array("I", draw(st.lists(st.integers(0, 2**32 - 1), min_size=count * block, max_size=count * block))).tobytes(),
        block_tokens=block,
        tier=draw(st.sampled_from(Tier)),
        lora=draw(st.sampled_from(["", "sql", "chat"])),
        salt="" if parent is not None or not count else draw(st.sampled_from(["", "tenant"])),
        group=draw(st.integers(0, 3)),
    )


removed_events = st.builds(
    Removed, handles=st.lists(U64, max_size=4).map(tuple), tier=st.sampled_from(Tier), group=st.integers(0, 3)
)
events = st.lists(stored_events() | removed_events | st.just(Cleared()), max_size=5)


def hashed(value, form):
    match form:
        case "signed":
            return value - 2**64 if value >= 2**63 else value
        case "bytes":
            return b"\xaa" * 24 + value.to_bytes(8, "big")
        case _:
            return value


def fields(event, form):
    """Return the wire fields, in the order of the array form."""
    match event:
        case Stored():
            extra = [[event.lora] if event.lora else [] for _ in event.handles]
            if event.salt:
                extra[0].append(event.salt)
            return {
                "type": "BlockStored",
                "block_hashes": [hashed(handle, form) for handle in event.handles],
                "parent_block_hash": None if event.parent is None else hashed(event.parent, form),
                "token_ids": array("I", event.tokens).tolist(),
                "block_size": event.block_tokens,
                "lora_id": 1 if event.lora else None,
                "medium": MEDIA[event.tier],
                "lora_name": event.lora or None,
                "extra_keys": [keys or None for keys in extra],
                "group_idx": event.group,
                "kv_cache_spec_kind": "full_attention",
            }
        case Removed():
            handles = [hashed(handle, form) for handle in event.handles]
            return {"type": "BlockRemoved", "block_hashes": handles, "medium": MEDIA[event.tier], "group_idx": event.group}
        case _:
            return {"type": "AllBlocksCleared"}


@given(events, st.sampled_from(["int", "signed", "bytes"]), st.lists(st.booleans(), min_size=5, max_size=5), st.booleans())
def test_round_trip(meant, form, as_maps, whole_as_map):
    wire = [fields(event, form) for event in meant]
    said = [item if as_map else list(item.values()) for item, as_map in zip(wire, as_maps, strict=False)]
    raw = {"ts": 2.5, "events": said, "data_parallel_rank": 1} if whole_as_map else [2.5, said, 1]
    decoded = decode_batch(msgspec.msgpack.encode(raw))
    assert decoded.events == tuple(meant)
    assert (decoded.ts, decoded.rank, decoded.skipped) == (2.5, 1, 0)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)
almost_events = st.fixed_dictionaries(
    {"type": st.sampled_from(["BlockStored", "BlockRemoved", "AllBlocksCleared", "Other"])},
    optional=dict.fromkeys(("block_hashes", "parent_block_hash", "token_ids", "block_size", "extra_keys", "medium"), json_like),
)


@given(
    st.binary(max_size=60)
    | json_like.map(msgspec.msgpack.encode)
    | st.lists(almost_events | almost_events.map(lambda event: list(event.values())), max_size=3).map(
        lambda said: msgspec.msgpack.encode([1.0, said])
    )
)
def test_no_bytes_raise_anything_else(payload):
    try:
        batch = decode_batch(payload)
    except WireError:
        return
    assert all(isinstance(event, Stored | Removed | Cleared) for event in batch.events)


@given(st.lists(st.binary(max_size=9), max_size=5))
def test_no_frames_raise_anything_else(frames):
    for decode in (decode_live, decode_replay):
        try:
            seq, _ = decode(frames)
        except WireError:
            continue
        assert 0 <= seq < 2**64
