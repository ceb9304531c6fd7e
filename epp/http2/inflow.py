"""What comes in on a connection: the frames of RFC 9113, from bytes to events.

Every frame passes `_read_frames`; what it means for its stream is in the table of `streams`. A mistake of the peer is an
`Http2Error` raised where it is noticed: one with a stream costs that stream a RST_STREAM, one without the connection a GOAWAY.
"""

from collections.abc import Callable

from epp.errors import Http2Error
from epp.http2 import frames
from epp.http2.events import DataReceived, Event, PingAnswered, RequestReceived, StreamEnded, StreamReset
from epp.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADER,
    HEADER_BYTES,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PRIORITY_FIELDS,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    STREAM_BITS,
    WINDOW_MAX,
    WINDOW_UPDATE,
    Code,
    Setting,
)
from epp.http2.headers import Block, HeaderReader, Request, check_trailers
from epp.http2.limits import Allowance, Limits
from epp.http2.outflow import Outflow
from epp.http2.streams import RECEIVED, Refusal, State, Stream, Streams

_OF_THE_CONNECTION = frozenset({SETTINGS, PING, GOAWAY})
"""Frames on stream 0; WINDOW_UPDATE may be, the others must not."""
_MUCH_BYTES = 8192
"""From here on two look-ups are cheaper than to copy what a read has brought."""
_OPEN = State.OPEN
_UNDER_WAY = frozenset({(State.RESET_BY_US, DATA), (State.RESET_BY_US, RST_STREAM), *((state, WINDOW_UPDATE) for state in State)})
"""How a stream ended, and what its peer may have sent before it heard of that; credit for an answer comes after its end anyway."""
_SIZES = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}


class Inflow:
    """The receiving half of a connection.

    Args:
        limits: the bounds.
        streams: those of the connection, which both halves and the connection itself change.
        out: where answers go.
        give_credit: called with a stream of whose window less than half is left.
    """

    __slots__ = ("_block", "_empty_left", "_give_credit", "_greeted", "_headers", "_idle_left", "_limits", "_now", "_out",
                 "_pings_left", "_resets_left", "_rest", "_settings_left", "_streams", "_window", "events", "more",
                 "settled")  # fmt: skip

    def __init__(self, limits: Limits, streams: Streams, out: Outflow, *, give_credit: Callable[[Stream], None]) -> None:
        self._limits = limits
        self._streams = streams
        self._out = out
        self._give_credit = give_credit
        self._headers = HeaderReader(limits.header_list_bytes_max)
        self._rest = b""
        """The beginning of a frame, and after `frames_at_once` of them all that is left."""
        self.more = False
        """There may be whole frames left."""
        self._greeted = False
        """The preface has been read."""
        self.settled = False
        """The first SETTINGS, too."""
        self._block: Block | None = None
        self._window = limits.connection_window
        self._now = 0.0
        self._settings_left = Allowance(limits.settings, "SETTINGS")
        self._pings_left = Allowance(limits.pings, "PINGs")
        self._resets_left = Allowance(limits.rapid_resets, "streams reset before they were answered")
        self._empty_left = Allowance(limits.empty_frames, "empty frames")
        self._idle_left = Allowance(limits.idle_frames, "frames without use")
        self.events: list[Event] = []
        """What the bytes have come to; whoever takes the list puts a new one in its place."""

    def read(self, data: bytes, now: float) -> None:
        """Take bytes.

        Raises:
            Http2Error: the connection cannot go on; `events` has what came before.
        """
        self._now = now
        at = 0
        if self._rest:
            data, at = self._read_on(data)
        if not self._greeted:
            at = self._read_preface(data)
        self._rest = data[self._read_frames(data, at) :]

    def reset(self, stream: Stream, code: int) -> None:
        """End a stream for what its peer did or failed to do."""
        self._out.control(frames.rst_stream(stream.id, code))
        self._out.discard(stream)
        self._streams.close(stream, State.RESET_BY_US)
        self.events.append(StreamReset(stream.id, code, by_peer=False))

    def _read_on(self, data: bytes) -> tuple[bytes, int]:
        """Put what was left before `data`; return that and where to read on.

        Of much data only as much is copied as completes the frame that was cut, which is then read here.
        """
        rest = self._rest
        if self._greeted and not self.more and len(data) > _MUCH_BYTES:
            head = rest if len(rest) >= HEADER_BYTES else rest + data[:HEADER_BYTES]
            missing = HEADER_BYTES + int.from_bytes(head[:3]) - len(rest)
            if missing <= len(data):
                self._read_frames(rest + data[:missing], 0)
                return data, missing
        return rest + data, 0

    def _read_preface(self, data: bytes) -> int:
        """Return where frames begin, past the end of `data` while the preface is not complete (section 3.4)."""
        if not PREFACE.startswith(data[: len(PREFACE)]):
            raise Http2Error("not an HTTP/2 client", Code.PROTOCOL_ERROR)
        self._greeted = len(data) >= len(PREFACE)
        return len(PREFACE) if self._greeted else 0

    def _read_frames(self, data: bytes, at: int) -> int:
        """Handle the whole frames of `data` from `at` on, `frames_at_once` at most; return where the next one begins."""
        self.more = False
        if not self._greeted:
            return 0
        unpack, end, size_max = HEADER.unpack_from, len(data), self._limits.frame_bytes_max
        for _ in range(self._limits.frames_at_once):
            if end - at < HEADER_BYTES:
                return at
            high, low, kind, flags, stream_id = unpack(data, at)
            size = high << 16 | low
            if size > size_max:
                raise Http2Error("frame too large", Code.FRAME_SIZE_ERROR)
            if end - at < HEADER_BYTES + size:
                return at
            at += HEADER_BYTES
            try:
                if kind == DATA and self._block is None:  # most are
                    self._read_data(flags, stream_id & STREAM_BITS, data[at : at + size])
                else:
                    self._read_frame(kind, flags, stream_id & STREAM_BITS, data[at : at + size])
            except Http2Error as error:
                if not error.stream_id:
                    raise
                self._break(error)
            at += size
        self.more = at < end
        return at

    def _read_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if self._block is not None and (kind != CONTINUATION or stream_id != self._block.stream_id):
            raise Http2Error("header block interrupted", Code.PROTOCOL_ERROR)  # section 6.10
        if not self.settled and (kind != SETTINGS or flags & ACK):
            raise Http2Error("the first frame is not SETTINGS", Code.PROTOCOL_ERROR)  # section 3.4
        if kind > CONTINUATION:
            self._idle_left.spend(self._now)  # "MUST ignore and discard frames of unknown types", section 5.5
            return
        if kind != WINDOW_UPDATE and (stream_id == 0) is not (kind in _OF_THE_CONNECTION):
            raise Http2Error("frame on the wrong stream", Code.PROTOCOL_ERROR)
        if _SIZES.get(kind, len(payload)) != len(payload):
            raise Http2Error("frame of the wrong size", Code.FRAME_SIZE_ERROR, stream_id if kind == PRIORITY else 0)
        _READERS[kind](self, flags, stream_id, payload)

    def _read_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        """Section 6.1."""
        size = len(payload)
        self._window -= size  # with its padding and whatever its stream
        if self._window < self._limits.connection_window >> 1:
            self._widen()
        stream = self._streams.open.get(stream_id)
        if stream is None or stream.state is not _OPEN:
            self._refuse_data(stream, stream_id, size)
            return
        if flags & PADDED:
            payload = _unpad(payload)
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise Http2Error("stream window exceeded", Code.FLOW_CONTROL_ERROR, stream_id)
        if stream.body_left is not None:
            stream.body_left -= len(payload)
            if stream.body_left < 0:
                raise Http2Error("body longer than its content-length", Code.PROTOCOL_ERROR, stream_id)
        ended = bool(flags & END_STREAM)
        if ended:
            self._half_close(stream)
        elif not payload:
            self._empty_left.spend(self._now)
        elif stream.receive_window < self._limits.stream_window >> 1:
            self._give_credit(stream)
        self.events.append(DataReceived(stream_id, payload, ended))

    def _widen(self) -> None:
        """Open the connection's window again, of which less than half is left."""
        if self._window < 0:
            raise Http2Error("connection window exceeded", Code.FLOW_CONTROL_ERROR)
        full = self._limits.connection_window
        self._out.reply(frames.window_update(0, full - self._window))
        self._window = full

    def _refuse_data(self, stream: Stream | None, stream_id: int, size: int) -> None:
        """DATA on a stream that is not open any more."""
        if stream is None:
            self._read_late(stream_id, DATA)
            if not size:
                self._empty_left.spend(self._now)
            return
        refusal = RECEIVED[stream.state, DATA]
        assert isinstance(refusal, Refusal)
        raise refusal.error(stream_id)

    def _read_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        """Section 6.2."""
        if flags & PADDED:
            payload = _unpad(payload)
        dependency = 0
        if flags & PRIORITY_FIELDS:
            if len(payload) < 5:
                raise Http2Error("HEADERS too short", Code.FRAME_SIZE_ERROR)
            dependency, payload = frames.read_word(payload) & STREAM_BITS, payload[5:]
        block = Block(stream_id, ended=bool(flags & END_STREAM), depends_on_itself=dependency == stream_id)
        self._block = block
        self._add_to_block(block, flags, payload)

    def _read_continuation(self, flags: int, _stream_id: int, payload: bytes) -> None:
        """Section 6.10."""
        block = self._block
        if block is None:
            raise Http2Error("CONTINUATION without HEADERS", Code.PROTOCOL_ERROR)
        block.continuations += 1
        if block.continuations > self._limits.continuations_max:
            raise Http2Error("too many CONTINUATION frames", Code.ENHANCE_YOUR_CALM)
        self._add_to_block(block, flags, payload)

    def _add_to_block(self, block: Block, flags: int, payload: bytes) -> None:
        block.text += payload
        if len(block.text) > self._limits.header_block_bytes_max:
            raise Http2Error("header block too large", Code.ENHANCE_YOUR_CALM)
        if flags & END_HEADERS:
            self._block = None
            self._read_block(block)

    def _read_block(self, block: Block) -> None:
        """A whole header block: a new request, trailers, or something late; decoded in any case (section 4.3)."""
        stream_id, streams = block.stream_id, self._streams
        stream = streams.open.get(stream_id)
        if stream is not None:
            self._read_trailers(stream, self._headers.fields(block.text), ended=block.ended)
        elif stream_id > streams.last_id and stream_id & 1:
            streams.last_id = stream_id  # whatever becomes of it, it is not idle any more
            request = self._headers.request(block.text, stream_id)
            if streams.admit(stream_id):
                self._open(stream_id, request, block.ended)
        else:
            self._headers.fields(block.text)
            self._read_late(stream_id, HEADERS)
        if block.depends_on_itself:  # RFC 7540 section 5.3.1
            raise Http2Error("stream depends on itself", Code.PROTOCOL_ERROR, stream_id)

    def _open(self, stream_id: int, request: Request, ended: bool) -> None:
        """A new stream (section 5.1)."""
        stream = Stream(stream_id, self._out.window_initial, self._limits.stream_window)
        self._streams.open[stream_id] = stream
        stream.body_left = request.content_length
        if ended:
            self._half_close(stream)
        self.events.append(RequestReceived(stream_id, request, ended))

    def _read_trailers(self, stream: Stream, fields: list[tuple[bytes, bytes]], *, ended: bool) -> None:
        """Section 8.1."""
        after = RECEIVED[stream.state, HEADERS]
        if isinstance(after, Refusal):
            raise after.error(stream.id)
        if not ended:
            raise Http2Error("second HEADERS without END_STREAM", Code.PROTOCOL_ERROR, stream.id)
        check_trailers(fields, stream.id)
        self._half_close(stream)
        self.events.append(StreamEnded(stream.id))

    def _half_close(self, stream: Stream) -> None:
        """Take END_STREAM, and hold the request to its content-length (section 8.1.1)."""
        if stream.body_left:
            raise Http2Error("body shorter than its content-length", Code.PROTOCOL_ERROR, stream.id)
        stream.state = State.HALF_CLOSED

    def _read_late(self, stream_id: int, kind: int) -> None:
        """A frame on a stream that is not open. What may have been under way when it ended costs the peer nothing."""
        if (self._streams.check_late(stream_id, kind), kind) not in _UNDER_WAY:
            self._idle_left.spend(self._now)
        elif kind == RST_STREAM:
            self._streams.remember(stream_id, State.RESET_BY_PEER)  # a second one cannot have been

    def _read_priority(self, _flags: int, stream_id: int, payload: bytes) -> None:
        """Section 5.3.2: priority is deprecated, and ignored but for the one thing that RFC 7540 (5.3.1) forbids."""
        self._idle_left.spend(self._now)
        if frames.read_word(payload) & STREAM_BITS == stream_id:
            raise Http2Error("stream depends on itself", Code.PROTOCOL_ERROR, stream_id)

    def _read_rst_stream(self, _flags: int, stream_id: int, payload: bytes) -> None:
        """Section 6.4."""
        stream = self._streams.open.get(stream_id)
        if stream is None:
            self._read_late(stream_id, RST_STREAM)
            return
        self._out.discard(stream)
        self._streams.close(stream, State.RESET_BY_PEER)
        self.events.append(StreamReset(stream_id, frames.read_word(payload), by_peer=True))
        if not stream.answered:
            self._resets_left.spend(self._now)

    def _read_settings(self, flags: int, _stream_id: int, payload: bytes) -> None:
        """Section 6.5."""
        if len(payload) % 6 or (flags & ACK and payload):
            raise Http2Error("SETTINGS of the wrong size", Code.FRAME_SIZE_ERROR)
        if flags & ACK:
            return
        self._settings_left.spend(self._now)
        self.settled = True
        values = frames.read_settings(payload)
        for setting, value in values:
            frames.check_setting(setting, value)
        last = dict(values)  # of a repeated one the last counts
        if (size := last.get(Setting.INITIAL_WINDOW_SIZE)) is not None:
            self._out.set_initial_window(size, list(self._streams.open.values()))
        if (size := last.get(Setting.MAX_FRAME_SIZE)) is not None:
            self._out.set_frame_bytes_max(size)
        if (size := last.get(Setting.HEADER_TABLE_SIZE)) is not None:
            self._out.set_table_size(size)
        self._out.reply(frames.SETTINGS_ACK)

    def _read_push_promise(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        """Section 8.4: "A client cannot push"."""
        raise Http2Error("PUSH_PROMISE from a client", Code.PROTOCOL_ERROR)

    def _read_ping(self, flags: int, _stream_id: int, payload: bytes) -> None:
        """Section 6.7."""
        self._pings_left.spend(self._now)
        if flags & ACK:
            self.events.append(PingAnswered(payload))
        else:
            self._out.reply(frames.ping(payload, ack=True))

    def _read_goaway(self, _flags: int, _stream_id: int, payload: bytes) -> None:
        """Section 6.8: the peer will open no more streams; those that are open go on, and it closes when they are done."""
        if len(payload) < 8:
            raise Http2Error("GOAWAY too short", Code.FRAME_SIZE_ERROR)

    def _read_window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        """Section 6.9."""
        increment = frames.read_word(payload) & WINDOW_MAX
        stream = self._streams.open.get(stream_id)
        if stream_id and stream is None:
            self._read_late(stream_id, WINDOW_UPDATE)
        elif not increment:
            raise Http2Error("window increment of 0", Code.PROTOCOL_ERROR, stream_id)
        elif stream is None:
            self._out.widen(increment)
        else:
            self._out.widen_stream(stream, increment)

    def _break(self, error: Http2Error) -> None:
        """Answer a stream error (section 5.4.2)."""
        self._idle_left.spend(self._now)
        stream = self._streams.open.get(error.stream_id)
        if stream is not None:
            self.reset(stream, error.code)
        else:
            self._out.reply(frames.rst_stream(error.stream_id, error.code))
            self._streams.remember(error.stream_id, State.RESET_BY_US)


def _unpad(payload: bytes) -> bytes:
    """Return a payload without its padding (section 6.1)."""
    if not payload or payload[0] >= len(payload):
        raise Http2Error("padding longer than the frame", Code.PROTOCOL_ERROR)
    return payload[1 : len(payload) - payload[0]]


_READERS = {
    HEADERS: Inflow._read_headers,
    PRIORITY: Inflow._read_priority,
    RST_STREAM: Inflow._read_rst_stream,
    SETTINGS: Inflow._read_settings,
    PUSH_PROMISE: Inflow._read_push_promise,
    PING: Inflow._read_ping,
    GOAWAY: Inflow._read_goaway,
    WINDOW_UPDATE: Inflow._read_window_update,
    CONTINUATION: Inflow._read_continuation,
}
