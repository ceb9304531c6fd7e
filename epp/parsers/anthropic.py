"""Anthropic messages: `/v1/messages`. The system prompt is a field of its own; tools are used and answered in content blocks."""

from typing import Any, Final

import msgspec

from epp.errors import BadRequest
from epp.model.request import Api, Chat, InferenceRequest, RequestHead
from epp.parsers.body import Body, decode, dicts, lazy_chat, output_cap
from epp.parsers.canonical import ABSENT, Bounded, Canonical, Part
from epp.parsers.chat_form import function_tool, template_options

BILLING: Final = "x-anthropic-billing-header"
"""Begins a system text in which Claude Code accounts for the request: another one in each turn, ahead of all that stays the same.

vLLM leaves it out of the prompt. An engine that keeps it cannot reuse what comes after it, so leaving it out here misleads nobody.
"""


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

    messages: Bounded[Message] | None = None
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
        if isinstance(found.system, str):
            canonical.text(found.system)
        else:
            canonical.content([part for part in found.system if not _is_billing(part.text)])
    for message in found.messages:
        _add_message(canonical, message)
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


def _add_message(canonical: Canonical, message: Message) -> None:
    content = message.content
    canonical.message(message.role)
    if isinstance(content, str):
        if not (message.role == "system" and _is_billing(content)):
            canonical.text(content)
        return
    canonical.count(content)
    for block in content:
        if not (message.role == "system" and _is_billing(block.text)):
            _add(canonical, block)


def _is_billing(text: str | None) -> bool:
    return text is not None and text.startswith(BILLING)


def _add(canonical: Canonical, block: Block) -> None:
    canonical.field(b"id", block.id)
    canonical.field(b"name", block.name)
    canonical.field(b"input", block.input)
    canonical.field(b"tool_use_id", block.tool_use_id)
    canonical.content(block.content)
    canonical.part(block)


def to_chat(found: dict[str, Any]) -> Chat:
    """Return the fully decoded body, which `parse` has already accepted, in the chat completions form.

    Tools become functions, uses of tools `tool_calls`, results messages of role `tool`, as vLLM does it. System messages that come
    first are joined to the system prompt, later ones stay where they are.
    """
    system = found.get("system")
    instructions = [system if isinstance(system, str) else _system_text(system)]
    messages: list[dict[str, Any]] = []
    for message in found["messages"]:
        if message["role"] != "system":
            messages += _messages(message)
        elif messages:
            messages += _system(_system_text(message["content"]))
        else:
            instructions.append(_system_text(message["content"]))
    tools = [function_tool({**tool, "parameters": _schema(tool.get("input_schema"))}) for tool in dicts(found.get("tools"))]
    return Chat(
        messages=_system("\n\n".join(text for text in instructions if text)) + messages,
        tools=tools or None,
        template_options=template_options(found),
    )


def _system(text: str) -> list[dict[str, Any]]:
    return [{"role": "system", "content": text}] if text else []


def _system_text(content: object) -> str:
    """Return the text of a system message or of a system prompt in blocks, without what accounts for the request."""
    texts = [content] if isinstance(content, str) else [part.get("text") or "" for part in dicts(content)]
    return "".join(text for text in texts if not _is_billing(text))


def _schema(schema: object) -> object:
    """Return the schema of a tool's input, which vLLM completes."""
    return {**schema, "type": schema.get("type", "object")} if isinstance(schema, dict) else {}


def _messages(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a message and, before it, the results of tools that came in it; a user's message without more than these is none."""
    role, blocks = message["role"], message["content"]
    if isinstance(blocks, str):
        return [{"role": role, "content": blocks}]
    results = [made for block in _of_type(blocks, "tool_result") for made in _result(block)]
    parts = [part for block in blocks if (part := _part(block)) is not None]
    thoughts = [block.get("thinking") or "" for block in _of_type(blocks, "thinking")]
    calls = [_call(block) for block in _of_type(blocks, "tool_use")]
    if role == "user" and not parts:
        return results
    said: dict[str, Any] = {"role": role}
    if parts:
        said["content"] = parts[0]["text"] if len(parts) == 1 and "text" in parts[0] else parts
    if thoughts:
        said["reasoning"] = "".join(thoughts)
    if calls:
        said["tool_calls"] = calls
    return [*results, said]


def _of_type(blocks: object, name: str) -> list[dict[str, Any]]:
    return [block for block in dicts(blocks) if block.get("type") == name]


def _part(block: dict[str, Any]) -> dict[str, Any] | None:
    """Return the part that a block is, if it is one: an empty text is none."""
    match block.get("type"):
        case "text" if block.get("text"):
            return {"type": "text", "text": block["text"]}
        case "image":
            return {"type": "image_url", "image_url": {"url": ""}}  # templates look at no more than that there is one
        case _:
            return None


def _call(block: dict[str, Any]) -> dict[str, Any]:
    function = {"name": block.get("name") or "", "arguments": msgspec.json.encode(block.get("input") or {}).decode()}
    return {"id": block.get("id") or "", "type": "function", "function": function}


def _result(block: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a tool's result: its texts, a line each, and a message of the user for its images."""
    content = block.get("content")
    text = content if isinstance(content, str) else "\n".join(part.get("text") or "" for part in _of_type(content, "text"))
    images = [_part(part) for part in _of_type(content, "image")]
    result = {"role": "tool", "tool_call_id": block.get("tool_use_id") or "", "content": text}
    return [result, *([{"role": "user", "content": images}] if images else [])]
