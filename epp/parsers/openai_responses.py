"""OpenAI responses: `/v1/responses`. The input is a text or a list of items; `instructions` are the system message."""

from collections.abc import Iterator
from typing import Any

import msgspec

from epp.errors import BadRequest
from epp.model.request import Api, Chat, InferenceRequest, RequestHead
from epp.parsers.body import Body, decode, dicts, lazy_chat, output_cap
from epp.parsers.canonical import ABSENT, Bounded, Canonical, Part, is_present
from epp.parsers.chat_form import function_tool, template_options


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

    input: str | Bounded[Item] | None = None
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
    """Return the fully decoded body, which `parse` has already accepted, in the chat completions form.

    Items of the assistant that follow each other are one message, as vLLM makes them: its reasoning, its text, its calls.
    """
    messages: list[dict[str, Any]] = []
    if found.get("instructions"):
        messages.append({"role": "system", "content": found["instructions"]})
    items = found["input"]
    for item in [{"role": "user", "content": items}] if isinstance(items, str) else items:
        _append(messages, item)
    tools = [function_tool(function) for function in _functions(found.get("tools"))]
    return Chat(messages=messages, tools=tools or None, template_options=template_options(found))


def _functions(tools: object) -> Iterator[dict[str, Any]]:
    """Yield the functions among the tools, those of a namespace under its name and theirs."""
    for tool in dicts(tools):
        match tool.get("type"):
            case "function":
                yield tool
            case "namespace":
                for inner in dicts(tool.get("tools")):
                    if inner.get("type") == "function":
                        yield {**inner, "name": _name(tool.get("name"), inner.get("name"))}


def _name(namespace: object, name: object) -> str:
    return f"{namespace}__{name}" if namespace else str(name or "")


def _append(messages: list[dict[str, Any]], item: dict[str, Any]) -> None:
    match item.get("type", "message"):
        case "message" if item.get("role") == "assistant":
            _assistant(messages, "content")["content"] = _first_text(item.get("content"))
        case "message":
            messages.append({"role": item.get("role", ""), "content": item.get("content")})
        case "reasoning":
            reasoning = _first_text(item.get("content")) or _first_text(item.get("summary"))
            _assistant(messages, "reasoning")["reasoning"] = reasoning
        case "function_call":
            function = {"name": _name(item.get("namespace"), item.get("name")), "arguments": item.get("arguments") or ""}
            call = {"id": item.get("call_id") or "", "type": "function", "function": function}
            _assistant(messages).setdefault("tool_calls", []).append(call)
        case "function_call_output":
            messages.append({"role": "tool", "tool_call_id": item.get("call_id") or "", "content": item.get("output")})
        case _:
            pass  # what only the server can resolve


def _assistant(messages: list[dict[str, Any]], field: str = "") -> dict[str, Any]:
    """Return the assistant's message that an item belongs to: the last one, unless that is another's or has the field already."""
    if not messages or messages[-1]["role"] != "assistant" or field in messages[-1]:
        messages.append({"role": "assistant"})
    return messages[-1]


def _first_text(content: object) -> str:
    """Return the text of the first part, which is all that vLLM puts back of what the assistant said."""
    if isinstance(content, str):
        return content
    return next((text if isinstance(text := part.get("text"), str) else "" for part in dicts(content)), "")
