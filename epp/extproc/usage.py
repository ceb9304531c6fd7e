"""Finds the token usage in a response that passes by, keeping only its two ends.

The response side feeds every chunk; nothing is parsed before the end. Chunk boundaries do not matter since the ends are kept
contiguous. The window protects the picker from the length of answers: its memory per stream is `head_bytes + tail_bytes`, and one
chunk.
"""

import json
from collections import deque
from collections.abc import Iterator
from typing import Annotated

import msgspec

from epp.model.decision import Usage

_RAW = json.JSONDecoder()
Count = Annotated[int, msgspec.Meta(ge=0)]


class _Details(msgspec.Struct):
    cached_tokens: Count | None = None


class _Counts(msgspec.Struct):
    """A usage object of any API: OpenAI's names, those of its responses API, Anthropic's."""

    prompt_tokens: Count | None = None
    input_tokens: Count | None = None
    completion_tokens: Count | None = None
    output_tokens: Count | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    cache_read_input_tokens: Count | None = None

    def usage(self) -> Usage:
        details = self.prompt_tokens_details or self.input_tokens_details
        return Usage(
            prompt_tokens=_first(self.prompt_tokens, self.input_tokens),
            completion_tokens=_first(self.completion_tokens, self.output_tokens),
            cached_tokens=_first(details.cached_tokens if details else None, self.cache_read_input_tokens),
        )


class _Carrier(msgspec.Struct):
    usage: _Counts | None = None


class _Document(msgspec.Struct):
    """A JSON answer or one event: usage at the top, in `response` (responses API) or in `message` (Anthropic's `message_start`)."""

    usage: _Counts | None = None
    response: _Carrier | None = None
    message: _Carrier | None = None

    def counts(self) -> _Counts | None:
        inner = self.response or self.message
        return self.usage or (inner.usage if inner else None)


# Some servers write numbers as strings.
_DECODER = msgspec.json.Decoder(_Document, strict=False)


class UsageWindow:
    """The two ends of a response, and the usage in them.

    Args:
        head_bytes: bytes of the start to keep.
        tail_bytes: bytes of the end to keep, at least.
    """

    __slots__ = ("_head", "_head_bytes", "_kept", "_tail", "_tail_bytes", "size")

    def __init__(self, head_bytes: int, tail_bytes: int) -> None:
        self._head_bytes = head_bytes
        self._tail_bytes = tail_bytes
        self._head = b""
        self._tail: deque[bytes] = deque()
        self._kept = 0
        self.size = 0
        """Bytes fed so far."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Cost: well under a microsecond, no copy unless the head is still open."""
        room = self._head_bytes - self.size
        if room > 0:
            self._head += data[:room]
        self.size += len(data)
        self._tail.append(data)
        self._kept += len(data)
        while self._kept - len(self._tail[0]) >= self._tail_bytes:
            self._kept -= len(self._tail.popleft())

    def find(self) -> Usage | None:
        """Return what the model server reported, the last word on each count; None when it reported nothing."""
        tail = b"".join(self._tail)[-max(1, self._tail_bytes) :]
        whole = len(tail) == self.size
        if b'"usage"' not in tail and b'"usage"' not in self._head:
            return None
        if not self._head.lstrip().startswith(b"{"):
            return _in_events(tail if whole else self._head.rpartition(b"\n")[0] + b"\n" + tail)
        return _in_document(tail) if whole else _last_object(tail)


def _in_document(text: bytes) -> Usage | None:
    try:
        counts = _DECODER.decode(text).counts()
    except (msgspec.DecodeError, RecursionError):  # the latter: msgspec on a thousand open brackets
        return None
    return counts.usage() if counts else None


def _last_object(text: bytes) -> Usage | None:
    """Return the usage of a document whose start is missing. In a text within it the quotes around the word would be escaped."""
    _, found, rest = text.rpartition(b'"usage"')
    rest = rest.lstrip().removeprefix(b":").lstrip() if found else b""
    try:
        value, _ = _RAW.raw_decode(rest.decode(errors="replace"))
        return msgspec.convert(value, _Counts, strict=False).usage()
    except (ValueError, msgspec.ValidationError, RecursionError):
        return None


def _in_events(text: bytes) -> Usage | None:
    """Return the usage of an event stream: each count as the latest event has it that has it."""
    prompt = completion = cached = None
    for usage in _newest_first(text):
        prompt = _first(prompt, usage.prompt_tokens)
        completion = _first(completion, usage.completion_tokens)
        cached = _first(cached, usage.cached_tokens)
        if prompt is not None and completion is not None:
            break
    if prompt is completion is cached is None:
        return None
    return Usage(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached)


def _newest_first(text: bytes) -> Iterator[Usage]:
    for line in reversed(text.split(b"\n")):
        if b'"usage"' not in line:
            continue
        usage = _in_document(line[5:]) if line.startswith(b"data:") else _last_object(line)
        if usage is not None:
            yield usage


def _first(one: int | None, other: int | None) -> int | None:
    return other if one is None else one
