"""What a connection tells the server that drives it. Of a stream the order is: request, data, then an end or a reset, once.

msgspec structs and not dataclasses, since one is made for every DATA frame: an eighth of the cost.
"""

from msgspec import Struct

from epp.http2.headers import Request


class RequestReceived(Struct, frozen=True, gc=False):
    """A new stream."""

    stream_id: int
    request: Request
    ended: bool
    """Nothing will follow: the peer has half-closed the stream."""


class DataReceived(Struct, frozen=True, gc=False):
    """A piece of the request's body, without padding."""

    stream_id: int
    data: bytes
    ended: bool


class StreamEnded(Struct, frozen=True, gc=False):
    """The peer has half-closed the stream with trailers, which are of no interest to a gRPC server."""

    stream_id: int


class StreamReset(Struct, frozen=True, gc=False):
    """The stream is over and nothing can be sent on it any more."""

    stream_id: int
    code: int
    by_peer: bool


class PingAnswered(Struct, frozen=True, gc=False):
    """The peer is there."""

    payload: bytes


class ConnectionClosed(Struct, frozen=True, gc=False):
    """The connection is over: write what is left of the output, then close the socket. Open streams end without another event."""

    code: int
    message: str


Event = RequestReceived | DataReceived | StreamEnded | StreamReset | PingAnswered | ConnectionClosed
