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
        {"role": "system", "content": "Be\nbrief"},
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bern"}'}}],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "rain"},
        {"role": "user", "content": "and?"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": ""}}]},
    ]
    function = {"name": "weather", "description": "Tells it", "parameters": {"type": "object"}}
    assert chat.tools == [{"type": "function", "function": function}]


def test_a_text_block_without_text_is_empty():
    assert message({"role": "user", "content": [{"type": "text", "text": None}]}).chat().messages == [
        {"role": "user", "content": ""}
    ]


@pytest.mark.parametrize("body", [b'{"model": "m"}', b'{"model": "m", "messages": []}', b'{"model": "m", "messages": null}'])
def test_no_messages(body):
    with pytest.raises(BadRequest, match="invalid messages request: must have at least one message"):
        parse(HEAD, body)
