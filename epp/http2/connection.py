"""The server's side of one HTTP/2 connection: `receive` bytes, get events; call `headers`, `data`, `end`, `reset`; `take` bytes.

Here the two halves meet: what comes in (`inflow`), what goes out (`outflow`), and the streams they share. Nothing is ever raised to
the caller: a mistake of the peer comes out as an event, and a call for a stream that is over does nothing.
"""

from epp.errors import Http2Error
from epp.http2 import frames
from epp.http2.events import ConnectionClosed, Event
from epp.http2.frames import STREAM_ID_MAX, WINDOW_DEFAULT, Code, Setting
from epp.http2.inflow import Inflow
from epp.http2.limits import Limits
from epp.http2.outflow import Outflow
from epp.http2.streams import State, Stream, Streams


class Connection:
    """One connection. Times are seconds of any clock that only goes forward.

    Args:
        limits: the bounds.
        now: the time of its beginning.
    """

    __slots__ = ("_begun", "_in", "_limits", "_out", "_streams", "_used", "closed")

    def __init__(self, limits: Limits, now: float) -> None:
        self.closed = False
        """Nothing more is read; what is left of the output tells the peer why."""
        self._limits = limits
        self._streams = Streams(limits)
        self._out = Outflow(limits, ended=self._ended, read=self._give_credit)
        self._in = Inflow(limits, self._streams, self._out, give_credit=self._give_credit)
        self._begun = self._used = now
        self._greet()

    def _greet(self) -> None:
        """Send the server's preface, its SETTINGS (section 3.4); the connection's window has no setting, but a frame."""
        limits = self._limits
        values = {
            Setting.MAX_CONCURRENT_STREAMS: limits.streams_max,
            Setting.INITIAL_WINDOW_SIZE: limits.stream_window,
            Setting.MAX_FRAME_SIZE: limits.frame_bytes_max,
            Setting.MAX_HEADER_LIST_SIZE: limits.header_list_bytes_max,
        }
        self._out.control(frames.settings(values))
        self._out.control(frames.window_update(0, limits.connection_window - WINDOW_DEFAULT))

    # What comes from the peer.

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Return what the peer's bytes come to, or some of them: see `more`."""
        if self.closed:
            return []
        self._out.now = now
        try:
            self._in.read(data, now)
        except Http2Error as error:
            self._close(error.code, error.message)
        return self._events()

    @property
    def more(self) -> bool:
        """Whether frames are left: `receive` is to be called again, without bytes, once other connections had their turn."""
        return self._in.more and not self.closed

    def tick(self, now: float) -> list[Event]:
        """Return what time alone has brought about; to be called about once a second."""
        if self.closed:
            return []
        limits = self._limits
        self._out.now = now
        if self._streams.open:
            self._used = now
        if not self._in.settled and now - self._begun >= limits.preface_timeout_s:
            self._close(Code.SETTINGS_TIMEOUT, "no preface in time")
        elif now - self._used >= limits.idle_timeout_s:
            self._close(Code.NO_ERROR, "idle")
        for stream in self._out.stalled_since(now - limits.stall_timeout_s):
            self._in.reset(stream, Code.ENHANCE_YOUR_CALM)
        return self._events()

    # What goes to the peer.

    @property
    def streams(self) -> int:
        """How many are open."""
        return len(self._streams.open)

    @property
    def queued_bytes(self) -> int:
        """Bytes that all streams together have to send and may not yet."""
        return self._out.queued_bytes

    def stream_queued_bytes(self, stream_id: int) -> int:
        """The same of one stream, 0 if it is over."""
        stream = self._streams.open.get(stream_id)
        return 0 if stream is None else stream.queued_bytes

    @property
    def waiting(self) -> bool:
        """Whether `take` has something to return."""
        return self._out.waiting

    def take(self) -> bytes:
        """Return what may be written to the socket now."""
        return self._out.take()

    def headers(self, stream_id: int, block: bytes, *, end_stream: bool = False) -> None:
        """Send the response headers, a block made by `headers.encode`; alone, if they end the stream."""
        stream = self._streams.open.get(stream_id)
        if stream is not None:
            self._out.headers(stream, block, end_stream=end_stream)

    def data(self, stream_id: int, payload: bytes, *, prefix: bytes = b"") -> None:
        """Send bytes of the response, those of `prefix` first; they wait for the peer's windows if they must."""
        stream = self._streams.open.get(stream_id)
        if stream is not None:
            self._out.data(stream, prefix, payload)

    def end(self, stream_id: int, trailers: bytes, *, discard: bool = False) -> None:
        """End a stream with a block of trailers, which may be empty, once what it has queued is out or without that."""
        stream = self._streams.open.get(stream_id)
        if stream is not None:
            if discard:
                self._out.discard(stream)
            self._out.end(stream, trailers)

    def reset(self, stream_id: int, code: Code) -> None:
        """End a stream at once; no event will speak of it again."""
        stream = self._streams.open.get(stream_id)
        if stream is not None:
            self._out.control(frames.rst_stream(stream_id, code))
            self._finish(stream, State.RESET_BY_US)

    def ping(self, payload: bytes) -> None:
        """Ask for a sign of life, eight bytes that come back in a `PingAnswered`."""
        self._out.control(frames.ping(payload))

    def announce_shutdown(self) -> None:
        """Ask for no new streams while still taking them, since some are under way: the first of two GOAWAY (section 6.8)."""
        self._out.control(frames.goaway(STREAM_ID_MAX, Code.NO_ERROR))

    def shut_down(self) -> None:
        """Take no new streams, and say which was the last; the open ones go on."""
        self._out.control(frames.goaway(self._streams.admit_no_more(), Code.NO_ERROR))

    # What becomes of streams and of the connection.

    def _events(self) -> list[Event]:
        events, self._in.events = self._in.events, []
        return events

    def _give_credit(self, stream: Stream) -> None:
        """Let the peer send more on a stream, unless it does not read what we have for it there."""
        full, left = self._limits.stream_window, stream.receive_window
        if stream.state is State.OPEN and left < full >> 1 and stream.queued_bytes <= self._limits.unread_bytes_max:
            stream.receive_window = full
            self._out.control(frames.window_update(stream.id, full - left))

    def _ended(self, stream: Stream) -> None:
        """Our END_STREAM is on its way."""
        if stream.state is State.HALF_CLOSED:
            self._finish(stream, State.ENDED)
        else:  # "request that the client abort transmission of a request without error", section 8.1
            self._out.control(frames.rst_stream(stream.id, Code.NO_ERROR))
            self._finish(stream, State.RESET_BY_US)

    def _finish(self, stream: Stream, how: State) -> None:
        self._out.discard(stream)
        self._streams.close(stream, how)

    def _close(self, code: int, message: str) -> None:
        """Answer a connection error (section 5.4.1), or leave in peace."""
        self.closed = True
        self._out.control(frames.goaway(self._streams.last_id, code, message))
        self._in.events.append(ConnectionClosed(code, message))
