"""A server connection and what may be on its other end: bytes made by hand, or the `h2` library as a client."""

from collections.abc import Iterable

import h2.config
import h2.connection
import h2.events
import hpack

from epp.http2 import frames
from epp.http2.connection import Connection
from epp.http2.events import ConnectionClosed, Event, StreamReset
from epp.http2.frames import END_HEADERS, END_STREAM, HEADERS, PREFACE
from epp.http2.headers import encode
from epp.http2.limits import Limits

REQUEST = ((":method", "POST"), (":scheme", "http"), (":path", "/p.S/M"), (":authority", "a"), ("te", "trailers"))
OK = encode(((b":status", b"200"),))
TRAILERS = encode(((b"grpc-status", b"0"),))


def hear(server: Connection, data: bytes, now: float = 0.0) -> list[Event]:
    """All that bytes come to, however many rounds it takes."""
    events = server.receive(data, now)
    while server.more:
        events += server.receive(b"", now)
    return events


class RawPeer:
    """Sends frames byte by byte as the test says; time stands still unless the test moves it."""

    def __init__(self, limits: Limits | None = None, *, greet: bool = True) -> None:
        self.server = Connection(limits or Limits(), 0.0)
        self.server.take()
        self.now = 0.0
        self._encoder = hpack.Encoder()
        if greet:
            assert self.send(PREFACE + frames.settings({})) == []
            self.server.take()

    def send(self, *data: bytes) -> list[Event]:
        return hear(self.server, b"".join(data), self.now)

    def block(self, fields: Iterable[tuple[str, str]] = REQUEST) -> bytes:
        return self._encoder.encode(fields)

    def headers(self, stream_id: int, fields: Iterable[tuple[str, str]] = REQUEST, *, ended: bool = False) -> bytes:
        flags = END_HEADERS | (END_STREAM if ended else 0)
        return frames.frame(HEADERS, flags, stream_id, self.block(fields))

    def received(self) -> list[tuple[int, int, int, bytes]]:
        """What the server has to say, as (type, flags, stream, payload)."""
        return list(split(self.server.take()))


def split(data: bytes) -> Iterable[tuple[int, int, int, bytes]]:
    while data:
        high, low, kind, flags, stream_id = frames.HEADER.unpack_from(data)
        size = 9 + (high << 16 | low)
        yield kind, flags, stream_id, data[9:size]
        data = data[size:]


def closed_with(events: list[Event]) -> int | None:
    """The code of the connection's end, if that is what came."""
    return next((event.code for event in events if isinstance(event, ConnectionClosed)), None)


def reset_with(events: list[Event], stream_id: int) -> int | None:
    return next((event.code for event in events if isinstance(event, StreamReset) and event.stream_id == stream_id), None)


class H2Peer:
    """The `h2` library as a client of a server connection, bytes carried between them in pieces as the test says."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.server = Connection(limits or Limits(), 0.0)
        config = h2.config.H2Configuration(client_side=True, header_encoding=None)
        self.client = h2.connection.H2Connection(config)
        self.client.initiate_connection()
        self.server_events: list[Event] = []
        self.client_events: list[h2.events.Event] = []

    def exchange(self, *, piece: int = 1 << 30) -> None:
        """Carry bytes both ways until both sides have said all they have to say; whole, or cut into pieces."""
        while True:
            sent = self.client.data_to_send()
            for at in range(0, len(sent), piece):
                self.server_events += hear(self.server, sent[at : at + piece])
            answer = self.server.take()
            for at in range(0, len(answer), piece):
                for event in self.client.receive_data(answer[at : at + piece]):
                    self.client_events.append(event)
                    if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                        self.client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if not sent and not answer:
                return
