"""Every bound of a connection: its name, its default, and what a peer gets that passes it.

The rates protect from floods: frames that cost the peer next to nothing and us an answer or a decision. They are far above what
gateways do. Time is an argument everywhere.
"""

from dataclasses import dataclass, field

from epp.errors import Http2Error
from epp.http2.frames import FRAME_BYTES_DEFAULT, Code


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How many at once, and how many a second in the long run."""

    burst: int
    per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of one connection. Sizes in bytes, times in seconds."""

    streams_max: int = 10_000
    """Streams at once, announced. Beyond: REFUSED_STREAM, which means that nothing was done and a retry is safe (8.7). Envoy opens
    streams before it has heard of the limit, and makes a 500 of every one refused; so it is high."""
    frames_at_once: int = 128
    """Frames read at once; what else has come waits until the other connections had their turn."""
    header_list_bytes_max: int = 65_536
    """A request's headers, decoded; announced. Beyond: ENHANCE_YOUR_CALM."""
    header_block_bytes_max: int = 65_536
    """The same, encoded, over HEADERS and CONTINUATION frames. Beyond: ENHANCE_YOUR_CALM."""
    continuations_max: int = 16
    """CONTINUATION frames of one block, empty ones too. Beyond: ENHANCE_YOUR_CALM."""
    frame_bytes_max: int = FRAME_BYTES_DEFAULT
    """A frame's payload, announced. Beyond: FRAME_SIZE_ERROR."""

    stream_window: int = 262_144
    """What a peer may send on a stream before it gets credit. Beyond: FLOW_CONTROL_ERROR."""
    connection_window: int = 8_388_608
    """The same for all its streams together."""
    unread_bytes_max: int = 1_048_576
    """A stream that has more than this to send gives no credit until its peer has read: the peer must then wait, too."""
    queued_bytes_max: int = 268_435_456
    """Bytes to send that all streams together have queued; the caller asks `queued_bytes` before it sends."""
    output_bytes_max: int = 262_144
    """DATA made ready for one write to the socket; the rest waits in its stream."""
    control_bytes_max: int = 65_536
    """Answers (SETTINGS and PING acknowledged, streams reset) on top, to a peer that does not read. Beyond: ENHANCE_YOUR_CALM."""
    closed_streams_kept: int = 128
    """Streams remembered after their end, so that frames still under way when we reset one can be told from mistakes."""

    settings: Rate = field(default=Rate(burst=100, per_s=20))
    """SETTINGS frames. Beyond this and every rate below: ENHANCE_YOUR_CALM."""
    pings: Rate = field(default=Rate(burst=1_000, per_s=200))
    """PING frames. grpc sends many while it estimates bandwidth; Envoy one a second."""
    rapid_resets: Rate = field(default=Rate(burst=10_000, per_s=500))
    """Streams that the peer resets before it got any answer (CVE-2023-44487); as many at once as may be open."""
    empty_frames: Rate = field(default=Rate(burst=1_000, per_s=100))
    """DATA without data that ends nothing (CVE-2019-9518)."""
    idle_frames: Rate = field(default=Rate(burst=1_000, per_s=100))
    """PRIORITY, frames of unknown type, answers to broken streams, and what cannot have been under way when its stream ended."""

    preface_timeout_s: float = 10.0
    """Until the client's first SETTINGS. Beyond: closed."""
    idle_timeout_s: float = 3_600.0
    """Without a stream. Beyond: GOAWAY with NO_ERROR. Envoy closes its own after an hour."""
    stall_timeout_s: float = 300.0
    """A stream has bytes to send and the peer's window is shut. Beyond: reset with ENHANCE_YOUR_CALM. Envoy's own is as long."""


class Allowance:
    """What is left of a rate.

    Args:
        rate: how much.
        what: what is counted, for the message.
    """

    __slots__ = ("_at", "_left", "_rate", "_what")

    def __init__(self, rate: Rate, what: str) -> None:
        self._rate = rate
        self._what = what
        self._left: float = rate.burst
        self._at: float | None = None

    def spend(self, now: float) -> None:
        """Take one.

        Raises:
            Http2Error: there is none left.
        """
        if self._at is not None:
            self._left = min(self._rate.burst, self._left + (now - self._at) * self._rate.per_s)
        self._at = now
        self._left -= 1
        if self._left < 0:
            raise Http2Error(f"too many {self._what}", Code.ENHANCE_YOUR_CALM)
