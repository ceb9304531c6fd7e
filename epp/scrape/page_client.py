"""Fetches one page again and again over one kept-alive HTTP/1.1 connection: bytes out, a page or the cause of failure in.

The poller keeps a `Connection` per endpoint. A general HTTP client costs three to five times as much per poll as everything else
about a poll together (sessions, pools, timers, header maps); this one writes a constant request, reads the two headers that say
where the body ends, and knows nothing more. It asks for no compression and follows no redirect.

`PageReader` is the part without I/O. What it protects from: pages and heads without end, and servers that do not speak HTTP; the
worst it answers is a `Cause`, never an exception.

Source: RFC 9112 (message framing: sections 6 and 7.1).
"""

import asyncio
import re
from collections.abc import Callable
from enum import Enum
from ssl import SSLContext
from typing import cast

HEAD_BYTES_MAX = 16_384
"""Longest status line and headers."""

_STATUS = re.compile(rb"HTTP/1\.([01]) (\d{3})(?: |\r)")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,12})[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*\r\n", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[^\r]*\bclose\b", re.IGNORECASE)
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n")


class Cause(Enum):
    """Why there is no page."""

    CONNECT = "connect"
    """Nobody takes the connection."""
    TIMEOUT = "timeout"
    CLOSED = "closed"
    """The connection went away before the page was complete."""
    STATUS = "status"
    """The answer is not 200."""
    TOO_LARGE = "too-large"
    MALFORMED = "malformed"
    """Not HTTP."""
    NO_SERIES = "no-series"
    """A page without the series that say how busy the server is: of another engine, or not of metrics at all."""


class PageReader:
    """Reads one response, in whatever pieces it comes.

    Args:
        bytes_max: longest page.
    """

    __slots__ = ("_buffer", "_bytes_max", "_chunk_at", "_chunks", "_end", "_start", "keep_alive")

    def __init__(self, bytes_max: int) -> None:
        self.keep_alive = False
        """Whether the connection can be used again, once the page is complete."""
        self._bytes_max = bytes_max
        self._buffer = bytearray()
        self._start = 0
        """Where the body starts; 0 until the head is complete."""
        self._end: int | None = None
        """Where the body ends, when its length was announced."""
        self._chunk_at: int | None = None
        """Where the next chunk starts, in a chunked body."""
        self._chunks: list[bytes] = []

    def feed(self, data: bytes) -> bytes | Cause | None:
        """Take a piece; return the page when this completes it, why there will be none, or None to be fed more."""
        self._buffer += data
        if not self._start:
            refused = self._read_head()
            if refused is not None or not self._start:
                return refused
        if len(self._buffer) - self._start > 2 * self._bytes_max:  # chunks of one byte are five bytes long; nobody sends those
            return Cause.TOO_LARGE
        if self._chunk_at is not None:
            return self._read_chunks()
        if self._end is not None and len(self._buffer) >= self._end:
            self.keep_alive &= len(self._buffer) == self._end
            return bytes(memoryview(self._buffer)[self._start : self._end])
        return Cause.TOO_LARGE if len(self._buffer) - self._start > self._bytes_max else None

    def end(self) -> bytes | Cause:
        """The peer has closed; return the page if that is how its end was to be told."""
        if not self._start or self._end is not None or self._chunk_at is not None:
            return Cause.CLOSED
        return bytes(memoryview(self._buffer)[self._start :])

    @property
    def started(self) -> bool:
        """Whether anything has come."""
        return bool(self._buffer)

    def _read_head(self) -> Cause | None:
        at = self._buffer.find(b"\r\n\r\n", 0, HEAD_BYTES_MAX)
        if at < 0:
            return Cause.MALFORMED if len(self._buffer) >= HEAD_BYTES_MAX else None
        head = bytes(memoryview(self._buffer)[: at + 2])
        status = _STATUS.match(head)
        if status is None:
            return Cause.MALFORMED
        if status[2] != b"200":
            return Cause.STATUS
        self._start = at + 4
        self.keep_alive = status[1] == b"1" and _CLOSE.search(head) is None
        length = _LENGTH.search(head)
        if _CHUNKED.search(head):
            self._chunk_at = self._start
        elif length is not None:
            self._end = self._start + int(length[1])
            return Cause.TOO_LARGE if int(length[1]) > self._bytes_max else None
        else:
            self.keep_alive = False
        return None

    def _read_chunks(self) -> bytes | Cause | None:
        buffer, at = self._buffer, self._chunk_at or self._start
        while (line := _CHUNK.match(buffer, at)) is not None:
            start, size = line.end(), int(line[1], 16)
            if size == 0:
                # Trailers, if any, end with an empty line.
                return b"".join(self._chunks) if buffer.find(b"\r\n\r\n", start - 2) >= 0 else None
            if len(buffer) < start + size + 2:
                return None
            if buffer[start + size : start + size + 2] != b"\r\n":
                return Cause.MALFORMED
            self._chunks.append(bytes(memoryview(buffer)[start : start + size]))
            self._chunk_at = at = start + size + 2
        return Cause.MALFORMED if len(buffer) - at > HEAD_BYTES_MAX or b"\n" in buffer[at:] else None


class _Wire(asyncio.Protocol):
    """One TCP connection, one page at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._reader: PageReader | None = None
        self._received: Callable[[bytes | Cause], None] | None = None
        self._pages = 0

    @property
    def reusable(self) -> bool:
        """Whether another page can be asked for."""
        return self._transport is not None and self._received is None

    @property
    def went_stale(self) -> bool:
        """Whether it was closed under a request, as a server does with a connection that it believes idle."""
        return self._transport is None and self._pages > 0 and self._reader is not None and not self._reader.started

    def ask(self, request: bytes, bytes_max: int, received: Callable[[bytes | Cause], None]) -> None:
        """Ask for the page; `received` is called once, unless `drop` is called before."""
        self._reader = PageReader(bytes_max)
        self._received = received
        if self._transport is not None:
            self._transport.write(request)

    def drop(self) -> None:
        """Close at once, and say nothing more."""
        self._received = None
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by class

    def data_received(self, data: bytes) -> None:
        """Hand a piece to the reader."""
        if self._received is None or self._reader is None:  # nobody asked
            self.drop()
            return
        result = self._reader.feed(data)
        if result is None:
            return
        if isinstance(result, Cause) or not self._reader.keep_alive:
            received = self._received
            self.drop()
            self._transport = None
        else:
            received, self._received = self._received, None
        self._pages += 1
        received(result)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the page that is waited for."""
        self._transport = None
        received, self._received = self._received, None
        if received is not None and self._reader is not None:
            received(Cause.CLOSED if exc is not None else self._reader.end())


class Connection:
    """One endpoint's page, over a connection that is made when it is needed and kept.

    Args:
        host: address to connect to.
        port: and port.
        request: the request, as it goes over the wire.
        bytes_max: longest page.
        tls: returns how to secure a connection that is about to be made; None for plain text.
    """

    def __init__(
        self, host: str, port: int, request: bytes, *, bytes_max: int, tls: Callable[[], SSLContext] | None = None
    ) -> None:
        self._host, self._port, self._request = host, port, request
        self._bytes_max = bytes_max
        self._tls = tls
        self._wire: _Wire | None = None
        self._opening: asyncio.Task[None] | None = None
        self._done: Callable[[bytes | Cause], None] | None = None

    def get(self, done: Callable[[bytes | Cause], None]) -> None:
        """Ask for the page; `done` is called exactly once. Not to be called again before that."""
        assert self._done is None
        self._done = done
        if self._wire is not None and self._wire.reusable:
            self._wire.ask(self._request, self._bytes_max, self._received)
        else:
            self._open()

    def abandon(self, cause: Cause) -> None:
        """Give up on the page, if one is waited for, and on the connection."""
        if self._opening is not None:
            self._opening.cancel()
        if self._wire is not None:
            self._wire.drop()
        self._opening = self._wire = None
        self._finish(cause)

    def _open(self) -> None:
        self._wire = None
        self._opening = asyncio.get_running_loop().create_task(self._connect(), name=f"scrape {self._host}:{self._port}")

    async def _connect(self) -> None:
        try:
            tls = self._tls() if self._tls is not None else None
            _, wire = await asyncio.get_running_loop().create_connection(_Wire, self._host, self._port, ssl=tls)
        except OSError:  # refused, unreachable, not the TLS we want
            self._opening = None
            self._finish(Cause.CONNECT)
            return
        self._opening, self._wire = None, wire
        if wire.reusable:
            wire.ask(self._request, self._bytes_max, self._received)
        else:
            self._finish(Cause.CLOSED)

    def _received(self, result: bytes | Cause) -> None:
        if self._wire is not None and self._wire.went_stale:
            self._open()
        else:
            self._finish(result)

    def _finish(self, result: bytes | Cause) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(result)
