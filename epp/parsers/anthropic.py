"""Anthropic messages: `/v1/messages`. The system prompt is a field of its own; tools are used and answered in content blocks."""

from typing import Any

import msgspec

from epp.errors import BadRequest
from epp.model.request import Api, Chat, InferenceRequest, RequestHead
from epp.parsers.body import Body, decode, dicts, lazy_chat, output_cap
from epp.parsers.canonical import ABSENT, Canonical, Part


class Block(Part, gc=False):
    """A content block: a part, the use of a tool, or a tool's result."""

    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = ABSENT
    tool_use_id: str | None = None
    content: str | list[Part] | None = None


class Message(msgspec.Struct, gc=False):
    """One message."""

    role: str
    content: str | list[Block]


class MessagesBody(Body, kw_only=True):
    """The body, as far as routing needs it."""

    messages: list[Message] | None = None
    system: str | list[Part] | None = None
    tools: msgspec.Raw = ABSENT
    max_tokens: int | float | None = None


_DECODER = msgspec.json.Decoder(MessagesBody)


def parse(head: RequestHead, body: bytes) -> InferenceRequest:
    """Return the request.

    Raises:
        BadRequest: no JSON, no messages, or a field of the wrong type.
    """
    found = decode(_DECODER, body)
    if not found.messages:
        raise BadRequest("invalid messages request: must have at least one message")
    canonical = Canonical()
    canonical.field(b"tools", found.tools)
    if found.system is not None:
        canonical.message("system")
        canonical.content(found.system)
    for message in found.messages:
        canonical.message(message.role)
        if isinstance(message.content, str):
            canonical.text(message.content)
        else:
            for block in message.content:
                _add(canonical, block)
    return InferenceRequest(
        head=head,
        api=Api.MESSAGES,
        model=found.model,
        target_model=found.model,
        prompt=bytes(canonical),
        cache_salt=found.cache_salt or "",
        stream=bool(found.stream),
        max_tokens=output_cap(found.max_tokens),
        engine_priority=found.priority or 0,
        media_tokens=canonical.media_tokens,
        chat=lazy_chat(body, to_chat),
    )


def _add(canonical: Canonical, block: Block) -> None:
    canonical.field(b"id", block.id)
    canonical.field(b"name", block.name)
    canonical.field(b"input", block.input)
    canonical.field(b"tool_use_id", block.tool_use_id)
    canonical.content(block.content)
    canonical.part(block)


def to_chat(found: dict[str, Any]) -> Chat:
    """Return the fully decoded body, which `parse` has already accepted, in the chat completions form.

    Tools become functions, uses of tools `tool_calls`, results messages of role `tool`, as engines that serve both APIs do it.
    """
    messages: list[dict[str, Any]] = []
    if found.get("system") is not None:
        messages.append({"role": "system", "content": _text(found["system"])})
    for message in found["messages"]:
        messages += _messages(message)
    tools = [
        {
            "type": "function",
            "function": {
                "name": tool.get("name", ""),
                "description": tool.get("description", ""),
                "parameters": tool.get("input_schema", {}),
            },
        }
        for tool in dicts(found.get("tools"))
    ]
    return Chat(messages=messages, tools=tools or None)


def _messages(message: dict[str, Any]) -> list[dict[str, Any]]:
    if isinstance(message["content"], str):
        return [{"role": message["role"], "content": message["content"]}]
    results: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for block in message["content"]:
        match block.get("type"):
            case "tool_result":
                answer = {"role": "tool", "tool_call_id": block.get("tool_use_id", ""), "content": _text(block.get("content"))}
                results.append(answer)
            case "tool_use":
                arguments = msgspec.json.encode(block.get("input", {})).decode()
                function = {"name": block.get("name", ""), "arguments": arguments}
                calls.append({"id": block.get("id", ""), "type": "function", "function": function})
            case "text":
                parts.append({"type": "text", "text": block.get("text") or ""})
            case "image":
                parts.append({"type": "image_url", "image_url": {"url": ""}})
            case _:
                pass  # thinking is not put back into a prompt
    said: dict[str, Any] = {"role": message["role"], "content": _join(parts)}
    if calls:
        said["tool_calls"] = calls
    return results + ([said] if parts or calls else [])


def _join(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    return "".join(part["text"] for part in parts) if all(part["type"] == "text" for part in parts) else parts


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text") or "" for part in dicts(content))
