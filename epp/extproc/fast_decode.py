"""The two commonest kinds of message, read without protobuf: pieces of bodies, and headers. Pure functions of bytes.

Most messages are pieces of bodies; their framing is a few bytes, so that a chunk on its way costs a copy and not a parse. Of the
headers most have been seen a moment ago: they are looked up by the bytes that they are. What is read here is what Envoy 1.40 sends,
in its order; for anything else the answer is None, and protobuf reads it.
"""

from functools import lru_cache
from typing import NamedTuple, TypeAlias

from google.protobuf.message import DecodeError

from epp.extproc.events import BodyMode, Modes, Side
from epp.pb import ext_proc_pb2 as pb

Bytes: TypeAlias = bytes | memoryview

HEADERS_KEPT = 4096
"""Header fields, name and value together, that are kept decoded."""
HEADER_KEPT_BYTES = 160
"""Longer ones are decoded each time: tokens, cookies, what seldom comes twice."""

_REQUEST_HEADERS, _RESPONSE_HEADERS, _REQUEST_BODY, _RESPONSE_BODY = 0x12, 0x1A, 0x22, 0x2A
_HEADERS, _BODIES = frozenset({_REQUEST_HEADERS, _RESPONSE_HEADERS}), frozenset({_REQUEST_BODY, _RESPONSE_BODY})
_METADATA, _PROTOCOL_CONFIG = 0x42, 0x5A
_FIRST, _TRUE_SECOND, _TRUE_THIRD = 0x0A, b"\x10\x01", b"\x18\x01"
"""Tags: of ProcessingRequest, and of what is in them."""

# GRPC (5) is answered like full duplex, and so is what Envoy may yet invent.
_MODES = {int(mode): mode for mode in BodyMode}


class Headers(NamedTuple):
    """What a message with headers and without metadata says."""

    side: Side
    fields: dict[str, str]
    """By lower-case name; of a repeated one the last value."""
    end: bool
    modes: Modes | None


def split_body(message: bytes) -> tuple[Side, Bytes, bool] | None:
    """Return whose body a message carries a piece of, the piece and whether it is the last; None when there is more to read in it.

    What is taken is `22|2a <length> [0a <length> <piece>] [10 01] [42 <length> <metadata>]`, that is, `request_body` or
    `response_body`, holding `body` and `end_of_stream`, and behind it `metadata_context`. That is often empty; of a response it is
    not read, of a request it may hold a subset hint.
    """
    try:
        tag = message[0]
        if tag not in _BODIES:
            return None
        length, at = _varint(message, 1)
        stop = at + length
        if stop != len(message) and not _unread(message, stop, response=tag == _RESPONSE_BODY):
            return None
        data: Bytes = b""
        if at < stop and message[at] == _FIRST:
            length, start = _varint(message, at + 1)
            at = start + length
            # Pieces of a request are put together before anybody looks at them: no copy here.
            data = message[start:at] if tag == _RESPONSE_BODY else memoryview(message)[start:at]
    except IndexError:
        return None
    side = Side.RESPONSE if tag == _RESPONSE_BODY else Side.REQUEST
    if at == stop:
        return side, data, False
    return (side, data, True) if message[at:stop] == _TRUE_SECOND else None


def split_headers(message: bytes) -> Headers | None:
    """Return the headers of a message; None when there is more to read in it.

    What is taken is `12|1a <length> [0a <length> <fields>] [18 01] [42 00] [5a <length> <protocol config>]`: `request_headers` or
    `response_headers`, holding `headers` and `end_of_stream`, and behind it an empty `metadata_context` and `protocol_config`.
    """
    try:
        tag = message[0]
        if tag not in _HEADERS:
            return None
        length, at = _varint(message, 1)
        stop = at + length
        fields: dict[str, str] | None = {}
        if at < stop and message[at] == _FIRST:
            length, at = _varint(message, at + 1)
            fields = _fields(message, at, at + length)
            at += length
        end = message[at:stop] == _TRUE_THIRD
        if fields is None or (at != stop and not end):
            return None
        modes, known = _rest(message, stop)
    except (IndexError, DecodeError):
        return None
    return Headers(Side.REQUEST if tag == _REQUEST_HEADERS else Side.RESPONSE, fields, end, modes) if known else None


def modes_of(config: pb.ProtocolConfiguration) -> Modes:
    """Return what the gateway says about both bodies."""
    both = config.request_body_mode, config.response_body_mode
    return Modes(*(_MODES.get(mode, BodyMode.FULL_DUPLEX) for mode in both))


def read_field(header: pb.HeaderValue) -> tuple[str, str]:
    """Return a header with its name in lower case; Envoy sends `raw_value`, others `value`."""
    return header.key.lower(), header.raw_value.decode("latin-1") or header.value


def _fields(message: bytes, at: int, stop: int) -> dict[str, str] | None:
    """Return the fields of a HeaderMap; None when there is something else in it."""
    fields: dict[str, str] = {}
    while at < stop:
        if message[at] != _FIRST:
            return None
        size, start = _varint(message, at + 1)
        at = start + size
        read = _kept if size <= HEADER_KEPT_BYTES else _read
        name, value = read(message[start:at])
        fields[name] = value
    return fields if at == stop else None


def _read(field: bytes) -> tuple[str, str]:
    return read_field(pb.HeaderValue.FromString(field))


_kept = lru_cache(maxsize=HEADERS_KEPT)(_read)


def _rest(message: bytes, at: int) -> tuple[Modes | None, bool]:
    """Return the modes, if said, from what follows the headers, and whether that is all there is."""
    end = len(message)
    if at < end and message[at] == _METADATA:
        if message[at + 1]:
            return None, False
        at += 2
    if at == end:
        return None, True
    size, start = _varint(message, at + 1)
    return (_kept_modes(message[start:]), True) if message[at] == _PROTOCOL_CONFIG and start + size == end else (None, False)


@lru_cache(maxsize=64)
def _kept_modes(config: bytes) -> Modes:
    return modes_of(pb.ProtocolConfiguration.FromString(config))


def _unread(message: bytes, at: int, *, response: bool) -> bool:
    """Whether metadata that nobody reads is all that follows from `at` on."""
    if message[at] != _METADATA:
        return False
    length, start = _varint(message, at + 1)
    return start + length == len(message) and (length == 0 or response)


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return the number that starts at `at` and where the next field starts. Raises IndexError past the end."""
    byte = message[at]
    if byte < 0x80:
        return byte, at + 1
    value = shift = 0
    while byte >= 0x80:
        value |= (byte & 0x7F) << shift
        shift += 7
        at += 1
        byte = message[at]
        if shift > 28:  # not a length that Envoy sends; protobuf will say
            raise IndexError
    return value | byte << shift, at + 1
