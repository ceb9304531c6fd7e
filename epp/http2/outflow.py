"""What goes out on a connection: frames in their order, DATA as far as the peer's windows allow (RFC 9113 section 5.2).

The server calls `data` and `end` whenever it likes; what a window does not let out waits in its stream's queue. The streams that
could send take turns, a frame each, so that a big answer holds up nobody. Nothing here blocks or looks at a socket: `take` hands
over what may be written now, and is called when the socket has room.
"""

from collections import deque
from collections.abc import Callable

from epp.errors import Http2Error
from epp.http2 import frames
from epp.http2.frames import DATA, END_STREAM, FRAME_BYTES_DEFAULT, WINDOW_DEFAULT, WINDOW_MAX, Code
from epp.http2.limits import Limits
from epp.http2.streams import Stream


class Outflow:
    """The sending half of a connection.

    Args:
        limits: the bounds.
        ended: called with a stream when END_STREAM has gone to the output.
        read: called with a stream whose queue has come down to `unread_bytes_max`.
    """

    __slots__ = ("_ended", "_frame_bytes_max", "_limits", "_output", "_read", "_resize", "_stalled", "_turns", "_window", "now",
                 "output_bytes", "queued_bytes", "window_initial")  # fmt: skip

    def __init__(self, limits: Limits, *, ended: Callable[[Stream], None], read: Callable[[Stream], None]) -> None:
        self._limits = limits
        self._ended = ended
        self._read = read
        self._output: list[bytes | memoryview] = []
        self._turns: deque[Stream] = deque()
        """Streams with a queue and an open window of their own; the connection's window or the output may be what they wait for."""
        self._stalled: dict[Stream, None] = {}
        """Streams with a queue and a shut window, the longest shut first."""
        self._window = WINDOW_DEFAULT
        self._frame_bytes_max = FRAME_BYTES_DEFAULT
        self._resize = b""
        self.now = 0.0
        self.output_bytes = 0
        """Ready to be taken."""
        self.queued_bytes = 0
        """In the queues of all streams."""
        self.window_initial = WINDOW_DEFAULT
        """The peer's SETTINGS_INITIAL_WINDOW_SIZE."""

    @property
    def waiting(self) -> bool:
        """Whether `take` would return something."""
        return bool(self._output or (self._turns and self._window > 0))

    def control(self, frame: bytes) -> None:
        """Send a frame that is not subject to flow control."""
        self._output.append(frame)
        self.output_bytes += len(frame)

    def reply(self, frame: bytes) -> None:
        """Send a frame that the peer has caused.

        Raises:
            Http2Error: the peer makes us answer and does not read the answers.
        """
        self.control(frame)
        if self.output_bytes > self._limits.output_bytes_max + self._limits.control_bytes_max:
            raise Http2Error("answers are not read", Code.ENHANCE_YOUR_CALM)

    def headers(self, stream: Stream, block: bytes, *, end_stream: bool) -> None:
        """Send a header block; with `end_stream` nothing may follow it."""
        stream.answered = True
        block, self._resize = self._resize + block, b""
        self.control(frames.headers(stream.id, block, end_stream=end_stream))
        if end_stream:
            self._ended(stream)

    def data(self, stream: Stream, prefix: bytes, payload: bytes) -> None:
        """Send bytes of the body, two pieces so that nobody has to copy them into one; at once if nothing stands in the way.

        Cost: once for every chunk of every response, so the usual case comes first and is spelled out.
        """
        size = len(prefix) + len(payload)
        if (
            not stream.queue
            and size <= stream.send_window
            and size <= self._window
            and size <= self._frame_bytes_max
            and self.output_bytes <= self._limits.output_bytes_max
        ):
            stream.send_window -= size
            self._window -= size
            self._output += (frames.head(size, DATA, 0, stream.id), prefix, payload)
            self.output_bytes += size
            return
        if stream.queue is None:
            stream.queue = deque()
        stream.queue += (piece for piece in (prefix, payload) if piece)
        stream.queued_bytes += size
        self.queued_bytes += size
        if size:
            self._line_up(stream)

    def end(self, stream: Stream, trailers: bytes) -> None:
        """End the stream once its queue is out: with a block of trailers, or without if that is empty."""
        if stream.queue:
            stream.trailers = trailers
        elif trailers:
            self.headers(stream, trailers, end_stream=True)
        else:
            self.control(frames.frame(DATA, END_STREAM, stream.id, b""))
            self._ended(stream)

    def discard(self, stream: Stream) -> None:
        """Forget what a stream has to send."""
        self.queued_bytes -= stream.queued_bytes
        stream.queue = None
        stream.queued_bytes = 0
        stream.trailers = None
        self._stalled.pop(stream, None)

    def take(self) -> bytes:
        """Return what may be written now; DATA in it is about `output_bytes_max` at most, and more may be `waiting`."""
        self._fill()
        output = b"".join(self._output)
        self._output.clear()
        self.output_bytes = 0
        return output

    def widen(self, increment: int) -> None:
        """Take a WINDOW_UPDATE of the connection.

        Raises:
            Http2Error: the window would pass 2^31-1 (section 6.9.1).
        """
        self._window += increment
        if self._window > WINDOW_MAX:
            raise Http2Error("connection window too large", Code.FLOW_CONTROL_ERROR)

    def widen_stream(self, stream: Stream, increment: int) -> None:
        """Take a WINDOW_UPDATE of a stream.

        Raises:
            Http2Error: as `widen`, for the stream.
        """
        stream.send_window += increment
        if stream.send_window > WINDOW_MAX:
            raise Http2Error("stream window too large", Code.FLOW_CONTROL_ERROR, stream.id)
        if stream.queue:
            self._line_up(stream)

    def set_initial_window(self, size: int, streams: list[Stream]) -> None:
        """Take a new SETTINGS_INITIAL_WINDOW_SIZE, which changes the windows of open streams by the difference (section 6.9.2).

        Raises:
            Http2Error: a window would pass 2^31-1, here the connection's mistake.
        """
        difference, self.window_initial = size - self.window_initial, size
        for stream in streams:
            stream.send_window += difference
            if stream.send_window > WINDOW_MAX:
                raise Http2Error("stream window too large", Code.FLOW_CONTROL_ERROR)
            if stream.queue:
                self._line_up(stream)

    def set_frame_bytes_max(self, size: int) -> None:
        """Take a new SETTINGS_MAX_FRAME_SIZE."""
        self._frame_bytes_max = size

    def set_table_size(self, size: int) -> None:
        """Take a new SETTINGS_HEADER_TABLE_SIZE. We use no table, but who makes its own smaller waits for word (7541, 4.2)."""
        if size < 4096:
            self._resize = b"\x20"

    def stalled_since(self, moment: float) -> list[Stream]:
        """Return the streams whose window was shut at `moment` and has been since."""
        return [stream for stream in self._stalled if stream.stalled_at <= moment]

    def _line_up(self, stream: Stream) -> None:
        """Let a stream with a queue take its turn, or note that its window is shut."""
        if stream.send_window > 0:
            self._stalled.pop(stream, None)
            if not stream.in_turn:
                stream.in_turn = True
                self._turns.append(stream)
        elif stream not in self._stalled and not stream.in_turn:
            stream.stalled_at = self.now
            self._stalled[stream] = None

    def _fill(self) -> None:
        """Move DATA from queues to the output, as far as the connection's window and the bound on output allow."""
        turns = self._turns
        while turns and self._window > 0 and self.output_bytes <= self._limits.output_bytes_max:
            stream = turns.popleft()
            stream.in_turn = False
            if stream.queue and stream.send_window > 0:
                self._send_frame(stream)
            if stream.queue:
                self._line_up(stream)
            elif stream.trailers is not None:
                self.end(stream, stream.trailers)

    def _send_frame(self, stream: Stream) -> None:
        """Move a frame's worth of a stream's queue to the output."""
        queue, before = stream.queue, stream.queued_bytes
        assert queue is not None
        size = left = min(before, stream.send_window, self._window, self._frame_bytes_max)
        self._output.append(frames.head(size, DATA, 0, stream.id))
        while left:
            piece = queue.popleft()
            if len(piece) > left:
                view = memoryview(piece)
                piece = view[:left]
                queue.appendleft(view[left:])
            left -= len(piece)
            self._output.append(piece)
        stream.send_window -= size
        self._window -= size
        stream.queued_bytes -= size
        self.queued_bytes -= size
        self.output_bytes += size
        if stream.queued_bytes <= self._limits.unread_bytes_max < before:
            self._read(stream)
