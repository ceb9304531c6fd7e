"""One request, as parsed: what the strategies and scorers may know of it."""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from msgspec import Struct, field


class Api(Enum):
    """Which API a request speaks, chosen by its path."""

    COMPLETIONS = "completions"
    CHAT = "chat"
    RESPONSES = "responses"
    EMBEDDINGS = "embeddings"
    MESSAGES = "messages"
    PASSTHROUGH = "passthrough"


class RequestHead(Struct, frozen=True, kw_only=True):
    """What Envoy told us before the body."""

    path: str = "/"
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    """Lower-case names. Of a repeated header the last value."""
    subset: tuple[str, ...] | None = None
    """Endpoints the gateway allows, as `ip:port` or a bare `ip`; None means all, an empty tuple means none."""
    request_id: str = ""
    priority: int = 0
    """Of the objective that the headers name, set by the director. Higher matters more; below 0 the request may be shed."""


class Chat(Struct, frozen=True, kw_only=True):
    """What a chat template renders, as plain decoded JSON. Other APIs are brought into the chat completions form."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    template_options: Mapping[str, Any] = field(default_factory=dict)
    """`chat_template_kwargs` of the request."""


class InferenceRequest(Struct, frozen=True, kw_only=True):
    """A parsed request.

    `prompt` is the canonical text of the prompt as bytes: everything the engine will put before the first generated token, in the
    order of a chat template (tools, then messages), in a form in which equal prefixes of conversations are equal prefixes of bytes.
    """

    head: RequestHead
    api: Api
    model: str = ""
    """As the client names it; empty where the body has none, or is passed through."""
    target_model: str = ""
    """The model the request is sent on with; equal to `model` unless rewritten."""
    prompt: bytes = b""
    token_ids: tuple[int, ...] | None = None
    """Token ids, when the request carries them itself."""
    cache_salt: str = ""
    stream: bool = False
    max_tokens: int | None = None
    rewrite: str = ""
    """Which rewrite chose `target_model`; empty when no rule of one did, whatever a header asked for."""
    engine_priority: int = 0
    """`priority` of the body: for the engine alone, which serves lower ones first."""
    media_tokens: int = 0
    """Estimated prompt tokens of images and other media, which `prompt` holds only as a digest."""
    chat: Callable[[], Chat] | None = None
    """Decodes messages and tools, for a tokenizer with a chat template; None where the API has none.

    A call decodes the whole body again, so only who needs it calls it, once; it raises TokenizeError and may run in a thread.
    """
    model_span: tuple[int, int] | None = None
    """Where the value of `model`, quotes included, stands in the body, or has its place; filled when it has to be replaced."""

    @property
    def priority(self) -> int:
        """Of its objective. Higher matters more; below 0 it may be shed."""
        return self.head.priority

    @property
    def lora(self) -> str:
        """Adapters are asked for by model name; whether the name is one, the endpoints know."""
        return self.target_model


BYTES_PER_TOKEN = 4
"""Estimate where nobody counted, as the reference does."""


def prompt_tokens(request: InferenceRequest) -> int:
    """Return how many tokens the prompt has: its text counted when it has ids, else estimated from its bytes; at least 1."""
    text = len(request.prompt) // BYTES_PER_TOKEN if request.token_ids is None else len(request.token_ids)
    return max(1, text + request.media_tokens)
