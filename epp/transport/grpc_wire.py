"""gRPC over HTTP/2 as bytes: messages in DATA, status in trailers, deadlines in a header. Pure.

Source: doc/PROTOCOL-HTTP2.md of grpc.
"""

import re
import struct

from epp.errors import StatusError
from epp.http2.headers import encode

OK, UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 0, 2, 4, 8, 12, 13, 14
STATUS_MAX = 16

MESSAGE_CHARACTERS_MAX = 1024
"""A longer `grpc-message` is cut; trailers must fit into one frame."""

PREFIX = struct.Struct(">BI")
"""Before each message: whether it is compressed, and its length."""
PREFIX_BYTES = 5

RESPONSE_HEADERS = encode(((b":status", b"200"), (b"content-type", b"application/grpc")))
NOT_GRPC = encode(((b":status", b"415"), (b"content-type", b"text/plain")))
NOT_GRPC_TEXT = b"this port speaks gRPC\n"
"""As the specification asks, for a client that does not."""

_CONTENT_TYPE = re.compile(rb"application/grpc(?:[+;].*)?")
_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


def is_grpc(fields: dict[bytes, bytes]) -> bool:
    """Return whether a request is a gRPC call."""
    return fields.get(b":method") == b"POST" and _CONTENT_TYPE.fullmatch(fields.get(b"content-type", b"")) is not None


def timeout_s(text: bytes) -> float:
    """Return the seconds of a `grpc-timeout`.

    Raises:
        StatusError: it is none.
    """
    found = _TIMEOUT.fullmatch(text)
    if found is None:
        raise StatusError(INTERNAL, "malformed grpc-timeout")
    return int(found[1]) * _UNITS_S[found[2]]


def status(code: int, message: str, *, alone: bool) -> bytes:
    """Return the header block that ends a call: trailers, or `alone` when no headers went before."""
    fields = [(b":status", b"200"), (b"content-type", b"application/grpc")] if alone else []
    fields.append((b"grpc-status", b"%d" % (code if 0 <= code <= STATUS_MAX else UNKNOWN)))
    if message:
        fields.append((b"grpc-message", percent_encode(message[:MESSAGE_CHARACTERS_MAX])))
    return encode(tuple(fields))


def percent_encode(text: str) -> bytes:
    """Return a `grpc-message`: printable ASCII stays, but for the percent sign."""
    return b"".join(b"%c" % byte if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte for byte in text.encode())


class Deframer:
    """Puts messages together from pieces cut anywhere.

    Args:
        message_bytes_max: the largest taken; -1 means any.
        compressed: the client says that it compresses, which only matters for the answer.
    """

    __slots__ = ("_compressed", "_max", "_missing", "_pieces", "held_bytes")

    def __init__(self, message_bytes_max: int, *, compressed: bool) -> None:
        self._max = message_bytes_max
        self._compressed = compressed
        self._pieces: list[bytes | memoryview] = []
        """A message's beginning without its prefix, or the beginning of a prefix."""
        self._missing = 0
        """Bytes until the message is complete; 0 when its prefix is not."""
        self.held_bytes = 0
        """What there is of an incomplete message."""

    @property
    def between_messages(self) -> bool:
        """Whether the stream may end here."""
        return not self._pieces

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that `data` completes.

        Raises:
            StatusError: the stream cannot be understood any further, or a message is too large.
        """
        messages: list[bytes] = []
        at, end = 0, len(data)
        if self._missing:
            if end < self._missing:
                self._hold(data, self._missing - end)
                return messages
            at = self._missing
            self._pieces.append(data[:at])
            messages.append(b"".join(self._release()))
        elif self._pieces:
            data = b"".join((*self._release(), data))
            end = len(data)
        while end - at >= PREFIX_BYTES:
            flag, size = PREFIX.unpack_from(data, at)
            if flag or 0 <= self._max < size:
                raise self._refusal(flag)
            at += PREFIX_BYTES
            if end - at < size:
                self._hold(memoryview(data)[at:], size - (end - at))
                return messages
            messages.append(data[at : at + size])
            at += size
        if at < end:
            self._hold(data[at:], 0)
        return messages

    def _hold(self, piece: bytes | memoryview, missing: int) -> None:
        self._pieces.append(piece)
        self.held_bytes += len(piece)
        self._missing = missing

    def _release(self) -> list[bytes | memoryview]:
        pieces, self._pieces = self._pieces, []
        self.held_bytes = self._missing = 0
        return pieces

    def _refusal(self, flag: int) -> StatusError:
        if not flag:
            return StatusError(RESOURCE_EXHAUSTED, f"message above {self._max} bytes")
        if flag == 1 and self._compressed:  # doc/compression.md: an algorithm that the server does not support
            return StatusError(UNIMPLEMENTED, "compressed messages are not supported")
        return StatusError(INTERNAL, "compressed flag without grpc-encoding")
