"""The life of a stream as a server sees it (RFC 9113 section 5.1), as a table.

The states are those of the RFC but for two. The reserved ones come with push, which we never do. Half-closed (local) does not last:
a server that has answered before the request was complete resets the stream with NO_ERROR in the same breath (section 8.1). In
exchange, closed is three states, since what a late frame means depends on who closed.
"""

from collections import deque
from enum import IntEnum
from typing import NamedTuple

from epp.errors import Http2Error
from epp.http2.frames import DATA, HEADERS, RST_STREAM, STREAM_ID_MAX, WINDOW_UPDATE, Code
from epp.http2.limits import Limits


class State(IntEnum):
    """Where a stream is."""

    IDLE = 0
    OPEN = 1
    HALF_CLOSED = 2
    """(remote): the peer has sent all it will; it is our turn."""
    ENDED = 3
    """Closed by END_STREAM from both sides."""
    RESET_BY_PEER = 4
    RESET_BY_US = 5


class Refusal(NamedTuple):
    """What is wrong with a frame in a state, and how much of the connection it costs."""

    code: Code
    whole_connection: bool
    why: str

    def error(self, stream_id: int) -> Http2Error:
        """Return it as an exception."""
        return Http2Error(self.why, self.code, 0 if self.whole_connection else stream_id)


_IDLE = Refusal(Code.PROTOCOL_ERROR, True, "frame on a stream that was never opened")
_HALF_CLOSED = Refusal(Code.STREAM_CLOSED, False, "frame after END_STREAM")
_ENDED = Refusal(Code.STREAM_CLOSED, True, "frame on a stream that both sides have ended")
_RESET = Refusal(Code.STREAM_CLOSED, False, "frame after RST_STREAM")

S = State
RECEIVED: dict[tuple[State, int], State | Refusal | None] = {
    # idle; "any frame other than HEADERS or PRIORITY on a stream in this state MUST be treated as a connection error"
    (S.IDLE, HEADERS): S.OPEN,
    (S.IDLE, DATA): _IDLE,
    (S.IDLE, RST_STREAM): _IDLE,
    (S.IDLE, WINDOW_UPDATE): _IDLE,
    # open; anything; a second HEADERS is the trailers, and must end the stream (section 8.1)
    (S.OPEN, HEADERS): S.HALF_CLOSED,
    (S.OPEN, DATA): S.OPEN,
    (S.OPEN, RST_STREAM): S.RESET_BY_PEER,
    (S.OPEN, WINDOW_UPDATE): S.OPEN,
    # half-closed (remote): "an additional frame, other than WINDOW_UPDATE, PRIORITY, or RST_STREAM, ... MUST" be a stream error
    (S.HALF_CLOSED, HEADERS): _HALF_CLOSED,
    (S.HALF_CLOSED, DATA): _HALF_CLOSED,
    (S.HALF_CLOSED, RST_STREAM): S.RESET_BY_PEER,
    (S.HALF_CLOSED, WINDOW_UPDATE): S.HALF_CLOSED,
    # closed by both; "any frames after receiving a frame with the END_STREAM flag set MUST [be treated] as a connection error", but
    # WINDOW_UPDATE and RST_STREAM may have been under way
    (S.ENDED, HEADERS): _ENDED,
    (S.ENDED, DATA): _ENDED,
    (S.ENDED, RST_STREAM): None,
    (S.ENDED, WINDOW_UPDATE): None,
    # closed by the peer's RST_STREAM; what follows is a stream error, but for what costs nothing
    (S.RESET_BY_PEER, HEADERS): _RESET,
    (S.RESET_BY_PEER, DATA): _RESET,
    (S.RESET_BY_PEER, RST_STREAM): None,
    (S.RESET_BY_PEER, WINDOW_UPDATE): None,
    # closed by our RST_STREAM; "MUST minimally process and then discard any frames it receives in this state"
    (S.RESET_BY_US, HEADERS): None,
    (S.RESET_BY_US, DATA): None,
    (S.RESET_BY_US, RST_STREAM): None,
    (S.RESET_BY_US, WINDOW_UPDATE): None,
}
"""State and frame to the state that follows, None to ignore the frame, or what to answer. END_STREAM takes OPEN to HALF_CLOSED."""


class Stream:
    """What is known of a stream that is not closed."""

    __slots__ = (
        "answered",
        "body_left",
        "id",
        "in_turn",
        "queue",
        "queued_bytes",
        "receive_window",
        "send_window",
        "stalled_at",
        "state",
        "trailers",
    )

    def __init__(self, stream_id: int, send_window: int, receive_window: int) -> None:
        self.id = stream_id
        self.state = State.OPEN
        self.send_window = send_window
        """May be negative, after a SETTINGS that lowers it (section 6.9.2)."""
        self.receive_window = receive_window
        self.body_left: int | None = None
        """What is left of `content-length`."""
        self.answered = False
        """The response headers have been sent."""
        self.queue: deque[bytes | memoryview] | None = None
        """DATA that the windows did not let out yet; made when first needed, since it is as large as all the rest of a stream."""
        self.queued_bytes = 0
        self.trailers: bytes | None = None
        """The block that ends the stream once the queue is out."""
        self.in_turn = False
        """Among those that send as soon as the connection can."""
        self.stalled_at = 0.0
        """Since when the peer's window has been shut with bytes waiting."""


class Streams:
    """The streams of a connection: those that are open, and how the last few of the others were closed.

    Args:
        limits: how many of each.
    """

    __slots__ = ("_last_admitted", "_limits", "_over", "last_id", "open")

    def __init__(self, limits: Limits) -> None:
        self.open: dict[int, Stream] = {}
        self.last_id = 0
        """The highest number that the peer has used."""
        self._last_admitted = STREAM_ID_MAX
        self._limits = limits
        self._over: dict[int, State] = {}

    def admit(self, stream_id: int) -> bool:
        """Return whether to open a stream; not after our GOAWAY, whose sender "can ignore frames on streams" above its last (6.8).

        Raises:
            Http2Error: there are too many. The code says that nothing was done, so that a retry is safe (section 8.7).
        """
        if stream_id > self._last_admitted:
            self.remember(stream_id, State.RESET_BY_US)
            return False
        if len(self.open) >= self._limits.streams_max:
            raise Http2Error("too many streams", Code.REFUSED_STREAM, stream_id)
        return True

    def admit_no_more(self) -> int:
        """Refuse streams from now on; return the last admitted one."""
        self._last_admitted = min(self._last_admitted, self.last_id)
        return self._last_admitted

    def close(self, stream: Stream, how: State) -> None:
        """Take a stream out of the open ones."""
        stream.state = how
        del self.open[stream.id]
        self.remember(stream.id, how)

    def remember(self, stream_id: int, how: State) -> None:
        """Note how a stream was closed, and forget the oldest such note when there are too many."""
        self._over[stream_id] = how
        if len(self._over) > self._limits.closed_streams_kept:
            del self._over[next(iter(self._over))]

    def check_late(self, stream_id: int, kind: int) -> State | None:
        """Look at a frame on a stream that is not open; what it means depends on how the stream came to that.

        Returns:
            How it did, None if that is forgotten.

        Raises:
            Http2Error: it was never opened, or what it was closed by forbids this frame.
        """
        idle = stream_id > self.last_id or not stream_id & 1  # even numbers would be ours (section 5.1.1), and we open none
        state = State.IDLE if idle else self._over.get(stream_id)
        if kind == HEADERS and (idle or state is None):
            raise Http2Error("a stream number that cannot be opened", Code.PROTOCOL_ERROR)  # section 5.1.1
        after = None if state is None else RECEIVED[state, kind]
        if isinstance(after, Refusal):
            raise after.error(stream_id)
        return state
