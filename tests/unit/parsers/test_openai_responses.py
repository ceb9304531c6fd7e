"""Responses."""

import json
from itertools import pairwise

import pytest

from epp.errors import BadRequest
from epp.model.request import Api, RequestHead
from epp.parsers.canonical import IMAGE_TOKENS
from epp.parsers.openai_responses import parse

HEAD = RequestHead(path="/v1/responses")


def respond(**fields):
    return parse(HEAD, json.dumps({"model": "m", **fields}).encode())


def test_a_text_is_a_users_message():
    request = respond(input="Hi", max_output_tokens=3, stream=True)
    assert (request.api, request.max_tokens, request.stream) == (Api.RESPONSES, 3, True)
    assert request.prompt == b"\xffuser\xfeHi"
    assert respond(input=[{"role": "user", "content": "Hi"}]).prompt == request.prompt
    parts = [{"type": "input_text", "text": "Hi"}]
    assert respond(input=[{"type": "message", "role": "user", "content": parts}]).prompt == request.prompt


def test_instructions_come_first_and_tools_before_them():
    plain, full = respond(input="Hi", instructions="Be brief"), respond(input="Hi", instructions="Be brief", tools=[{"type": "x"}])
    assert plain.prompt == b"\xffsystem\xfeBe brief\xffuser\xfeHi"
    assert full.prompt == b'\xfdtools\xfe[{"type": "x"}]' + plain.prompt


def test_the_next_turn_has_the_turn_before_as_prefix():
    items = [
        {"role": "user", "content": "Weather?"},
        {"type": "reasoning", "id": "r1", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "name": "weather", "arguments": "{}", "call_id": "c1"},
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        {"type": "message", "role": "assistant", "id": "m1", "content": [{"type": "output_text", "text": "It rains."}]},
        {"type": "item_reference", "id": "m1"},
    ]
    prompts = [respond(input=items[:count]).prompt for count in range(1, len(items) + 1)]
    for shorter, longer in pairwise(prompts):
        assert longer.startswith(shorter)
        assert longer != shorter


def test_a_stored_conversation_is_part_of_the_prefix():
    prompts = {
        respond(input="Hi", **stored).prompt
        for stored in ({}, {"previous_response_id": "r1"}, {"previous_response_id": "r2"}, {"conversation": "c1"})
    }
    assert len(prompts) == 4


def test_chat_has_the_form_of_chat_completions():
    tool = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
    parts = [{"type": "input_text", "text": "Wea"}, {"type": "input_text", "text": "ther?"}]
    items = [
        {"role": "user", "content": parts},
        {"type": "reasoning", "id": "r1", "summary": []},
        {"type": "function_call", "name": "weather", "arguments": "{}", "call_id": "c1"},
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        {"type": "item_reference", "id": "m1"},
    ]
    chat = respond(input=items, instructions="Be brief", tools=[tool, {"type": "web_search"}]).chat()
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    assert chat.messages == [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": parts},
        {"role": "assistant", "reasoning": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]
    function = {"name": "weather", "description": None, "parameters": {"type": "object"}}
    assert json.dumps(chat.tools) == json.dumps([{"type": "function", "function": function}])
    assert respond(input="Hi", instructions="").chat().messages == [{"role": "user", "content": "Hi"}]


def test_what_the_assistant_does_in_one_turn_is_one_message():
    calls = [{"type": "function_call", "name": name, "arguments": "{}", "call_id": name} for name in "ab"]
    items = [
        {"type": "reasoning", "summary": [{"text": "short"}], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "I look."}, {"type": "output_text", "text": "!"}]},
        *calls,
        {"role": "assistant", "content": "And"},
        {"type": "reasoning", "summary": [{"text": "short"}]},
    ]
    first, second = respond(input=items).chat().messages
    assert [call["id"] for call in first.pop("tool_calls")] == ["a", "b"]
    assert first == {"role": "assistant", "reasoning": "hm", "content": "I look."}
    assert second == {"role": "assistant", "content": "And", "reasoning": "short"}


def test_tools_of_a_namespace_have_its_name():
    inner = {"type": "function", "name": "weather"}
    call = {"type": "function_call", "namespace": "geo", "name": "weather", "arguments": "{}", "call_id": "c1"}
    tools = [{"type": "namespace", "name": "geo", "tools": [inner, {"type": "custom", "name": "x"}]}]
    chat = respond(input=[call], tools=tools).chat()
    assert [tool["function"]["name"] for tool in chat.tools] == ["geo__weather"]
    assert chat.messages[0]["tool_calls"][0]["function"]["name"] == "geo__weather"


def test_options_for_the_template():
    assert respond(input="Hi", chat_template_kwargs={"x": 1}).chat().template_options == {"x": 1}
    assert respond(input="Hi", chat_template_kwargs=[]).chat().template_options == {}


def test_what_continues_a_stored_response_cannot_be_rendered():
    assert respond(input="Hi", previous_response_id="r1").chat is None
    assert respond(input="Hi", conversation={"id": "c"}).chat is None
    assert respond(input="Hi", conversation=None).chat is not None


def test_images():
    part = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    assert respond(input=[{"role": "user", "content": [part]}]).media_tokens == IMAGE_TOKENS


@pytest.mark.parametrize("fields", [{}, {"input": None}, {"input": []}])
def test_no_input(fields):
    with pytest.raises(BadRequest, match="invalid responses request: must have input field"):
        respond(**fields)
