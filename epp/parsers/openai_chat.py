"""OpenAI chat completions: `/v1/chat/completions`, and vLLM's `/render` of it."""

from typing import Any

import msgspec

from epp.errors import BadRequest
from epp.model.request import Api, Chat, InferenceRequest, RequestHead
from epp.parsers.body import Body, decode, dicts, lazy_chat, output_cap
from epp.parsers.canonical import ABSENT, Bounded, Canonical, Part
from epp.parsers.chat_form import function_tool, template_options


class Message(msgspec.Struct, gc=False):
    """One message. Fields that templates render are read, all others are skipped."""

    role: str
    content: str | list[str | Part] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: msgspec.Raw = ABSENT
    reasoning: str | None = None
    reasoning_content: str | None = None


class ChatBody(Body, kw_only=True):
    """The body, as far as routing needs it."""

    messages: Bounded[Message] | None = None
    tools: msgspec.Raw = ABSENT
    max_completion_tokens: int | float | None = None
    max_tokens: int | float | None = None


_DECODER = msgspec.json.Decoder(ChatBody)


def parse(head: RequestHead, body: bytes) -> InferenceRequest:
    """Return the request.

    Raises:
        BadRequest: no JSON, no messages, or a field of the wrong type.
    """
    found = decode(_DECODER, body)
    if not found.messages:
        raise BadRequest("invalid chat completions request: must have valid messages field")
    canonical = Canonical()
    canonical.field(b"tools", found.tools)
    for message in found.messages:
        add_message(canonical, message)
    return InferenceRequest(
        head=head,
        api=Api.CHAT,
        model=found.model,
        target_model=found.model,
        prompt=bytes(canonical),
        cache_salt=found.cache_salt or "",
        stream=bool(found.stream),
        max_tokens=output_cap(found.max_completion_tokens, found.max_tokens),
        engine_priority=found.priority or 0,
        media_tokens=canonical.media_tokens,
        chat=lazy_chat(body, to_chat),
    )


def add_message(canonical: Canonical, message: Message) -> None:
    """Add one message: its role, what names it, its content, the tools it calls."""
    canonical.message(message.role)
    if message.name is not None:
        canonical.field(b"name", message.name)
    if message.tool_call_id is not None:
        canonical.field(b"tool_call_id", message.tool_call_id)
    reasoning = message.reasoning if message.reasoning is not None else message.reasoning_content
    if reasoning is not None:
        canonical.field(b"reasoning", reasoning)
    canonical.content(message.content)
    if message.tool_calls is not ABSENT:
        canonical.field(b"tool_calls", message.tool_calls)


def to_chat(found: dict[str, Any]) -> Chat:
    """Return messages and tools of the fully decoded body, which `parse` has already accepted."""
    return Chat(
        messages=found["messages"],
        tools=[_tool(tool) for tool in dicts(found.get("tools"))] or None,
        template_options=template_options(found),
    )


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    function = tool.get("function")
    return function_tool(function) if isinstance(function, dict) else tool
