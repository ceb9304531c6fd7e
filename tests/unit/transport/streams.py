"""What the transport's tests share: stream handlers that keep a record, a server for one test, a client that deals in bytes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import grpc.aio

from epp.model.stream import Outlet
from epp.telemetry.health import HealthState
from epp.transport.base import Transport, TransportOptions
from epp.transport.routes import PROCESS_METHOD
from epp.transport.tls import TlsOptions

PLAINTEXT = TlsOptions(secure=False)
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
DEADLINE_S = 10


class Recorder:
    """A handler that keeps what it was told and answers with `answer`; an echo unless told otherwise."""

    def __init__(self, outlet: Outlet, answer: Callable[["Recorder", bytes], None] | None = None) -> None:
        self.outlet = outlet
        self.received: list[bytes] = []
        self.ends = 0
        self.goes_on = False
        """After the peer's half-close."""
        self._answer = answer or (lambda self, message: self.outlet.send(message))

    def receive(self, message: bytes) -> None:
        self.received.append(message)
        self._answer(self, message)

    def half_close(self) -> bool:
        return self.goes_on

    def end(self) -> None:
        self.ends += 1


class Streams:
    """`accept` of a test: makes a `Recorder` for every stream and remembers all of them."""

    def __init__(self, answer: Callable[[Recorder, bytes], None] | None = None) -> None:
        self.all: list[Recorder] = []
        self._answer = answer

    def __call__(self, outlet: Outlet) -> Recorder:
        self.all.append(Recorder(outlet, self._answer))
        return self.all[-1]


@asynccontextmanager
async def serving_with(
    kind: type[Transport], accept, health: HealthState | None = None, **options
) -> AsyncIterator[tuple[Transport, int]]:
    options = {"host": "127.0.0.1", "port": 0, "tls": PLAINTEXT} | options
    transport = kind(TransportOptions(**options))
    port = await transport.start(accept, health)
    try:
        yield transport, port
    finally:
        await transport.stop(0)


@asynccontextmanager
async def calling(port: int) -> AsyncIterator[Callable[[], grpc.aio.StreamStreamCall]]:
    """Yield what opens a stream whose messages are bytes."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=UNLIMITED) as channel:
        yield channel.stream_stream(PROCESS_METHOD)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; TimeoutError after `DEADLINE_S`."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - the condition is somebody else's state
            await asyncio.sleep(0.002)
