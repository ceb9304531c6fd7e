"""Prompts as the engine sees them."""

from datetime import datetime

import pytest

from epp.errors import ConfigError, TokenizeError
from epp.model.request import Api, Chat, InferenceRequest, RequestHead
from epp.prefix.tokens import ChatTemplate, PromptTokenizer
from epp.testing import tokenizer as stand_in

STRING = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
)
PARTS = "{% for m in messages %}{% for part in m['content'] %}({{ part.type }}:{{ part.text }}){% endfor %}{% endfor %}"


def render(source, messages, *, tools=None, **options):
    template = ChatTemplate(source, {"bos_token": "<s>"}, lambda: datetime(2026, 1, 2))
    return template.render(Chat(messages=messages, tools=tools, template_options=options))


def user(content, **more):
    return {"role": "user", "content": content, **more}


def request(api, *, prompt=b"", chat=None):
    return InferenceRequest(head=RequestHead(), api=api, prompt=prompt, chat=None if chat is None else lambda: chat)


@pytest.mark.parametrize(
    ("source", "messages", "expected"),
    [
        (STRING, [user("hi")], "<s>[user]hi[a]"),
        (STRING, [user([{"type": "text", "text": "a"}, {"type": "image_url"}, "b"])], "<s>[user]a\nb[a]"),
        (STRING, [user(None)], "<s>[user][a]"),
        (PARTS, [user("hi")], "(text:hi)"),
        (PARTS, [user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])], "(text:a)(text:b)"),
        ("{% set content = messages[0].content %}{% for p in content %}{{ p.text }}|{% endfor %}", [user("x")], "x|"),
        ("{{ messages | length }}{% generation %}{{ strftime_now('%Y') }}{% endgeneration %}", [user("x")], "12026"),
        (
            "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
            [user("1"), user("2")],
            "1",
        ),
    ],
)
def test_content(source, messages, expected):
    assert render(source, messages) == expected


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": "a"},
        {"type": "input_text", "text": "a"},
        {"type": "output_text", "text": "a"},
        {"type": "refusal", "refusal": "a"},
        {"type": "thinking", "thinking": "a"},
    ],
)
def test_all_that_is_text_becomes_text(part):
    assert render(PARTS, [user([part, "b"])]) == "(text:a)(text:b)"
    assert render(STRING, [user([part, "b"])]) == "<s>[user]a\nb[a]"


def test_the_result_of_a_tool_is_one_text_also_where_the_template_loops():
    source = PARTS.replace("{% for part", "{% if m.content is string %}{{ m.content }}{% else %}{% for part", 1)
    source = source.replace("{% endfor %}", "{% endfor %}{% endif %}", 1)
    texts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert render(source, [{"role": "tool", "content": "a"}, {"role": "tool", "content": texts}]) == "aa\nb"
    assert render(source, [{"role": "tool", "content": None}]) == ""
    assert render(source, [{"role": "tool", "content": [texts[0], {"type": "image"}]}]) == "(text:a)(image:)"


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_is_there_under_both_names(name):
    said = {"role": "assistant", "content": "x", name: "hm"}
    assert render("{{ messages[0].reasoning }}|{{ messages[0].reasoning_content }}", [said]) == "hm|hm"
    assert render("{{ messages[0].reasoning is defined }}", [user("x")]) == "False"


def test_tools_keep_their_order_and_their_characters():
    tools = [{"type": "function", "function": {"name": "é<b>", "a": 1}}]
    assert (
        render("{{ tools | tojson }}", [user("x")], tools=tools) == '[{"type": "function", "function": {"name": "é<b>", "a": 1}}]'
    )
    assert render("{{ tools | tojson(indent=1) }}", [user("x")], tools=[1]) == "[\n 1\n]"


def test_arguments_of_tool_calls_are_decoded():
    source = "{{ messages[0].tool_calls[0].function.arguments }}"
    call = {"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    assert render(source, [user(None, tool_calls=[call])]) == "{'x': 1}"
    assert call["function"]["arguments"] == '{"x": 1}', "the request is left alone"
    call["function"]["arguments"] = "{"
    assert render(source, [user(None, tool_calls=[call])]) == "{"


def test_options_of_the_request_reach_the_template():
    assert render("{{ enable_thinking }}", [user("x")], enable_thinking=False) == "False"


@pytest.mark.parametrize(
    "source",
    ["{{ raise_exception(messages[0].content) }}", "{{ messages[9].content.x }}", "{{ ''.__class__.__mro__[1].__subclasses__() }}"],
)
def test_a_template_that_fails_says_nothing_of_the_prompt(source):
    with pytest.raises(TokenizeError) as caught:
        render(source, [user("the secret")])
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_template_that_is_none():
    with pytest.raises(ConfigError):
        ChatTemplate("{% for %}", {}, datetime.now)


class TestPromptTokenizer:
    def test_conversations_as_the_stand_in_tokenizes_them(self):
        template = ChatTemplate(stand_in.CHAT_TEMPLATE, {}, datetime.now)
        tokenizer = PromptTokenizer(stand_in.tokenizer(), template)
        messages = [{"role": "system", "content": "You are a helpful AI writer."}, user("Write about the river.")]
        expected = stand_in.encode(stand_in.render_chat(messages))
        for api in (Api.CHAT, Api.RESPONSES, Api.MESSAGES):
            assert tokenizer.encode(request(api, chat=Chat(messages=messages))) == tuple(expected)

    def test_plain_prompts_and_batches_of_them(self):
        tokenizer = PromptTokenizer(stand_in.tokenizer(), None)
        river, ocean = stand_in.encode("the river"), stand_in.encode("an ocean")
        assert tokenizer.encode(request(Api.COMPLETIONS, prompt=b"the river")) == tuple(river)
        assert tokenizer.encode(request(Api.EMBEDDINGS, prompt=b"the river\xffan ocean")) == (*river, *ocean)

    def test_special_tokens_are_added_to_plain_prompts_only(self):
        from tokenizers.processors import TemplateProcessing

        made = type(stand_in.tokenizer()).from_str(stand_in.tokenizer().to_str())
        start = made.token_to_id(stand_in.START)
        made.post_processor = TemplateProcessing(single=f"{stand_in.START} $A", special_tokens=[(stand_in.START, start)])
        made.enable_truncation(2)
        made.enable_padding(length=50)
        tokenizer = PromptTokenizer(made, ChatTemplate("{{ messages[0].content }}", {}, datetime.now))
        ids = tuple(stand_in.encode("the river and the ocean"))
        assert tokenizer.encode(request(Api.COMPLETIONS, prompt=b"the river and the ocean")) == (start, *ids)
        assert tokenizer.encode(request(Api.CHAT, chat=Chat(messages=[user("the river and the ocean")]))) == ids

    def test_what_has_no_template(self):
        tokenizer = PromptTokenizer(stand_in.tokenizer(), None)
        for asked in (request(Api.CHAT, chat=Chat(messages=[user("x")])), request(Api.PASSTHROUGH, prompt=b"x")):
            with pytest.raises(TokenizeError):
                tokenizer.encode(asked)
