"""HTTP/2 on the wire: the numbers of RFC 9113, and a function for each frame that a server sends.

A frame is nine bytes of header (length 24 bits, type, flags, stream) and a payload (section 4.1). Reading frames is an inner
loop and is written out in `inflow`.
"""

import struct
from collections.abc import Mapping
from enum import IntEnum

from epp.errors import Http2Error

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""The first bytes of every client (section 3.4)."""

HEADER = struct.Struct(">BHBBI")
"""Length in two parts, since there is no code for 24 bits."""
HEADER_BYTES = 9

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
"""Frame types (section 6)."""

ACK = 0x01
END_STREAM = 0x01
END_HEADERS = 0x04
PADDED = 0x08
PRIORITY_FIELDS = 0x20
"""Flags; each frame type has its own, and what is not defined for it is ignored."""

STREAM_BITS = 0x7FFF_FFFF
"""The upper bit of a stream identifier or window increment is reserved and ignored (section 4.1)."""
WINDOW_MAX = 0x7FFF_FFFF
WINDOW_DEFAULT = 65_535
"""Both windows before anybody has said otherwise (section 6.9.2)."""
FRAME_BYTES_DEFAULT = 16_384
FRAME_BYTES_HIGHEST = 16_777_215
STREAM_ID_MAX = 0x7FFF_FFFF


class Setting(IntEnum):
    """Section 6.5.2."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Code(IntEnum):
    """Error codes of RST_STREAM and GOAWAY (section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


_SETTING = struct.Struct(">HI")
_WORD = struct.Struct(">I")
_TWO_WORDS = struct.Struct(">II")


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """Return a whole frame."""
    return head(len(payload), kind, flags, stream_id) + payload


def head(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    """Return the header of a frame whose payload follows."""
    return HEADER.pack(length >> 16, length & 0xFFFF, kind, flags, stream_id)


def settings(values: Mapping[Setting, int]) -> bytes:
    """Return a SETTINGS frame (section 6.5)."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(key, value) for key, value in values.items()))


SETTINGS_ACK = frame(SETTINGS, ACK, 0, b"")


def ping(payload: bytes, *, ack: bool = False) -> bytes:
    """Return a PING frame; `payload` is eight bytes (section 6.7)."""
    return frame(PING, ACK if ack else 0, 0, payload)


def goaway(last_stream_id: int, code: int, message: str = "") -> bytes:
    """Return a GOAWAY frame; the message is for whoever reads the peer's log (section 6.8)."""
    return frame(GOAWAY, 0, 0, _TWO_WORDS.pack(last_stream_id, code) + message.encode())


def rst_stream(stream_id: int, code: int) -> bytes:
    """Return a RST_STREAM frame (section 6.4)."""
    return frame(RST_STREAM, 0, stream_id, _WORD.pack(code))


def window_update(stream_id: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE frame; stream 0 is the connection (section 6.9)."""
    return frame(WINDOW_UPDATE, 0, stream_id, _WORD.pack(increment))


def headers(stream_id: int, block: bytes, *, end_stream: bool) -> bytes:
    """Return a HEADERS frame that holds the whole block, which must not be above `FRAME_BYTES_DEFAULT` (section 6.2)."""
    return frame(HEADERS, END_HEADERS | (END_STREAM if end_stream else 0), stream_id, block)


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Return the pairs of a SETTINGS payload, in their order, which counts (section 6.5.3)."""
    return list(_SETTING.iter_unpack(payload))


def check_setting(setting: int, value: int) -> None:
    """Check a value that a peer has set; unknown settings are ignored (section 6.5.2).

    Raises:
        Http2Error: it is outside what the RFC allows.
    """
    if setting == Setting.ENABLE_PUSH and value > 1:
        raise Http2Error("ENABLE_PUSH is neither 0 nor 1", Code.PROTOCOL_ERROR)
    if setting == Setting.INITIAL_WINDOW_SIZE and value > WINDOW_MAX:
        raise Http2Error("INITIAL_WINDOW_SIZE too large", Code.FLOW_CONTROL_ERROR)
    if setting == Setting.MAX_FRAME_SIZE and not FRAME_BYTES_DEFAULT <= value <= FRAME_BYTES_HIGHEST:
        raise Http2Error("MAX_FRAME_SIZE out of range", Code.PROTOCOL_ERROR)


def read_word(payload: bytes, at: int = 0) -> int:
    """Return 32 bits of a payload."""
    word: int = _WORD.unpack_from(payload, at)[0]
    return word
