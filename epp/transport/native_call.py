"""One gRPC call on a native connection: the outlet of its handler, and the way of its messages to it.

The life of a call: opened, messages, and an end by whoever comes first: the peer (half-close, reset, a lost connection), the
handler (`close`, `fail`), or we (deadline, a bound passed, an exception). Whatever it is, the handler hears `end` once.
"""

import asyncio
from typing import Protocol

from epp.errors import StatusError
from epp.http2.connection import Connection
from epp.http2.headers import Request
from epp.model.budget import Budget
from epp.model.stream import StreamHandler
from epp.transport import grpc_wire as wire
from epp.transport.routes import Route, log_failure


class Link(Protocol):
    """What a call needs of its connection."""

    http2: Connection
    inbound: Budget
    """Incomplete messages, on all connections together."""
    message_bytes_max: int
    outlet_bytes_max: int
    queued_bytes_max: int

    def wake(self) -> None:
        """Write soon what the connection has to say."""

    def forget(self, stream_id: int) -> None:
        """The call of this stream is over."""


class Call:
    """One call; a `model.stream.Outlet`."""

    __slots__ = ("_answered", "_deadline", "_deframer", "_handler", "_held", "_id", "_link", "_over")

    def __init__(self, link: Link, stream_id: int) -> None:
        self._link = link
        self._id = stream_id
        self._handler: StreamHandler | None = None
        self._deframer: wire.Deframer | None = None
        self._held = 0
        """Bytes counted in `inbound`."""
        self._answered = False
        self._over = False
        """Nothing more is taken from the handler, nor given to it."""
        self._deadline: asyncio.TimerHandle | None = None

    # What the peer does.

    def open(self, request: Request, route: Route | None) -> None:
        """Begin, or refuse."""
        if route is None:
            self._end(wire.UNIMPLEMENTED, "unknown method")
            return
        fields = request.fields
        compressed = fields.get(b"grpc-encoding", b"identity") != b"identity"
        self._deframer = wire.Deframer(self._link.message_bytes_max, compressed=compressed)
        try:
            if b"grpc-timeout" in fields:
                seconds = wire.timeout_s(fields[b"grpc-timeout"])
                self._deadline = asyncio.get_running_loop().call_later(seconds, self._expire)
            self._handler = route.accept(self)
        except StatusError as error:
            self._end(error.code, error.message)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises, only this call may suffer from it
            self._blame(error)

    def receive(self, data: bytes) -> None:
        """Take a piece of the request."""
        deframer, handler = self._deframer, self._handler
        if self._over or deframer is None or handler is None:
            return
        try:
            for message in deframer.feed(data):
                handler.receive(message)
            difference = deframer.held_bytes - self._held
            if difference and not self._over:
                if self._link.inbound.take(difference):
                    self._held += difference
                else:
                    self._end(wire.RESOURCE_EXHAUSTED, "too many incomplete messages")
        except StatusError as error:
            self._end(error.code, error.message)
        except Exception as error:  # noqa: BLE001 - as above
            self._blame(error)

    def half_close(self) -> None:
        """The peer has said all it will; that ends the call, unless its handler says otherwise."""
        if self._over:
            return
        if self._deframer is not None and not self._deframer.between_messages:
            self._end(wire.INTERNAL, "the last message is incomplete")
            return
        try:
            goes_on = self._handler is not None and self._handler.half_close()
        except Exception as error:  # noqa: BLE001 - as in `open`
            self._blame(error)
            return
        if not goes_on and not self._over:
            self._over = True
            failed = self._settle()
            self._send_status(*((wire.INTERNAL, "internal error") if failed else (wire.OK, "")))

    def cut(self) -> None:
        """The stream is gone."""
        self._over = True
        self._settle()

    def give_up(self) -> None:
        """The server stops and cannot wait any longer."""
        self._end(wire.UNAVAILABLE, "the server stops")

    # What the handler does.

    def send(self, message: bytes) -> None:
        """Queue one message."""
        if self._over:
            return
        http2, link = self._link.http2, self._link
        if not self._answered:
            self._answered = True
            http2.headers(self._id, wire.RESPONSE_HEADERS)
        http2.data(self._id, message, prefix=wire.PREFIX.pack(0, len(message)))
        if http2.queued_bytes and (
            http2.stream_queued_bytes(self._id) > link.outlet_bytes_max or http2.queued_bytes > link.queued_bytes_max
        ):
            self._end(wire.RESOURCE_EXHAUSTED, "too many bytes wait for the peer to read")
        link.wake()

    def close(self) -> None:
        """End with OK."""
        self.fail(wire.OK, "")

    def fail(self, code: int, message: str) -> None:
        """End with a status, once everything queued has gone out."""
        if self._over:
            return
        self._over = True
        self._send_status(code, message)
        asyncio.get_running_loop().call_soon(self._settle)  # not from within the handler

    def pending_bytes(self) -> int:
        """Return what is queued."""
        return self._link.http2.stream_queued_bytes(self._id)

    # How it ends.

    def _expire(self) -> None:
        self._end(wire.DEADLINE_EXCEEDED, "deadline exceeded")

    def _blame(self, error: Exception) -> None:
        log_failure(error)
        self._end(wire.INTERNAL, "internal error")

    def _end(self, code: int, message: str) -> None:
        """End at once, whatever is queued; the handler hears of it a moment later, since it may be the one who calls."""
        if self._over:
            return
        self._over = True
        self._send_status(code, message, discard=True)
        asyncio.get_running_loop().call_soon(self._settle)

    def _send_status(self, code: int, message: str, *, discard: bool = False) -> None:
        block = wire.status(code, message, alone=not self._answered)
        if self._answered:
            self._link.http2.end(self._id, block, discard=discard)
        else:
            self._link.http2.headers(self._id, block, end_stream=True)
        self._link.wake()

    def _settle(self) -> bool:
        """Release what the call holds and tell the handler, once. Returns whether the handler raised."""
        if self._deadline is not None:
            self._deadline.cancel()
        if self._held:
            self._link.inbound.give_back(self._held)
            self._held = 0
        self._deframer = None
        self._link.forget(self._id)
        handler, self._handler = self._handler, None
        if handler is not None:
            try:
                handler.end()
            except Exception as error:  # noqa: BLE001 - as in `open`
                log_failure(error)
                return True
        return False
