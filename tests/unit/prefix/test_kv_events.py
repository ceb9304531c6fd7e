"""Every shape that an engine was ever seen to send."""

import json
from array import array
from pathlib import Path

import pytest

from epp.errors import WireError
from epp.prefix.kv_events import END_OF_REPLAY, Cleared, Removed, Stored, Tier, decode_batch, decode_live, decode_replay, handle
from tests.unit.prefix.engine import batch, encode, removed, stored

RECORDED = json.loads((Path(__file__).parents[2] / "data" / "vllm_kv_events.json").read_text())
MINUS_ONE = 2**64 - 1


def only(payload):
    (event,) = decode_batch(payload).events
    return event


def words(tokens):
    return array("I", tokens).tobytes()


def row(*fields):
    return encode([1.5, [["BlockStored", *fields]], 0])


class TestRecorded:
    def test_live_messages(self):
        messages = [decode_live([bytes.fromhex(frame) for frame in frames]) for frames in RECORDED["live"]]
        assert [seq for seq, _ in messages] == [0, 1, 2]
        chat, salted, ids = (only(payload) for _, payload in messages)
        assert decode_batch(messages[0][1]).rank == 0
        assert chat.tokens == words(RECORDED["prompt"]["tokens"][:256])
        assert (chat.parent, chat.block_tokens, chat.tier, chat.group, chat.dense) == (None, 32, Tier.DEVICE, 0, True)
        assert (chat.lora, chat.salt, chat.extras) == ("", "", ())
        assert salted.salt == "tenant-a"
        assert salted.extras == ()
        assert ids.tokens == words(range(100, 292))
        assert len(ids.handles) == 6

    def test_replay_brings_the_same_payloads(self):
        replies = [decode_replay([bytes.fromhex(frame) for frame in frames]) for frames in RECORDED["replay"]]
        live = [decode_live([bytes.fromhex(frame) for frame in frames]) for frames in RECORDED["live"]]
        assert replies == [*live, (END_OF_REPLAY, b"")]


@pytest.mark.parametrize(
    "fields",
    [
        ([7, 8], 6, [1, 2, 3, 4], 2, None),  # 0.8.5
        ([7, 8], 6, [1, 2, 3, 4], 2, None, "GPU"),  # 0.10.2
        ([7, 8], 6, [1, 2, 3, 4], 2, None, "GPU", None),  # 0.14
        ([7, 8], 6, [1, 2, 3, 4], 2, None, "GPU", None, [None, None]),  # 0.17
        ([7, 8], 6, [1, 2, 3, 4], 2, None, "GPU", None, [None, None], 0, "full_attention", None),  # 0.20
        ([7, 8], 6, [1, 2, 3, 4], 2, None, "GPU", None, None, [["mm"]], 0, "full_attention"),  # patched: one field more
        ([7, 8], 6, [1, 2, 3, 4], 2, None, "GPU", None, None, 0, "full_attention", None, "new", 1),  # later than we know
    ],
    ids=["0.8", "0.10", "0.14", "0.17", "0.20", "patched", "future"],
)
def test_rows_of_all_lengths(fields):
    assert only(row(*fields)) == Stored(handles=(7, 8), parent=6, tokens=words([1, 2, 3, 4]), block_tokens=2)


def test_row_tail_of_a_sparse_group():
    event = only(row([7], 6, [1, 2, 3, 4], 2, None, "GPU", None, None, 3, "sliding_window", 128))
    assert (event.group, event.dense) == (3, False)


def test_rows_of_removal_and_clearing():
    events = decode_batch(encode([1.5, [["BlockRemoved", [9]], ["BlockRemoved", [9], "CPU", 2], ["AllBlocksCleared"]]])).events
    assert events == (Removed(handles=(9,)), Removed(handles=(9,), tier=Tier.HOST, group=2), Cleared())


def test_map_with_everything():
    event = only(
        batch(
            stored(
                [b"\1" * 24 + b"\0" * 7 + b"\5", b"\2" * 32],
                range(8),
                parent=b"\3" * 32,
                lora_id=1,
                lora_name="sql",
                extra_keys=[["sql", ["image-1", 3]], ["sql"]],
                group_idx=0,
                kv_cache_spec_kind="mla_attention",
                locality="LOCAL",
                session_id="s",
                lookahead_token_ids=[[1], [2]],
            )
        )
    )
    assert event.handles == (5, int.from_bytes(b"\2" * 8, "big"))
    assert event.parent == int.from_bytes(b"\3" * 8, "big")
    assert event.lora == "sql"
    assert event.salt == ""
    assert event.extras == (encode([["image-1", 3]]), b"")
    assert event.dense


def test_batch_as_a_map_and_of_two_elements():
    two = decode_batch(encode([1.5, [["AllBlocksCleared"]]]))
    whole = decode_batch(encode({"ts": 1.5, "events": [{"type": "AllBlocksCleared"}], "data_parallel_rank": 3}))
    assert (two.ts, two.events, two.rank) == (1.5, (Cleared(),), None)
    assert (whole.ts, whole.events, whole.rank) == (1.5, (Cleared(),), 3)


def test_both_forms_in_one_batch_and_unknown_ones_are_skipped():
    decoded = decode_batch(encode([1.5, [["AllBlocksCleared"], removed(3), {"type": "BlockMoved", "x": 1}, ["Pinned", 1, 2]], 0]))
    assert decoded.events == (Cleared(), Removed(handles=(3,)))
    assert decoded.skipped == 2


def test_signed_hashes_and_their_unsigned_twins_are_the_same():
    assert only(batch(removed(-1))).handles == only(batch(removed(MINUS_ONE))).handles == (MINUS_ONE,)
    assert handle(b"\xff" * 32) == MINUS_ONE


@pytest.mark.parametrize(
    ("extra_keys", "parent", "more", "salt", "extras"),
    [
        ([["tenant"], None], None, {}, "tenant", ()),
        ([["sql", "tenant"], ["sql"]], None, {"lora_name": "sql"}, "tenant", ()),
        ([["sql"], ["sql"]], None, {"lora_name": "sql"}, "", ()),
        ([[["image", 0]], None], None, {}, "", (encode([["image", 0]]), b"")),
        ([None, ["image"]], None, {}, "", (b"", encode(["image"]))),
        ([["image"], None], 5, {}, "", (encode(["image"]), b"")),
        (None, None, {"cache_salt": "field"}, "field", ()),
        (None, 5, {"cache_salt": "inherited"}, "", ()),
    ],
)
def test_extra_keys_are_taken_apart(extra_keys, parent, more, salt, extras):
    event = only(batch(stored([1, 2], range(8), parent=parent, extra_keys=extra_keys, **more)))
    assert (event.salt, event.extras) == (salt, extras)


@pytest.mark.parametrize(
    ("medium", "tier"),
    [
        ("GPU", 0),
        (None, 0),
        ("CPU", 1),
        ("CPU_PINNED", 1),
        ("CPU_TIER1", 1),
        ("DISK", 2),
        ("STORAGE", 2),
        ("EXTERNAL", 2),
        ("?", 2),
    ],
)
def test_media(medium, tier):
    assert only(batch(stored([1], range(4)) | {"medium": medium})).tier == tier


def test_an_adapter_known_by_number_only_is_not_the_base_model():
    assert only(row([7], None, [1, 2], 2, 4)).lora != ""
    assert only(row([7], None, [1, 2], 2, 0)).lora == ""


@pytest.mark.parametrize(
    ("kind", "hashes", "tokens", "dense"),
    [
        ("full_attention", 2, 8, True),
        ("sink_full_attention", 2, 8, True),
        (None, 2, 8, True),
        ("mamba", 2, 8, False),
        ("full_attention", 1, 8, False),
        ("full_attention", 3, 8, False),
    ],
)
def test_dense_groups(kind, hashes, tokens, dense):
    assert only(batch(stored(list(range(hashes)), range(tokens), kv_cache_spec_kind=kind))).dense is dense


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        encode(None),
        encode([1.5]),
        encode([1.5, [[]]]),
        encode([1.5, [5]]),
        encode([1.5, [{"block_hashes": []}]]),
        encode([1.5, [["BlockStored", [1]]]]),
        encode([1.5, [stored([1], [-1, 2, 3, 4])]]),
        encode([1.5, [stored([1], [2**32, 2, 3, 4])]]),
        encode([1.5, [stored([1], ["the", "secret", "prompt", "text"])]]),
        encode([1.5, [stored([1, 2], range(8), extra_keys=[["x"]])]]),
        encode([1.5, [stored([1.5], range(4))]]),
        batch(stored([1], range(4)))[:-1],
    ],
)
def test_malformed(payload):
    with pytest.raises(WireError) as caught:
        decode_batch(payload)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("frames", [[], [b""], [b"", b"\0" * 8], [b"", b"\0" * 7, b""], [b"", b"", b"", b""]])
def test_frames_that_are_no_live_message(frames):
    with pytest.raises(WireError):
        decode_live(frames)


@pytest.mark.parametrize("topic", [[], [b"kv@pod@model"]], ids=["up to 0.25", "since 0.26"])
def test_replay_frames(topic):
    assert decode_replay([b"", *topic, (7).to_bytes(8, "big"), b"x"]) == (7, b"x")
    assert decode_replay([b"", *topic, b"\xff" * 8, b""]) == (END_OF_REPLAY, b"")
    with pytest.raises(WireError):
        decode_replay([b"", *topic, b"\xff" * 8, b"", b""] if topic else [b"", b"\xff" * 8])
