"""The driver of the benches of whole servers: speaks HTTP/2 to a picker as Envoy does, and costs little itself.

One connection carries all streams. What is at hand goes out in one write, as a turn of Envoy's loop does it: a request's headers,
body and end together, a short response's as well, and whatever several streams have to say at that moment. It knows of HTTP/2 what
two well-behaved sides need: frames, both windows, no errors; a surprise is an exception.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Sequence

from hpack import Encoder

from epp.http2 import frames
from epp.http2.frames import ACK, DATA, END_STREAM, FRAME_BYTES_DEFAULT, HEADER, HEADER_BYTES, PREFACE, WINDOW_DEFAULT, Setting
from epp.transport.grpc_wire import PREFIX, Deframer
from epp.transport.routes import PROCESS_METHOD

WINDOW = 1 << 28
"""What Envoy lets a peer send on a stream and on a connection, and so never a reason to wait."""
REQUEST_FIELDS = (
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "picker"),
    (":path", PROCESS_METHOD),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)


class Stream:
    """One ext_proc stream: what waits to be sent, and what has come."""

    def __init__(self, client: "EnvoyClient", stream_id: int) -> None:
        self._client = client
        self.id = stream_id
        self.window = client.window_initial
        self.queue: deque[bytes] = deque()
        self.answers: deque[bytes] = deque()
        self.ended = False
        self.deframer = Deframer(-1, compressed=False)
        self.wanted = 0
        self.come: asyncio.Future[None] | None = None

    def send(self, messages: Sequence[bytes]) -> None:
        """Queue messages, each in DATA frames of its own."""
        for message in messages:
            framed = PREFIX.pack(0, len(message)) + message
            self.queue += [framed[at : at + FRAME_BYTES_DEFAULT] for at in range(0, len(framed), FRAME_BYTES_DEFAULT)]
        self._client.sends(self)

    async def receive(self, count: int) -> list[bytes]:
        """Return the next `count` messages."""
        await self._until(count)
        return [self.answers.popleft() for _ in range(count)]

    async def close(self) -> None:
        """Say that there is no more, and wait for the status."""
        self._client.write(frames.head(0, DATA, END_STREAM, self.id))
        await self._until(1 << 30)

    async def _until(self, count: int) -> None:
        while len(self.answers) < count and not self.ended:
            self.wanted = count
            self.come = asyncio.get_running_loop().create_future()
            await self.come
        if self.ended and 0 < count < 1 << 30 and len(self.answers) < count:
            raise RuntimeError(f"the stream ended after {len(self.answers)} of {count} answers")

    def wake(self) -> None:
        """Let the waiter go on if what it wants is there."""
        if self.come is not None and not self.come.done() and (self.ended or len(self.answers) >= self.wanted):
            self.come.set_result(None)


class EnvoyClient(asyncio.Protocol):
    """A connection. Use `connect`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._streams: dict[int, Stream] = {}
        self._encoder = Encoder()
        self._next_id = 1
        self._output: list[bytes] = []
        self._flushing = False
        self._blocked: dict[int, Stream] = {}
        self._rest = b""
        self._unacknowledged = 0
        self._window = WINDOW_DEFAULT
        self.window_initial = WINDOW_DEFAULT
        self._settled = self._loop.create_future()

    async def settled(self) -> None:
        """Wait for the peer's settings."""
        await self._settled

    def open(self) -> Stream:
        """Return a new stream."""
        stream = self._streams[self._next_id] = Stream(self, self._next_id)
        self._next_id += 2
        self.write(frames.headers(stream.id, self._encoder.encode(REQUEST_FIELDS), end_stream=False))
        return stream

    def close(self) -> None:
        """Hang up."""
        self._transport.close()

    def sends(self, stream: Stream) -> None:
        """Write what the windows allow of a stream's queue; the rest waits."""
        while stream.queue and (size := len(stream.queue[0])) <= min(stream.window, self._window):
            stream.window -= size
            self._window -= size
            self.write(frames.frame(DATA, 0, stream.id, stream.queue.popleft()))
        if stream.queue:
            self._blocked[stream.id] = stream
        else:
            self._blocked.pop(stream.id, None)

    def write(self, data: bytes) -> None:
        """Write before this turn of the loop is over, in one piece with what else there is."""
        self._output.append(data)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        self._transport.write(b"".join(self._output))
        self._output.clear()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        settings = frames.settings({Setting.INITIAL_WINDOW_SIZE: WINDOW, Setting.ENABLE_PUSH: 0})
        self.write(PREFACE + settings + frames.window_update(0, WINDOW - WINDOW_DEFAULT))

    def data_received(self, data: bytes) -> None:
        data, at = self._rest + data, 0
        while len(data) - at >= HEADER_BYTES:
            high, low, kind, flags, stream_id = HEADER.unpack_from(data, at)
            size = high << 16 | low
            if len(data) - at < HEADER_BYTES + size:
                break
            at += HEADER_BYTES
            self._read(kind, flags, stream_id, data[at : at + size])
            at += size
        self._rest = data[at:]

    def connection_lost(self, exc: Exception | None) -> None:
        for stream in self._streams.values():
            stream.ended = True
            stream.wake()

    def _read(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        stream = self._streams.get(stream_id)
        if kind == frames.WINDOW_UPDATE:
            self._grant(stream, stream_id, frames.read_word(payload))
        elif kind == frames.SETTINGS and not flags & ACK:
            self._settle(dict(frames.read_settings(payload)))
        elif kind == frames.PING and not flags & ACK:
            self.write(frames.ping(payload, ack=True))
        elif kind in {frames.GOAWAY, frames.RST_STREAM}:
            raise RuntimeError(f"frame {kind} of the peer: {payload!r}")
        elif stream is not None and kind in {DATA, frames.HEADERS}:
            if kind == DATA:
                self._acknowledge(len(payload))
                stream.answers += stream.deframer.feed(payload)
            if flags & END_STREAM:
                stream.ended = True
                del self._streams[stream_id]
            stream.wake()

    def _grant(self, stream: Stream | None, stream_id: int, increment: int) -> None:
        if not stream_id:
            self._window += increment
        elif stream is not None:
            stream.window += increment
        for blocked in list(self._blocked.values()):
            self.sends(blocked)

    def _settle(self, settings: dict[int, int]) -> None:
        if (size := settings.get(Setting.INITIAL_WINDOW_SIZE)) is not None:
            for stream in self._streams.values():
                stream.window += size - self.window_initial
            self.window_initial = size
        self.write(frames.SETTINGS_ACK)
        if not self._settled.done():
            self._settled.set_result(None)

    def _acknowledge(self, size: int) -> None:
        self._unacknowledged += size
        if self._unacknowledged > WINDOW // 2:
            self.write(frames.window_update(0, self._unacknowledged))
            self._unacknowledged = 0


async def connect(host: str, port: int, certificate: bytes | None = None) -> EnvoyClient:
    """Return a connection that is ready; over TLS where the server's certificate is given."""
    secured = None
    if certificate is not None:
        secured = ssl.create_default_context(cadata=certificate.decode())
        secured.check_hostname = False
        secured.set_alpn_protocols(["h2"])
    _, client = await asyncio.get_running_loop().create_connection(EnvoyClient, host, port, ssl=secured)
    await client.settled()
    return client
