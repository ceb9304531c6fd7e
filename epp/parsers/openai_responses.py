"""OpenAI responses: `/v1/responses`. The input is a text or a list of items; `instructions` are the system message."""

from typing import Any

import msgspec

from epp.errors import BadRequest
from epp.model.request import Api, Chat, InferenceRequest, RequestHead
from epp.parsers.body import Body, decode, dicts, lazy_chat, output_cap
from epp.parsers.canonical import ABSENT, Canonical, Part, is_present


class Item(msgspec.Struct, gc=False):
    """One item of the input: a message, a function call or its output, or what an earlier answer held."""

    type: str = "message"
    role: str = ""
    content: str | list[str | Part] | None = None
    name: str | None = None
    call_id: str | None = None
    arguments: str | None = None
    id: str | None = None
    output: msgspec.Raw = ABSENT
    summary: msgspec.Raw = ABSENT


class ResponsesBody(Body, kw_only=True):
    """The body, as far as routing needs it."""

    input: str | list[Item] | None = None
    instructions: str | None = None
    tools: msgspec.Raw = ABSENT
    previous_response_id: str | None = None
    conversation: msgspec.Raw = ABSENT
    max_output_tokens: int | float | None = None


_DECODER = msgspec.json.Decoder(ResponsesBody)


def parse(head: RequestHead, body: bytes) -> InferenceRequest:
    """Return the request.

    A request that continues a stored response begins with text that only the server knows; the id stands for it.

    Raises:
        BadRequest: no JSON, no input, or a field of the wrong type.
    """
    found = decode(_DECODER, body)
    if found.input is None or found.input == []:
        raise BadRequest("invalid responses request: must have input field")
    stored = found.previous_response_id is not None or is_present(found.conversation)
    canonical = Canonical()
    canonical.field(b"tools", found.tools)
    canonical.field(b"previous", found.previous_response_id)
    canonical.field(b"conversation", found.conversation)
    if found.instructions is not None:
        canonical.message("system")
        canonical.text(found.instructions)
    for item in [Item(role="user", content=found.input)] if isinstance(found.input, str) else found.input:
        _add(canonical, item)
    return InferenceRequest(
        head=head,
        api=Api.RESPONSES,
        model=found.model,
        target_model=found.model,
        prompt=bytes(canonical),
        cache_salt=found.cache_salt or "",
        stream=bool(found.stream),
        max_tokens=output_cap(found.max_output_tokens),
        engine_priority=found.priority or 0,
        media_tokens=canonical.media_tokens,
        chat=None if stored else lazy_chat(body, to_chat),
    )


def _add(canonical: Canonical, item: Item) -> None:
    if item.type == "message":
        canonical.message(item.role)
    else:
        canonical.message(item.role or "assistant")
        canonical.field(b"type", item.type)
        canonical.field(b"id", item.id)  # an item reference has nothing else; ids of messages do not reach the prompt
    canonical.field(b"name", item.name)
    canonical.field(b"call_id", item.call_id)
    canonical.field(b"arguments", item.arguments)
    canonical.content(item.content)
    canonical.field(b"output", item.output)
    canonical.field(b"summary", item.summary)


def to_chat(found: dict[str, Any]) -> Chat:
    """Return the fully decoded body, which `parse` has already accepted, in the chat completions form."""
    messages: list[dict[str, Any]] = []
    if found.get("instructions") is not None:
        messages.append({"role": "system", "content": found["instructions"]})
    items = found["input"]
    for item in [{"role": "user", "content": items}] if isinstance(items, str) else items:
        messages += _messages(item)
    tools = [
        {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}
        for tool in dicts(found.get("tools"))
        if tool.get("type") == "function"
    ]
    return Chat(messages=messages, tools=tools or None)


def _messages(item: dict[str, Any]) -> list[dict[str, Any]]:
    match item.get("type", "message"):
        case "message":
            return [{"role": item.get("role", ""), "content": _content(item.get("content"))}]
        case "function_call":
            function = {"name": item.get("name") or "", "arguments": item.get("arguments") or ""}
            call = {"id": item.get("call_id") or "", "type": "function", "function": function}
            return [{"role": "assistant", "content": "", "tool_calls": [call]}]
        case "function_call_output":
            return [{"role": "tool", "tool_call_id": item.get("call_id") or "", "content": _content(item.get("output"))}]
        case _:
            return []  # reasoning is not put back into a prompt


def _content(content: object) -> str:
    if isinstance(content, str):
        return content
    return "".join(text for part in dicts(content) if isinstance(text := part.get("text"), str))
