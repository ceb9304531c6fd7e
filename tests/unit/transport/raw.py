"""A client that says exactly what the test wants: the `h2` library over a socket of asyncio, gRPC by hand."""

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.errors
import h2.events
from h2.connection import ConnectionState
from h2.settings import SettingCodes, Settings

from epp.http2.frames import GOAWAY
from epp.transport.routes import PROCESS_METHOD

GRPC = {
    ":method": "POST",
    ":scheme": "http",
    ":path": PROCESS_METHOD,
    ":authority": "a",
    "te": "trailers",
    "content-type": "application/grpc",
}


def framed(message: bytes, flag: int = 0) -> bytes:
    return struct.pack(">BI", flag, len(message)) + message


@dataclass
class Answer:
    """What came back on a stream."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> str | None:
        return (self.trailers or self.headers).get("grpc-status")

    @property
    def message(self) -> str | None:
        return (self.trailers or self.headers).get("grpc-message")


class RawClient:
    """One connection. `reads` can be turned off: then nothing is read, nor acknowledged."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        config = h2.config.H2Configuration(
            header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.h2 = h2.connection.H2Connection(config)
        self.answers: dict[int, Answer] = {}
        self.goaways: list[h2.events.ConnectionTerminated] = []
        self.pings = 0
        self._rest = b""
        self.closed = False

    def open(self, *, ended: bool = False, **changes: str | None) -> int:
        """Send headers, those of a call but for `changes`, whose underscores are dashes; None leaves one out."""
        fields = GRPC | {name.replace("_", "-"): value for name, value in changes.items()}
        fields = {name: value for name, value in fields.items() if value is not None}
        stream = self.h2.get_next_available_stream_id()
        self.answers[stream] = Answer()
        self.h2.send_headers(stream, [(":" + n[1:] if n[0] in ":-" else n, v) for n, v in fields.items()], end_stream=ended)
        self.flush()
        return stream

    def send(self, stream: int, data: bytes, *, ended: bool = False) -> None:
        self.h2.send_data(stream, data, end_stream=ended)
        self.flush()

    def flush(self) -> None:
        self._writer.write(self.h2.data_to_send())

    def write(self, data: bytes) -> None:
        """Put bytes on the wire that the library would not."""
        self._writer.write(data)

    def abort(self) -> None:
        """Leave without a word."""
        self._writer.transport.abort()

    async def read(self) -> None:
        """Take what has come, once."""
        data = await self._reader.read(1 << 20)
        if not data:
            self.closed = True
        self._rest += data
        while len(self._rest) >= 9 and len(self._rest) >= (size := 9 + int.from_bytes(self._rest[:3], "big")):
            frame, self._rest = self._rest[:size], self._rest[size:]
            for event in self.h2.receive_data(frame):
                self._note(event)
            if frame[3] == GOAWAY:
                self.h2.state_machine.state = ConnectionState.CLIENT_OPEN  # the library would hear and say nothing more
        self.flush()

    async def until(self, condition) -> None:
        async with asyncio.timeout(10):
            while not condition():
                assert not self.closed, "the server closed the connection"
                await self.read()

    async def answer(self, stream: int) -> Answer:
        """The whole answer."""
        await self.until(lambda: self.answers[stream].ended)
        return self.answers[stream]

    async def until_closed(self) -> None:
        async with asyncio.timeout(10):
            while not self.closed:
                try:
                    await self.read()
                except ConnectionError:
                    self.closed = True

    def _note(self, event: h2.events.Event) -> None:
        answer = self.answers.get(getattr(event, "stream_id", 0) or 0, Answer())
        match event:
            case h2.events.ResponseReceived():
                answer.headers = dict(event.headers)
            case h2.events.TrailersReceived():
                answer.trailers = dict(event.headers)
            case h2.events.DataReceived():
                answer.body += event.data
                if event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                answer.ended = True
            case h2.events.StreamReset():
                answer.reset = event.error_code
                answer.ended = True
            case h2.events.ConnectionTerminated():
                self.goaways.append(event)
            case h2.events.PingReceived():
                self.pings += 1


@asynccontextmanager
async def raw_client(port: int, context: ssl.SSLContext | None = None, **settings: int) -> AsyncIterator[RawClient]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    client = RawClient(reader, writer)
    initial = {SettingCodes[name.upper()]: value for name, value in settings.items()}
    client.h2.local_settings = Settings(client=True, initial_values=initial)
    client.h2.initiate_connection()
    client.flush()
    try:
        yield client
    finally:
        client.abort()
