"""Clients of the gateway: HTTP/1.1 over http.client, HTTP/2 over the h2 library. Both end with an error rather than hang."""

import http.client
import socket
import struct
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)

TIMEOUT_S = 15.0
Headers = Iterable[tuple[str, str]]


class Address(Protocol):
    """Anything with a host and a port."""

    host: str
    port: int


@dataclass(kw_only=True)
class Response:
    """An answer, whole."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    trailers: list[tuple[str, str]] = field(default_factory=list)

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    @property
    def port(self) -> int:
        """Port of the model server that answered."""
        return int(self.header("x-upstream-port") or 0)


def new_id() -> str:
    """A value for `x-test-id`."""
    return uuid.uuid4().hex


@contextmanager
def opened(
    gateway: Address, method: str, path: str, body: bytes | None = None, headers: Headers = ()
) -> Iterator[http.client.HTTPConnection]:
    """A connection on which a request has been sent; closed at the end, answered or not."""
    connection = http.client.HTTPConnection(gateway.host, gateway.port, timeout=TIMEOUT_S)
    try:
        connection.putrequest(method, path)
        for name, value in headers:
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("content-length", str(len(body)))
        connection.endheaders(body)
        yield connection
    finally:
        connection.close()


def request(gateway: Address, method: str, path: str, body: bytes | None = None, headers: Headers = ()) -> Response:
    """Send a request over HTTP/1.1 and return its answer."""
    with opened(gateway, method, path, body, headers) as connection:
        return whole(connection.getresponse())


def whole(response: http.client.HTTPResponse) -> Response:
    """The answer, read to its end."""
    body = response.read()
    return Response(status=response.status, headers=[(n.lower(), v) for n, v in response.getheaders()], body=body)


def reset(connection: http.client.HTTPConnection) -> None:
    """Leave without a word: a TCP reset."""
    assert connection.sock is not None
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.sock.close()


class StreamWasReset(Exception):
    """The gateway reset the HTTP/2 stream."""


class H2Client:
    """One HTTP/2 connection with prior knowledge, one request at a time."""

    def __init__(self, gateway: Address) -> None:
        self._socket = socket.create_connection((gateway.host, gateway.port), timeout=TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._authority = f"{gateway.host}:{gateway.port}"
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._h2.initiate_connection()
        self._responses: dict[int, Response] = {}
        self._ended: set[int] = set()
        self._flush()

    def __enter__(self) -> "H2Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def request(
        self, method: str, path: str, pieces: Iterable[bytes] = (), headers: Headers = (), trailers: Headers = ()
    ) -> Response:
        """Send a request, its body as DATA frames cut as given, its trailers if any; return its answer."""
        stream = self.begin(method, path, headers, end=not (pieces or trailers))
        pieces, trailers = list(pieces), list(trailers)
        for index, piece in enumerate(pieces):
            self.send(stream, piece, end=index == len(pieces) - 1 and not trailers)
        if trailers:
            self._h2.send_headers(stream, trailers, end_stream=True)
            self._flush()
        return self.answer(stream)

    def begin(self, method: str, path: str, headers: Headers = (), *, end: bool) -> int:
        """Send the headers; return the stream's id."""
        stream = self._h2.get_next_available_stream_id()
        pseudo = [(":method", method), (":path", path), (":scheme", "http"), (":authority", self._authority)]
        self._h2.send_headers(stream, [*pseudo, *headers], end_stream=end)
        self._responses[stream] = Response(status=0, headers=[], body=b"")
        self._flush()
        return stream

    def cancel(self, stream: int) -> None:
        """Reset the stream."""
        self._h2.reset_stream(stream, 8)
        self._flush()

    def answer(self, stream: int) -> Response:
        """The whole answer."""
        while stream not in self._ended:
            self._receive()
        return self._responses[stream]

    def send(self, stream: int, data: bytes, *, end: bool) -> None:
        while True:
            size = min(len(data), self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)
            if size == 0 and data:
                self._receive()
                continue
            piece, data = data[:size], data[size:]
            self._h2.send_data(stream, piece, end_stream=end and not data)
            self._flush()
            if not data:
                return

    def _flush(self) -> None:
        self._socket.sendall(self._h2.data_to_send())

    def _receive(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError("the gateway closed the connection")
        for event in self._h2.receive_data(data):
            match event:
                case ResponseReceived(stream_id=stream, headers=headers):
                    self._responses[stream].status = int(dict(headers)[":status"])
                    self._responses[stream].headers = list(headers)
                case DataReceived(stream_id=stream, data=body, flow_controlled_length=length):
                    self._responses[stream].body += body
                    self._h2.acknowledge_received_data(length, stream)
                case TrailersReceived(stream_id=stream, headers=headers):
                    self._responses[stream].trailers = list(headers)
                case StreamEnded(stream_id=stream):
                    self._ended.add(stream)
                case StreamReset(stream_id=stream, error_code=code):
                    raise StreamWasReset(f"stream {stream}, code {code}")
                case WindowUpdated():
                    pass
        self._flush()
