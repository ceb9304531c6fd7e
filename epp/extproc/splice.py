"""Replaces a model name inside a body without touching any other byte of it.

The director gives a request another model: `splice_model`. The client gets back the name it asked for: `ModelRestorer`, through
which a response flows when its request was rewritten, and only then. Both protect what decoding and encoding again would lose: big
integers, key order, escapes, duplicate keys.
"""

import re
from collections.abc import Iterator

import msgspec

Span = tuple[int, int]

# A string, with the colon behind it if it is a key; or a byte that changes the depth. The rest is stepped over: an answer may be a
# megabyte of numbers. A string without an end goes to the end, so that no text makes the search start over and over.
_TOKEN = re.compile(rb'("[^"\\]*(?:\\.[^"\\]*)*"?)(\s*:)?|[{}\[\]]', re.DOTALL)
# Where answers carry the name: chat and completions; `response.*` events of the responses API; Anthropic's `message_start`.
_PATHS = {(b'"model"',), (b'"response"', b'"model"'), (b'"message"', b'"model"')}

_DEPTH_MAX = max(map(len, _PATHS))


def splice_model(body: bytes, span: Span, name: str) -> bytes:
    """Return `body` with the JSON string at `span` (quotes included) replaced by `name`.

    An empty span is a place at the beginning of an object that has other fields; there it becomes the field `model`.
    """
    start, stop = span
    value = msgspec.json.encode(name)
    return b"".join((memoryview(body)[:start], value if start < stop else b'"model":' + value + b",", memoryview(body)[stop:]))


def model_spans(document: bytes) -> Iterator[Span]:
    """Yield where the string values of `model`, `response.model` and `message.model` stand in one JSON object, first to last.

    What is not JSON yields nothing or something arbitrary within its length; never raises. Cost: linear, 0.3 us a token.
    """
    path: list[bytes] = []  # the key under which each open object or array stands
    key = b""
    for token in _TOKEN.finditer(document):
        string, colon = token.groups()
        if string is None:
            if token.group() in b"{[":
                path.append(key if token.group() == b"{" else b"[")
            elif path:
                path.pop()
            key = b""
        elif colon:
            key = string
        elif 1 <= len(path) <= _DEPTH_MAX and (*path[1:], key) in _PATHS:
            yield token.span(1)


def rename_model(document: bytes, old: str, new: str) -> bytes:
    """Return the JSON object with the model `old` replaced by `new` wherever an answer carries its model, however it is escaped."""
    for span in reversed([span for span in model_spans(document) if _string(document[slice(*span)]) == old]):
        document = splice_model(document, span, new)
    return document


def _string(literal: bytes) -> str | None:
    try:
        return msgspec.json.decode(literal, type=str)
    except msgspec.DecodeError:
        return None


class ModelRestorer:
    """Puts the model name that the client asked for back into a response on its way.

    Args:
        served: the name the model server was asked for.
        asked: the name the client used.
        events: the response is SSE; else it is one JSON document.
        bytes_max: most bytes held back; what does not fit passes unchanged.
    """

    __slots__ = ("_asked", "_bytes_max", "_events", "_given_up", "_held", "_served", "_size")

    def __init__(self, *, served: str, asked: str, events: bool, bytes_max: int) -> None:
        self._served = served
        self._asked = asked
        self._events = events
        self._bytes_max = bytes_max
        self._held: list[bytes] = []
        self._size = 0
        self._given_up = False

    def feed(self, data: bytes, *, end: bool) -> bytes:
        """Take the next bytes of the response; return the bytes that can go on, all that are left when it is the `end`."""
        if self._given_up and not self._events:
            return data
        if self._events and b"\n" in data:
            lines, _, rest = data.rpartition(b"\n")
            out = self._lines(self._release() + lines + b"\n")
        else:
            out, rest = b"", data
        self._held.append(rest)
        self._size += len(rest)
        if end:
            return out + self._last(self._release())
        if self._size > self._bytes_max:
            self._given_up = True
            return out + self._release()
        return out

    def _release(self) -> bytes:
        held = b"".join(self._held)
        self._held, self._size = [], 0
        return held

    def _last(self, data: bytes) -> bytes:
        return self._lines(data) if self._events else rename_model(data, self._served, self._asked)

    def _lines(self, data: bytes) -> bytes:
        """Rename in each `data:` line. The first may be the rest of a line given up on; then it is no `data:` line any more."""
        lines = data.split(b"\n")
        start = 1 if self._given_up else 0
        self._given_up = False
        for index in range(start, len(lines)):
            if lines[index].startswith(b"data:") and b'"model"' in lines[index]:
                lines[index] = b"data:" + rename_model(lines[index][5:], self._served, self._asked)
        return b"\n".join(lines)
