"""Chat completions."""

import json
from itertools import pairwise, product

import pytest

from epp.errors import BadRequest, TokenizeError
from epp.model.request import Api, RequestHead, prompt_tokens
from epp.parsers.canonical import AUDIO_TOKENS, IMAGE_TOKENS, VIDEO_TOKENS
from epp.parsers.openai_chat import parse, to_chat
from epp.testing.openai_api import read_body, token_ids
from epp.testing.tokenizer import encode, render_chat

HEAD = RequestHead(path="/v1/chat/completions")
SYSTEM = {"role": "system", "content": "You are a helpful AI writer."}
HELLO = {"role": "user", "content": "Hello"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def chat(*messages, **fields):
    return parse(HEAD, json.dumps({"model": "llama", "messages": messages, **fields}).encode())


def test_fields():
    request = chat(HELLO, stream=True, cache_salt="s", priority=-2, max_tokens=7, n=3, seed=12345678901234567890123)
    assert request.api is Api.CHAT
    assert (request.model, request.target_model, request.lora) == ("llama", "llama", "llama")
    assert (request.stream, request.cache_salt, request.engine_priority, request.max_tokens) == (True, "s", -2, 7)
    assert request.head is HEAD
    assert request.model_span is None


@pytest.mark.parametrize(
    ("fields", "cap"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_tokens": 5.0}, 5),
        ({"max_tokens": None}, None),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
    ],
)
def test_output_cap(fields, cap):
    assert chat(HELLO, **fields).max_tokens == cap


def test_canonical_bytes():
    request = chat(SYSTEM, HELLO, tools=[TOOL])
    tools = json.dumps([TOOL]).encode()
    assert request.prompt == b"\xfdtools\xfe" + tools + b"\xffsystem\xfeYou are a helpful AI writer.\xffuser\xfeHello"


def test_the_next_turn_has_the_turn_before_as_prefix():
    answer = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "weather", "arguments": "{}"}}]}
    result = {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "rain"}]}
    turns = [SYSTEM, HELLO, answer, result, {"role": "assistant", "content": "It rains.", "reasoning_content": "hm"}]
    prompts = [chat(*turns[:count], tools=[TOOL]).prompt for count in range(1, len(turns) + 1)]
    for shorter, longer in pairwise(prompts):
        assert longer.startswith(shorter)
        assert longer != shorter


def test_the_same_text_is_the_same_bytes_however_it_is_written():
    text = "caf\u00e9 \U0001f600"
    plain = chat({"role": "user", "content": text}).prompt
    parts = chat({"role": "user", "content": [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]}).prompt
    raw = parse(HEAD, json.dumps({"messages": [{"content": text, "role": "user"}], "model": "llama"}, ensure_ascii=False).encode())
    bare = chat({"role": "user", "content": [text]}).prompt
    assert plain == parts == bare == raw.prompt == b"\xffuser\xfe" + text.encode()


@pytest.mark.parametrize(
    "other",
    [
        [{"role": "user", "content": "Hello\x00assistant\x01"}],
        [{"role": "assistant", "content": "Hello"}],
        [{"role": "user", "content": "Hel"}, {"role": "user", "content": "lo"}],
        [{"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}],
        [{"role": "userHello", "content": ""}],
        [{"role": "user", "name": "Hello", "content": ""}],
        [{"role": "user", "content": "Hello", "name": "Ann"}],
        [{"role": "user", "content": "Hello", "tool_call_id": "Ann"}],
    ],
)
def test_structure_is_not_confused_with_text(other):
    assert chat(*other).prompt != chat(HELLO).prompt


def test_no_two_conversations_run_together():
    texts = ["", "a", "aa"]
    messages = [
        {"role": role, "content": content, **({} if name is None else {"name": name})}
        for role, content, name in product(texts, texts, [None, *texts])
    ]
    conversations = [[one] for one in messages] + [list(two) for two in product(messages, messages)]
    assert len({chat(*turns).prompt for turns in conversations}) == len(conversations) == 36 + 36**2


def image(url):
    return {"role": "user", "content": [{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": url}}]}


def test_images_are_digests_with_an_estimate_in_tokens():
    large = "data:image/png;base64," + "A" * 100_000
    request, same, other = chat(image(large)), chat(image(large)), chat(image(large + "B"))
    assert request.prompt == same.prompt != other.prompt
    assert len(request.prompt) < 64
    assert request.media_tokens == IMAGE_TOKENS == 225
    assert prompt_tokens(request) == len(request.prompt) // 4 + 225


def test_video_and_audio():
    parts = [
        {"type": "video_url", "video_url": {"url": "http://x/v.mp4"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "audio_url", "audio_url": {"url": "http://x/a.wav"}},
        {"type": "file", "file": {"file_id": "f"}},
    ]
    request = chat({"role": "user", "content": parts})
    assert request.media_tokens == VIDEO_TOKENS + 2 * AUDIO_TOKENS
    assert request.prompt != chat({"role": "user", "content": parts[:3]}).prompt


def test_absent_and_null_are_the_same():
    spelled = {"role": "user", "content": "Hello", "name": None, "tool_calls": None, "tool_call_id": None}
    assert chat(spelled, tools=None, stream=None, cache_salt=None, priority=None).prompt == chat(HELLO).prompt


def test_chat_is_decoded_when_asked():
    request = chat(SYSTEM, HELLO, tools=[TOOL], chat_template_kwargs={"enable_thinking": False})
    found = request.chat()
    assert found.messages == [SYSTEM, HELLO]
    assert found.tools == [{"type": "function", "function": {"description": None, **TOOL["function"]}}]
    assert found.template_options == {"enable_thinking": False}
    assert chat(HELLO, tools=[]).chat().tools is None


def test_tools_have_the_same_fields_in_the_same_order_however_they_are_written():
    spelled = {"function": {"strict": True, "parameters": {"b": 1, "a": 2}, "x": 1, "name": "f"}, "x": 1, "type": "function"}
    function = {"name": "f", "description": None, "parameters": {"b": 1, "a": 2}, "strict": True}
    bare = {"type": "function", "function": {"name": "g", "strict": None}}
    made = chat(HELLO, tools=[spelled, bare, {"type": "other"}]).chat().tools
    assert json.dumps(made) == json.dumps(
        [
            {"type": "function", "function": function},
            {"type": "function", "function": {"name": "g", "description": None, "parameters": None}},
            {"type": "other"},
        ]
    )


def test_a_body_that_only_the_template_would_choke_on_is_still_routed():
    request = parse(HEAD, b'{"model": "m", "messages": [{"role": "user", "content": "a"}], "seed": 1e400}')
    with pytest.raises(TokenizeError):
        request.chat()


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "error unmarshaling request body"),
        (b"{", "error unmarshaling request body"),
        (b"[]", "Expected `object`, got `array`"),
        (b'{"model": 3, "messages": [{"role": "user", "content": "secret"}]}', "Expected `str`, got `int` - at `$.model`"),
        (b'{"model": null, "messages": []}', "Expected `str`, got `null`"),
        (b'{"model": "m"}', "invalid chat completions request: must have valid messages field"),
        (b'{"model": "m", "messages": []}', "must have valid messages field"),
        (b'{"model": "m", "messages": "secret"}', "Expected `array | null`, got `str` - at `$.messages`"),
        (b'{"model": "m", "messages": [{"content": "secret"}]}', "missing required field `role`"),
        (b'{"model": "m", "messages": [{"role": "user", "content": {"a": "secret"}}]}', "at `$.messages[0].content`"),
        (b'{"model": "m", "messages": [{"role": "user", "content": "secret\xff"}]}', "invalid UTF-8"),
        (b'{"model": "m", "messages": [{"role": "user", "content": "secret\\ud800"}]}', "error unmarshaling request body"),
        (b'{"model": "m", "stream": "yes", "messages": [{"role": "user", "content": "secret"}]}', "at `$.stream`"),
        (b'{"model": "m", "max_tokens": "9", "messages": [{"role": "user", "content": "secret"}]}', "at `$.max_tokens`"),
        (b'{"model": "m", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"model": "m", "tools": ' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_cannot_be_understood_is_a_400_that_quotes_nothing(body, sentence):
    with pytest.raises(BadRequest) as caught:
        parse(HEAD, body)
    assert sentence in caught.value.message
    assert "secret" not in caught.value.message
    assert caught.value.status == 400
    assert caught.value.__cause__ is None


def test_the_body_is_not_kept_in_a_representation():
    assert "secret" not in repr(chat({"role": "user", "content": "secret"}).chat)


def test_an_engine_reads_the_same_prompt_however_the_client_writes_its_tools():
    scrambled = {"function": {"parameters": {"type": "object"}, "name": "f", "x": 1}, "type": "function"}
    tools = [scrambled, {"type": "function", "function": {"name": "g"}}]
    body = json.dumps({"model": "m", "tools": tools, "messages": [{"role": "user", "content": "Hi"}]}).encode()
    chat = to_chat(json.loads(body))
    assert encode(render_chat(chat.messages, chat.tools)) == token_ids(read_body(body))
