"""Attacks on a live server beside honest traffic: every honest call succeeds, and memory stays within a bound."""

import asyncio
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import grpc.aio
import hpack
import pytest

from epp.http2 import frames
from epp.http2.frames import CONTINUATION, DATA, END_HEADERS, HEADERS, PRIORITY, Code, Setting
from epp.transport.routes import PROCESS_METHOD
from tests.unit.transport.raw import framed
from tests.unit.transport.streams import DEADLINE_S

ATTACK_S = 0.7
ATTACKERS = 3
MEMORY_KB_MAX = 80_000
"""What one attack may make the server grow by: each attacker's ten thousand open streams of under two kilobytes, and some more."""
BURST = 200

FIELDS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", PROCESS_METHOD),
    (":authority", "a"),
    ("content-type", "application/grpc"),
]
BLOCK = hpack.Encoder().encode([(name, value, True) for name, value in FIELDS])
HELLO = frames.PREFACE + frames.settings({})


def streams() -> Iterator[int]:
    return iter(range(1, 1 << 30, 2))


def opening(number: int) -> bytes:
    return frames.frame(HEADERS, END_HEADERS, number, BLOCK)


def forever(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece * BURST


def rapid_reset() -> Iterator[bytes]:
    yield HELLO
    for number in streams():
        yield opening(number) + frames.rst_stream(number, Code.CANCEL)


def streams_left_open() -> Iterator[bytes]:
    yield HELLO
    for number in streams():
        yield opening(number)


def malformed_streams() -> Iterator[bytes]:
    yield HELLO
    for number in streams():
        yield frames.frame(HEADERS, END_HEADERS, number, b"\x83")


def continuations() -> Iterator[bytes]:
    yield HELLO + frames.frame(HEADERS, 0, 1, BLOCK)
    yield from forever(frames.frame(CONTINUATION, 0, 1, b"\x83" * 100))


def header_bombs() -> Iterator[bytes]:
    """A long field put into the table once, then meant ten thousand times in each block."""
    yield HELLO + frames.frame(HEADERS, END_HEADERS, 1, hpack.Encoder().encode([*FIELDS, ("x", "y" * 3_900)]))
    for number in range(3, 1 << 30, 2):
        yield frames.frame(HEADERS, END_HEADERS, number, b"\xbe" * 10_000)


def settings() -> Iterator[bytes]:
    yield HELLO
    yield from forever(frames.settings({Setting.INITIAL_WINDOW_SIZE: 1}))


def pings() -> Iterator[bytes]:
    yield HELLO
    yield from forever(frames.ping(bytes(8)))


def empty_frames() -> Iterator[bytes]:
    yield HELLO + opening(1)
    yield from forever(frames.frame(DATA, 0, 1, b""))


def priorities() -> Iterator[bytes]:
    yield HELLO
    yield from forever(frames.frame(PRIORITY, 0, 1, bytes(5)))


def window_overflow() -> Iterator[bytes]:
    yield HELLO + opening(1)
    yield from forever(frames.window_update(0, 0x7FFF_FFFF))


def zero_windows() -> Iterator[bytes]:
    """Wants an echo on a thousand streams and shuts its windows."""
    yield frames.PREFACE + frames.settings({Setting.INITIAL_WINDOW_SIZE: 0})
    for number in streams():
        yield opening(number) + frames.frame(DATA, 0, number, framed(bytes(16_000)))
        if number > 400:
            return


def incomplete_messages() -> Iterator[bytes]:
    """Announces four gigabytes on each stream and sends some."""
    yield HELLO
    for number in streams():
        yield opening(number) + frames.frame(DATA, 0, number, b"\x00\xff\xff\xff\xff" + bytes(8_000))
        if number > 400:
            return


def silence() -> Iterator[bytes]:
    yield frames.PREFACE[:10]


def noise() -> Iterator[bytes]:
    yield HELLO
    while True:
        yield random.randbytes(1_000)


ATTACKS = [
    rapid_reset,
    streams_left_open,
    malformed_streams,
    continuations,
    header_bombs,
    settings,
    pings,
    empty_frames,
    priorities,
    window_overflow,
    zero_windows,
    incomplete_messages,
    silence,
    noise,
]


class Server:
    def __init__(self) -> None:
        program = [sys.executable, "-m", "tests.unit.transport.echo_server"]
        root = Path(__file__).parents[3]
        self._process = subprocess.Popen(
            program, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.port = int(self._process.stdout.readline())

    def resident_kb(self) -> int:
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))

    def stop(self) -> int:
        self._process.stdin.close()
        self._process.stdout.close()
        return self._process.wait(DEADLINE_S)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    assert server.stop() == 0


async def attack(port: int, make: Callable[[], Iterator[bytes]], *, reads: bool) -> int:
    """Do it over and over until cancelled; return on how many connections."""
    connections = 0
    while True:
        connections += 1
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        reading = asyncio.create_task(drain(reader)) if reads else None
        try:
            with suppress(ConnectionError):
                for piece in make():
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                await asyncio.sleep(ATTACK_S)
        finally:
            writer.transport.abort()
            if reading is not None:
                reading.cancel()


async def drain(reader: asyncio.StreamReader) -> None:
    with suppress(ConnectionError):
        while await reader.read(1 << 16):
            pass


async def honest(channel: grpc.aio.Channel, stop: asyncio.Event) -> int:
    """Call until told to stop; return how often. Any failure is an exception."""
    calls = 0
    while not stop.is_set():
        call = channel.stream_stream(PROCESS_METHOD)(timeout=DEADLINE_S)
        for message in (b"first", bytes(2_000), b"last"):
            await call.write(message)
            assert await call.read() == message
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK
        calls += 1
    return calls


@pytest.mark.parametrize("reads", [True, False], ids=["reads", "reads-nothing"])
@pytest.mark.parametrize("make", ATTACKS, ids=lambda make: make.__name__)
def test_honest_calls_succeed_during(server, make, reads):
    async def main() -> int:
        stop = asyncio.Event()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            workers = [asyncio.create_task(honest(channel, stop)) for _ in range(2)]
            attackers = [asyncio.create_task(attack(server.port, make, reads=reads)) for _ in range(ATTACKERS)]
            done, _ = await asyncio.wait([*workers, *attackers], timeout=ATTACK_S, return_when=asyncio.FIRST_EXCEPTION)
            most = server.resident_kb()
            stop.set()
            for attacker in attackers:
                attacker.cancel()
            await asyncio.gather(*attackers, return_exceptions=True)
            assert not done.intersection(attackers)
            calls = await asyncio.gather(*workers)
        assert all(calls)
        return most

    before = server.resident_kb()
    assert asyncio.run(main()) - before < MEMORY_KB_MAX
