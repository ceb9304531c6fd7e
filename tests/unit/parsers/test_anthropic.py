"""Anthropic messages."""

import json
from itertools import pairwise

import pytest

from epp.errors import BadRequest
from epp.model.request import Api, RequestHead
from epp.parsers.anthropic import parse
from epp.parsers.canonical import IMAGE_TOKENS

HEAD = RequestHead(path="/v1/messages")
USE = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Bern"}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "rain"}]}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
TOOL = {"name": "weather", "description": "Tells it", "input_schema": {"type": "object"}}


def message(*messages, **fields):
    return parse(HEAD, json.dumps({"model": "m", "max_tokens": 8, "messages": messages, **fields}).encode())


def test_fields():
    request = message({"role": "user", "content": "Hi"}, system="Be brief", tools=[TOOL], stream=True)
    assert (request.api, request.model, request.max_tokens, request.stream) == (Api.MESSAGES, "m", 8, True)
    assert request.prompt == b"\xfdtools\xfe" + json.dumps([TOOL]).encode() + b"\xffsystem\xfeBe brief\xffuser\xfeHi"


def test_blocks_equal_plain_texts_and_cache_control_does_not_count():
    plain = message({"role": "user", "content": "Hi"}, system="Be brief")
    block = {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}
    blocks = message({"role": "user", "content": [block]}, system=[{**block, "text": "Be brief"}])
    assert plain.prompt == blocks.prompt


def test_the_next_turn_has_the_turn_before_as_prefix():
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}, IMAGE]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "x"}, USE]},
        {"role": "user", "content": [RESULT]},
        {"role": "assistant", "content": "It rains."},
    ]
    prompts = [message(*turns[:count]).prompt for count in range(1, len(turns) + 1)]
    for shorter, longer in pairwise(prompts):
        assert longer.startswith(shorter)
        assert longer != shorter


def test_images_also_in_results():
    inside = {**RESULT, "content": [IMAGE]}
    request = message({"role": "user", "content": [IMAGE, inside]})
    assert request.media_tokens == 2 * IMAGE_TOKENS


def test_chat_has_the_form_of_chat_completions():
    request = message(
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "I look."}, USE]},
        {"role": "user", "content": [RESULT, {"type": "text", "text": "and?"}]},
        {"role": "user", "content": [IMAGE]},
        system=[{"type": "text", "text": "Be"}, {"type": "text", "text": "brief"}],
        tools=[TOOL],
    )
    chat = request.chat()
    assert chat.messages == [
        {"role": "system", "content": "Bebrief"},
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning": "hm",
            "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bern"}'}}],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "rain"},
        {"role": "user", "content": "and?"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": ""}}]},
    ]
    function = {"name": "weather", "description": "Tells it", "parameters": {"type": "object"}}
    assert chat.tools == [{"type": "function", "function": function}]


def test_what_a_user_says_without_words_is_no_message():
    assert message({"role": "user", "content": [{"type": "text", "text": None}]}).chat().messages == []


def billing(turn):
    return {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1; cch={turn};"}


def test_the_billing_header_of_a_turn_is_no_part_of_the_prompt():
    brief, hi = {"type": "text", "text": "Be brief"}, {"role": "user", "content": "Hi"}
    plain = message(hi, system=[brief])
    for turn in ("1a", "2b"):
        request = message(hi, system=[billing(turn), brief])
        assert request.prompt == plain.prompt
        assert request.chat().messages == plain.chat().messages
    assert message(hi, system=[billing("1a")]).chat().messages == [hi]


@pytest.mark.parametrize("content", [[billing("1a"), {"type": "text", "text": "Be brief"}], billing("1a")["text"]])
def test_nor_is_it_in_a_system_message(content):
    hi, ho = {"role": "user", "content": "Hi"}, {"role": "user", "content": "Ho"}
    first, later = message({"role": "system", "content": content}, hi), message(hi, {"role": "system", "content": content}, ho)
    for request in (first, later):
        assert b"x-anthropic" not in request.prompt
        assert "x-anthropic" not in str(request.chat().messages)
    said = [{"role": "system", "content": "Be brief"}] if isinstance(content, list) else []
    assert first.chat().messages == [*said, hi]
    assert later.chat().messages == [hi, *said, ho]


def test_what_a_user_says_is_never_taken_for_the_billing_header():
    for content in ([billing("1a")], billing("1a")["text"]):
        request = message({"role": "user", "content": content})
        assert b"x-anthropic" in request.prompt
        assert "x-anthropic" in str(request.chat().messages)


def test_system_messages_that_come_first_are_joined_to_the_system_prompt():
    blocks = [{"type": "text", "text": "kind"}, {"type": "text", "text": " too"}]
    request = message({"role": "system", "content": blocks}, {"role": "user", "content": "Hi"}, system="Be brief")
    assert request.chat().messages == [{"role": "system", "content": "Be brief\n\nkind too"}, {"role": "user", "content": "Hi"}]


def test_several_texts_stay_parts():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    spelled = [{**parts[0], "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": ""}, parts[1]]
    assert message({"role": "user", "content": spelled}).chat().messages == [{"role": "user", "content": parts}]


def test_results_are_a_text_and_their_images_a_users_message():
    content = [{"type": "text", "text": "rain"}, IMAGE, {"type": "text", "text": "sun"}]
    image = {"type": "image_url", "image_url": {"url": ""}}
    assert message({"role": "user", "content": [{**RESULT, "content": content}]}).chat().messages == [
        {"role": "tool", "tool_call_id": "t1", "content": "rain\nsun"},
        {"role": "user", "content": [image]},
    ]


def test_thinking_alone_is_a_message():
    thoughts = [{"type": "thinking", "thinking": "h"}, {"type": "thinking", "thinking": "m"}]
    assert message({"role": "assistant", "content": thoughts}).chat().messages == [{"role": "assistant", "reasoning": "hm"}]


def test_tools_have_the_fields_of_chat_completions_in_one_order():
    tools = [
        {"input_schema": {"properties": {}}, "name": "a", "cache_control": {"type": "ephemeral"}},
        {"name": "b", "strict": True, "input_schema": {"type": "object"}, "description": "B"},
    ]
    made = message({"role": "user", "content": "Hi"}, tools=tools).chat().tools
    assert json.dumps([tool["function"] for tool in made]) == json.dumps(
        [
            {"name": "a", "description": None, "parameters": {"properties": {}, "type": "object"}},
            {"name": "b", "description": "B", "parameters": {"type": "object"}, "strict": True},
        ]
    )


def test_options_for_the_template():
    request = message({"role": "user", "content": "Hi"}, chat_template_kwargs={"enable_thinking": False})
    assert request.chat().template_options == {"enable_thinking": False}


@pytest.mark.parametrize("body", [b'{"model": "m"}', b'{"model": "m", "messages": []}', b'{"model": "m", "messages": null}'])
def test_no_messages(body):
    with pytest.raises(BadRequest, match="invalid messages request: must have at least one message"):
        parse(HEAD, body)
