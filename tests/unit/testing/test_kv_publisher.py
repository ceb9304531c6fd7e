import asyncio
import json
from pathlib import Path

import msgspec
import pytest
import zmq
import zmq.asyncio

from epp.testing.block_cache import Cleared, Removed, Stored
from epp.testing.kv_publisher import END, KvEventOptions, KvPublisher

RECORDED = Path(__file__).parent / "recorded_kv_event.json"
STORED = Stored(keys=(b"\1" * 32, b"\2" * 32), parent=None, token_ids=[1, 2, 3, 4], salt="tenant-a")
LONG = int.from_bytes(b"\1" * 8, "big")


def encoded(options: KvEventOptions, *events):
    return msgspec.msgpack.decode(KvPublisher(options, 2)._encode(list(events)))


def test_a_stored_event_has_the_fields_of_a_recorded_one():
    """The recording is of vLLM 0.32: the same keys in the same order, the same types, the same place for the salt."""
    frames = json.loads(RECORDED.read_text())["frames_hex"]
    _, (real,), rank = msgspec.msgpack.decode(bytes.fromhex(frames[2]))
    _, (ours,), our_rank = encoded(KvEventOptions(), STORED)
    assert list(ours) == list(real)
    assert {name: type(value) for name, value in ours.items()} == {name: type(value) for name, value in real.items()}
    assert ours["extra_keys"] == real["extra_keys"][:2] == [["tenant-a"], None]
    assert rank == our_rank == 0


def test_the_old_shape_is_tagged_arrays():
    _, events, rank = encoded(KvEventOptions(maps=False, rank=3), STORED, Removed(b"\1" * 32), Cleared())
    assert events[0] == ["BlockStored", [LONG, LONG * 2], None, [1, 2, 3, 4], 2, None, "GPU", None, [["tenant-a"], None]]
    assert events[1:] == [["BlockRemoved", [LONG], "GPU"], ["AllBlocksCleared"]]
    assert rank == 3


def test_hashes_are_integers_of_the_last_eight_bytes_or_all_of_them():
    assert encoded(KvEventOptions(), Removed(bytes(24) + b"\0\0\0\0\0\0\1\2"))[1][0]["block_hashes"] == [258]
    assert encoded(KvEventOptions(hash_bytes=True), Removed(b"\1" * 32))[1][0]["block_hashes"] == [b"\1" * 32]


def test_the_adapter_is_named_in_the_event_and_in_its_extra_keys():
    event = encoded(KvEventOptions(), Stored(keys=(b"\1" * 32,), parent=None, token_ids=[1, 2], lora="french", salt="s"))[1][0]
    assert (event["lora_name"], event["extra_keys"]) == ("french", [["french", "s"]])


async def subscribed(publisher: KvPublisher, context: zmq.asyncio.Context) -> zmq.asyncio.Socket:
    """A subscriber that is known to be connected: what is published is repeated until it hears something."""
    socket = context.socket(zmq.SUB)
    socket.subscribe(b"")
    socket.connect(f"tcp://127.0.0.1:{publisher.port}")
    async with asyncio.timeout(5):
        while not await socket.poll(20):
            publisher.publish([Cleared()])
        last = publisher.sequence - 1
        while int.from_bytes((await socket.recv_multipart())[1], "big") != last:
            pass
    return socket


async def replayed(publisher: KvPublisher, context: zmq.asyncio.Context, first: int) -> list[list[bytes]]:
    socket = context.socket(zmq.DEALER)
    socket.connect(f"tcp://127.0.0.1:{publisher.replay_port}")
    await socket.send_multipart([b"", first.to_bytes(8, "big")])
    got = []
    async with asyncio.timeout(5):
        while not got or got[-1][-2] != END:
            got.append(await socket.recv_multipart())
    socket.close(linger=0)
    return got


def with_publisher(options: KvEventOptions, body) -> None:
    async def run():
        publisher, context = KvPublisher(options, 2), zmq.asyncio.Context()
        publisher.start()
        try:
            await body(publisher, context)
        finally:
            context.destroy(linger=0)
            await publisher.stop()

    asyncio.run(run())


def test_three_frames_numbered_from_zero_and_lost_ones_leave_a_gap():
    async def body(publisher, context):
        socket = await subscribed(publisher, context)
        first = publisher.sequence
        publisher.publish([Cleared()])
        publisher.drop_batches = 2
        for _ in range(3):
            publisher.publish([Cleared()])
        publisher.publish([])
        async with asyncio.timeout(5):
            got = [await socket.recv_multipart() for _ in range(2)]
        assert [int.from_bytes(frames[1], "big") - first for frames in got] == [0, 3]
        assert got[0][0] == b"kv@here"
        lost = await replayed(publisher, context, first + 1)
        assert [int.from_bytes(frames[2], "big") - first for frames in lost[:-1]] == [1, 2, 3]

    with_publisher(KvEventOptions(topic="kv@here"), body)


def test_swapped_batches_arrive_second_first():
    async def body(publisher, context):
        socket = await subscribed(publisher, context)
        first = publisher.sequence
        publisher.swap_batches = 1
        for _ in range(3):
            publisher.publish([Cleared()])
        async with asyncio.timeout(5):
            got = [int.from_bytes((await socket.recv_multipart())[1], "big") - first for _ in range(3)]
        assert got == [1, 0, 2]

    with_publisher(KvEventOptions(), body)


@pytest.mark.parametrize(("topic", "frames", "end"), [(True, 4, [b"", b"", END, b""]), (False, 3, [b"", END, b""])])
def test_replay_in_both_reply_shapes(topic, frames, end):
    async def body(publisher, context):
        for _ in range(3):
            publisher.publish([Cleared()])
        got = await replayed(publisher, context, 1)
        assert [len(message) for message in got[:-1]] == [frames] * 2
        assert [int.from_bytes(message[-2], "big") for message in got[:-1]] == [1, 2]
        assert got[-1] == end
        assert await replayed(publisher, context, 99) == [end]

    with_publisher(KvEventOptions(replay_topic=topic), body)


def test_a_ring_that_has_run_over_replays_what_is_left_without_an_error():
    async def body(publisher, context):
        for _ in range(5):
            publisher.publish([Cleared()])
        got = await replayed(publisher, context, 0)
        assert [int.from_bytes(message[-2], "big") for message in got[:-1]] == [3, 4]

    with_publisher(KvEventOptions(ring_batches=2), body)


def test_a_restart_numbers_from_zero_on_the_same_ports():
    async def body(publisher, context):
        publisher.publish([Cleared()])
        ports = (publisher.port, publisher.replay_port)
        await publisher.restart()
        assert (publisher.port, publisher.replay_port) == ports
        publisher.publish([Removed(b"\1" * 32)])
        got = await replayed(publisher, context, 0)
        assert [int.from_bytes(message[-2], "big") for message in got[:-1]] == [0]
        assert b"BlockRemoved" in got[0][-1]

    with_publisher(KvEventOptions(), body)
