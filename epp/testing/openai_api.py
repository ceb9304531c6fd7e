"""The OpenAI shapes the stand-in speaks: bodies in, JSON and server-sent events out. Pure."""

import json
from dataclasses import dataclass
from typing import Any

import msgspec

from epp.errors import BadRequest
from epp.testing.generation import Generation
from epp.testing.tokenizer import decode, encode, render_chat


class StreamOptions(msgspec.Struct, frozen=True):
    """What a stream should carry besides tokens."""

    include_usage: bool = False


class Function(msgspec.Struct, frozen=True):
    """What a tool calls. In the prompt it has all these fields, in this order, as with vLLM."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(msgspec.Struct, frozen=True):
    """A tool the model may use."""

    type: str
    function: Function


class GenerateBody(msgspec.Struct, frozen=True, kw_only=True):
    """A body of `/v1/completions`, `/v1/chat/completions` or `/tokenize`, whichever fields it has."""

    model: str
    prompt: str | list[int | str | list[int]] | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[Tool] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    cache_salt: str | None = None

    @property
    def token_limit(self) -> int:
        """Tokens to generate; 16 when nothing is said, as vLLM's completions do."""
        return max(1, self.max_completion_tokens or self.max_tokens or 16)


_decoder = msgspec.json.Decoder(GenerateBody)


def read_body(data: bytes) -> GenerateBody:
    """Return the body.

    Raises:
        BadRequest: it is not JSON, or a field has the wrong type.
    """
    try:
        return _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise BadRequest(f"body: {error}") from None


def token_ids(body: GenerateBody) -> list[int]:
    """Return the ids of the prompt; of a list of prompts those of the first.

    Raises:
        BadRequest: there is neither a prompt nor messages.
    """
    if body.messages is not None:
        return encode(render_chat(body.messages, msgspec.to_builtins(body.tools)))
    match body.prompt:
        case str(text):
            return encode(text)
        case [str(first), *_]:
            return encode(first)
        case [list(first), *_]:
            return first
        case [int(), *_] as ids:
            return [value for value in ids if isinstance(value, int)]
        case _:
            raise BadRequest("neither `prompt` nor `messages`")


def usage(generation: Generation) -> dict[str, Any]:
    """Return the usage object, cached tokens included."""
    return {
        "prompt_tokens": generation.prompt_tokens,
        "total_tokens": generation.prompt_tokens + generation.generated,
        "completion_tokens": generation.generated,
        "prompt_tokens_details": {"cached_tokens": generation.cached_tokens},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How one request is answered."""

    identity: str
    model: str
    chat: bool
    created: int

    def whole(self, generation: Generation) -> bytes:
        """Return the JSON of a finished generation."""
        text = decode(generation.token_ids[generation.prompt_tokens :])
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": "length"}
        choice |= {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        kind = "chat.completion" if self.chat else "text_completion"
        return json.dumps(self._head(kind) | {"choices": [choice], "usage": usage(generation)}).encode()

    def chunks(self, generation: Generation, sent: int, *, include_usage: bool) -> bytes:
        """Return the events for the tokens after the first `sent`, with all that belongs to the end when it is finished."""
        events: list[bytes] = []
        last = generation.generated
        if sent == 0 and self.chat:
            events.append(self._event({"role": "assistant", "content": ""}, None))
        for number in range(sent, last):
            text = decode([generation.token_ids[generation.prompt_tokens + number]])
            reason = "length" if generation.finished and number == last - 1 else None
            events.append(self._event({"content": text} if self.chat else text, reason))
        if generation.finished:
            if include_usage:
                kind = "chat.completion.chunk" if self.chat else "text_completion"
                events.append(_sse(self._head(kind) | {"choices": [], "usage": usage(generation)}))
            events.append(b"data: [DONE]\n\n")
        return b"".join(events)

    def _event(self, content: dict[str, Any] | str, reason: str | None) -> bytes:
        choice: dict[str, Any] = {"index": 0, "delta" if self.chat else "text": content, "logprobs": None, "finish_reason": reason}
        return _sse(self._head("chat.completion.chunk" if self.chat else "text_completion") | {"choices": [choice]})

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.identity, "object": kind, "created": self.created, "model": self.model}


def _sse(value: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
