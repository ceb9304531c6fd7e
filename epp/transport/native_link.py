"""One connection of the native transport: an asyncio protocol between a socket and the two sans-IO layers, HTTP/2 and gRPC.

Whatever happens in one turn of the loop, it goes out in one write: what the peer's bytes bring about at the end of `data_received`,
anything else at the end of the turn. A socket that takes no more is not written to; its streams then queue, which handlers can see.
"""

import asyncio
import logging
from dataclasses import dataclass, field
from itertools import islice
from typing import assert_never, cast

from epp.http2.connection import Connection
from epp.http2.events import ConnectionClosed, DataReceived, Event, PingAnswered, RequestReceived, StreamEnded, StreamReset
from epp.http2.frames import Code
from epp.model.budget import Budget
from epp.transport import grpc_wire as wire
from epp.transport.base import TransportOptions
from epp.transport.native_call import Call
from epp.transport.routes import Routes

log = logging.getLogger(__name__)

ALIVE = b"epp live"
LAST_CALL = b"epp stop"
"""Payloads of our PINGs: a sign of life wanted; and, after the first GOAWAY, word that it has arrived."""
LAST_CALL_S = 1.0
"""A peer that does not answer the latter gets its second GOAWAY after this."""
CUT_AT_ONCE = 256
"""Calls of a lost connection that end in one turn of the loop."""
LINGER_S = 2.0
"""What a connection that is being closed has for its last bytes."""


@dataclass(slots=True, kw_only=True)
class Shared:
    """What all connections of a server have in common."""

    options: TransportOptions
    routes: Routes
    inbound: Budget
    links: "set[Link]" = field(default_factory=set)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the last link goes."""


class Link(asyncio.Protocol):
    """A connection and its calls."""

    __slots__ = ("_calls", "_closing_at", "_heard", "_loop", "_lost", "_paused_at", "_refused", "_shared", "_socket", "_stopping",
                 "_turn", "http2", "inbound", "message_bytes_max", "outlet_bytes_max", "queued_bytes_max")  # fmt: skip

    def __init__(self, shared: Shared) -> None:
        options = shared.options
        self._shared = shared
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self.http2 = Connection(options.http2, self._heard)
        self.inbound = shared.inbound
        self.message_bytes_max = options.message_bytes_max
        self.outlet_bytes_max = options.outlet_bytes_max
        self.queued_bytes_max = max(options.http2.queued_bytes_max, options.outlet_bytes_max)
        self._calls: dict[int, Call] = {}
        self._refused: set[int] = set()
        """Streams that are not gRPC; answered when their request is complete."""
        self._turn = False
        """Somebody will write before this turn of the loop is over."""
        self._paused_at: float | None = None
        self._closing_at: float | None = None
        self._lost = False
        """The socket is gone."""
        self._stopping = False
        """Both GOAWAY have been said; the connection closes with its last stream."""

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet, unless there are too many of us or the peer did not choose HTTP/2."""
        self._socket = cast("asyncio.Transport", transport)  # uvloop's are not of asyncio's classes
        secured = transport.get_extra_info("ssl_object")
        full = len(self._shared.links) >= self._shared.options.connections_max
        if full:
            log.warning("connection refused", extra={"why": "too many connections"})
        if full or (secured is not None and secured.selected_alpn_protocol() != "h2"):  # RFC 9113 section 3.2
            self._socket.abort()
            return
        self._shared.links.add(self)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Take bytes, and write what they bring about."""
        self._heard = now = self._loop.time()
        self._turn = True
        for event in self.http2.receive(data, now):
            if type(event) is DataReceived:  # most are
                self._receive(event)
            else:
                self._handle(event)
        self._flush()
        if self.http2.more and not self._socket.is_closing():
            self._socket.pause_reading()
            self._loop.call_soon(self._read_on)

    def pause_writing(self) -> None:
        """The socket takes no more."""
        self._paused_at = self._loop.time()

    def resume_writing(self) -> None:
        """It does again."""
        self._paused_at = None
        self.wake()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature; the reason changes nothing
        """Tell the handlers."""
        self._lost = True
        self._cut_all()

    # What calls and the server call.

    def wake(self) -> None:
        """Write before this turn of the loop is over."""
        if not self._turn:
            self._turn = True
            self._loop.call_soon(self._flush)

    def forget(self, stream_id: int) -> None:
        """The call of this stream is over."""
        self._calls.pop(stream_id, None)

    def tick(self, now: float) -> None:
        """Do what is due; called once a second."""
        options = self._shared.options
        for event in self.http2.tick(now):
            self._handle(event)
        silent = now - self._heard
        if self.http2.streams and silent >= options.keepalive_s:
            self.http2.ping(ALIVE)
        stuck = self._paused_at is not None and now - self._paused_at >= options.http2.stall_timeout_s
        late = self._closing_at is not None and now - self._closing_at >= LINGER_S
        if stuck or late or (self.http2.streams and silent >= 2 * options.keepalive_s):
            self.abort()
        elif self.http2.waiting:
            self.wake()

    def begin_stop(self) -> None:
        """Ask for no new streams; once the peer has surely heard, take none; close when the last is over."""
        self.http2.announce_shutdown()
        self.http2.ping(LAST_CALL)
        self._loop.call_later(LAST_CALL_S, self._say_last_goaway)
        self.wake()

    def stop_now(self) -> None:
        """Take no new streams, end the open ones and close."""
        self._say_last_goaway()
        for call in tuple(self._calls.values()):
            call.give_up()
        self._close()

    def abort(self) -> None:
        """Close without another word."""
        self._socket.abort()

    # The rest.

    def _read_on(self) -> None:
        """Go on with what the last read left, now that the other connections had their turn."""
        if not self._socket.is_closing():
            self._socket.resume_reading()
            self.data_received(b"")

    def _handle(self, event: Event) -> None:
        match event:
            case DataReceived():
                self._receive(event)
            case RequestReceived():
                self._open(event)
            case StreamEnded():
                self._half_close(event.stream_id)
            case StreamReset():
                self._cut(event.stream_id)
            case PingAnswered():
                if event.payload == LAST_CALL:
                    self._say_last_goaway()
            case ConnectionClosed():
                self._closed(event)
            case _:
                assert_never(event)

    def _receive(self, event: DataReceived) -> None:
        call = self._calls.get(event.stream_id)
        if call is not None and event.data:
            call.receive(event.data)
        if event.ended:
            self._half_close(event.stream_id)

    def _open(self, event: RequestReceived) -> None:
        """A new stream: a call, or something that is not gRPC at all."""
        if not wire.is_grpc(event.request.fields):
            self._refused.add(event.stream_id)
            if event.ended:
                self._refuse(event.stream_id)
            return
        call = self._calls[event.stream_id] = Call(self, event.stream_id)
        call.open(event.request, self._shared.routes.get(event.request.path.decode("latin-1")))
        if event.ended:
            call.half_close()

    def _half_close(self, stream_id: int) -> None:
        call = self._calls.get(stream_id)
        if call is not None:
            call.half_close()
        else:
            self._refuse(stream_id)

    def _refuse(self, stream_id: int) -> None:
        """Answer a request that is not gRPC; not before it is complete, so that its sender reads the answer."""
        if stream_id in self._refused:
            self._refused.discard(stream_id)
            self.http2.headers(stream_id, wire.NOT_GRPC)
            self.http2.data(stream_id, wire.NOT_GRPC_TEXT)
            self.http2.end(stream_id, b"")

    def _cut(self, stream_id: int) -> None:
        self._refused.discard(stream_id)
        call = self._calls.get(stream_id)
        if call is not None:
            call.cut()

    def _cut_all(self) -> None:
        """Tell the handlers, in as many turns of the loop as that takes; a lost connection is forgotten after the last."""
        self._refused.clear()
        for call in tuple(islice(self._calls.values(), CUT_AT_ONCE)):
            call.cut()
        if self._calls:
            self._loop.call_soon(self._cut_all)
        elif self._lost:
            self._shared.links.discard(self)
            if not self._shared.links:
                self._shared.gone.set()

    def _closed(self, event: ConnectionClosed) -> None:
        """The connection is over, by the peer's mistake or by age; what is left of the output says why."""
        if event.code != Code.NO_ERROR:
            level = logging.WARNING if event.code == Code.ENHANCE_YOUR_CALM else logging.INFO
            peer = self._socket.get_extra_info("peername")
            log.log(level, "connection closed", extra={"why": event.message, "code": event.code, "peer": str(peer)})
        self._cut_all()
        self._close()

    def _say_last_goaway(self) -> None:
        if not self._stopping and not self.http2.closed:
            self._stopping = True
            self.http2.shut_down()
            self.wake()

    def _close(self) -> None:
        if self._closing_at is None:
            self._closing_at = self._loop.time()
            self.wake()

    def _flush(self) -> None:
        """Write what there is, a bounded piece a turn; close when that was the last."""
        self._turn = False
        if self._paused_at is None and not self._lost:
            output = self.http2.take()
            if output:
                self._socket.write(output)
            if self.http2.waiting:
                self.wake()
                return
        if self._closing_at is not None or (self._stopping and not self.http2.streams):
            self._close_socket()

    def _close_socket(self) -> None:
        if self._closing_at is None:
            self._closing_at = self._loop.time()
        self._socket.close()
