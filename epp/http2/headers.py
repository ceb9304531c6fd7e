"""Header blocks: what a request says (RFC 9113 sections 8.2 and 8.3), compressed as in RFC 7541.

Blocks are decoded by the `hpack` library. A gateway opens its streams with the same headers again and again, and once they are in
the dynamic table the block is the same few bytes each time; so what a block came to is kept while the table stays as it is.

Blocks are encoded without touching the dynamic table (every field static or a literal), so an answer is the same bytes on every
connection and is encoded once in the life of the process. That costs the wire about 40 bytes a stream.
"""

import re
from functools import lru_cache

from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError, OversizedHeaderListError
from hpack.table import HeaderTable
from msgspec import Struct

from epp.errors import Http2Error
from epp.http2.frames import Code

Fields = tuple[tuple[bytes, bytes], ...]

BLOCKS_KEPT = 32
BLOCK_KEPT_BYTES = 256
"""A longer block is decoded again each time."""
ENCODED_KEPT = 256

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
"""A token in lowercase (section 8.2.1)."""
_BAD_VALUE = re.compile(rb"[\x00\r\n]|\A[ \t]|[ \t]\Z")
_PSEUDO = frozenset({b":method", b":scheme", b":authority", b":path"})
_CONNECTION_SPECIFIC = frozenset({b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"})
"""Section 8.2.2."""


class Request(Struct, frozen=True):
    """What opens a stream."""

    fields: dict[bytes, bytes]
    """By name, pseudo-header fields included; a repeated one has its values joined by commas. Not to be changed: may be shared."""
    content_length: int | None

    @property
    def path(self) -> bytes:
        """`:path`, empty for CONNECT."""
        return self.fields.get(b":path", b"")


class _Table(HeaderTable):
    """A dynamic table that counts its changes."""

    changes = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.changes += 1
        super().add(name, value)


class Block:
    """A header block while it gathers, from HEADERS to END_HEADERS (section 4.3)."""

    __slots__ = ("continuations", "depends_on_itself", "ended", "stream_id", "text")

    def __init__(self, stream_id: int, *, ended: bool, depends_on_itself: bool) -> None:
        self.stream_id = stream_id
        self.ended = ended
        self.depends_on_itself = depends_on_itself
        self.continuations = 0
        self.text = b""


class HeaderReader:
    """Decodes the blocks of one connection, which share a dynamic table; so every block must pass through here, in order.

    Args:
        list_bytes_max: most bytes of a decoded list, counted as in section 10.5.1.
    """

    __slots__ = ("_decoder", "_kept", "_table")

    def __init__(self, list_bytes_max: int) -> None:
        self._decoder = Decoder(max_header_list_size=list_bytes_max)
        self._decoder.header_table = self._table = _Table()
        self._kept: dict[bytes, Request] = {}
        """Requests by block, of the table as it is."""

    def request(self, block: bytes, stream_id: int) -> Request:
        """Return the request of a block.

        Raises:
            Http2Error: the connection's if the block cannot be decoded, the stream's if the request is malformed (section 8.1.1).
        """
        kept = self._kept.get(block)
        if kept is not None:
            return kept
        before = self._table.changes
        request = read_request(self.fields(block), stream_id)
        if before == self._table.changes and len(block) <= BLOCK_KEPT_BYTES and len(self._kept) < BLOCKS_KEPT:
            self._kept[block] = request
        return request

    def fields(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """Return a block decoded, unchecked.

        Raises:
            Http2Error: it cannot be decoded, and so no block after it could.
        """
        before = self._table.changes
        if block and block[0] & 0xE0 == 0x20:  # the table's size is changed; allowed at the start of a block only (7541, 6.3)
            self._table.changes += 1
        try:
            fields: list[tuple[bytes, bytes]] = self._decoder.decode(block, raw=True)  # type: ignore[assignment]
        except OversizedHeaderListError:
            raise Http2Error("header list too large", Code.ENHANCE_YOUR_CALM) from None
        except HPACKError:
            raise Http2Error("header block cannot be decoded", Code.COMPRESSION_ERROR) from None
        if before != self._table.changes:
            self._kept.clear()
        return fields


def read_request(fields: list[tuple[bytes, bytes]], stream_id: int) -> Request:
    """Return a request, checked.

    Raises:
        Http2Error: it is malformed; the whole of section 8.3.1.
    """
    seen: dict[bytes, bytes] = {}
    regular = False
    for name, value in fields:
        pseudo = name[:1] == b":"
        if pseudo:
            wrong = regular or name in seen or name not in _PSEUDO
        else:
            regular = True
            wrong = not _NAME.fullmatch(name) or name in _CONNECTION_SPECIFIC or (name == b"te" and value != b"trailers")
        if wrong or _BAD_VALUE.search(value):
            raise _malformed("a field that is not allowed", stream_id)
        seen[name] = b"%b,%b" % (seen[name], value) if name in seen else value
    if seen.get(b":method") == b"CONNECT":
        complete = b":scheme" not in seen and b":path" not in seen and b":authority" in seen
    else:
        complete = b":method" in seen and b":scheme" in seen and bool(seen.get(b":path"))
    if not complete:
        raise _malformed("a pseudo-header field is missing", stream_id)
    return Request(seen, _content_length(seen, stream_id))


def check_trailers(fields: list[tuple[bytes, bytes]], stream_id: int) -> None:
    """Check trailers, in which there are no pseudo-header fields (section 8.1).

    Raises:
        Http2Error: they are malformed.
    """
    for name, value in fields:
        if not _NAME.fullmatch(name) or _BAD_VALUE.search(value):
            raise _malformed("trailers with a field that is not allowed", stream_id)


def _content_length(fields: dict[bytes, bytes], stream_id: int) -> int | None:
    text = fields.get(b"content-length")
    if text is None:
        return None
    if not text.isdigit() or len(text) > 18:
        raise _malformed("content-length is not a number", stream_id)
    return int(text)


def _malformed(why: str, stream_id: int) -> Http2Error:
    return Http2Error(f"malformed request: {why}", Code.PROTOCOL_ERROR, stream_id)


@lru_cache(maxsize=ENCODED_KEPT)
def encode(fields: Fields) -> bytes:
    """Return a block for any connection: "never indexed" is the one literal that the library encodes without remembering it."""
    return Encoder().encode([(name, value, True) for name, value in fields])
