"""Bodies of very many parts: refused before they cost every other request its time; long texts and long prompts are not."""

import json

import pytest

from epp.errors import BadRequest
from epp.model.request import RequestHead
from epp.parsers.body import LONG_BODY, OPENINGS_MAX, STRINGS_MAX
from epp.parsers.canonical import ITEMS_MAX
from epp.parsers.select import Parsers

CHAT, MESSAGES, RESPONSES, COMPLETIONS, EMBEDDINGS = (
    "/v1/chat/completions",
    "/v1/messages",
    "/v1/responses",
    "/v1/completions",
    "/v1/embeddings",
)
TURN = b'{"role":"user","content":"a"}'
PARSERS = Parsers()


def parse(path: str, body: bytes):
    return PARSERS.parse(RequestHead(path=path), body)


def many(item: bytes, count: int) -> bytes:
    return b"[" + b",".join([item] * count) + b"]"


def body(field: str, value: bytes) -> bytes:
    return b'{"model":"m","' + field.encode() + b'":' + value + b"}"


def turn(content: bytes) -> bytes:
    return b'{"role":"user","content":' + content + b"}"


@pytest.mark.parametrize(("path", "field"), [(CHAT, "messages"), (MESSAGES, "messages"), (RESPONSES, "input")])
def test_messages(path, field):
    assert parse(path, body(field, many(TURN, ITEMS_MAX))).prompt.count(b"\xff") == ITEMS_MAX
    with pytest.raises(BadRequest, match=f"length <= {ITEMS_MAX}"):
        parse(path, body(field, many(TURN, ITEMS_MAX + 1)))


@pytest.mark.parametrize(("path", "field"), [(CHAT, "messages"), (MESSAGES, "messages"), (RESPONSES, "input")])
def test_parts_of_all_messages_together(path, field):
    half = turn(many(b'{"type":"text","text":"a"}', ITEMS_MAX // 2))
    assert parse(path, body(field, many(half, 2)))
    with pytest.raises(BadRequest, match=f"more than {ITEMS_MAX} parts"):
        parse(path, body(field, many(half, 3)))


@pytest.mark.parametrize(("path", "field"), [(COMPLETIONS, "prompt"), (EMBEDDINGS, "input")])
@pytest.mark.parametrize("prompt", [b'"a"', b"[1]"])
def test_prompts_of_a_batch(path, field, prompt):
    assert parse(path, body(field, many(prompt, ITEMS_MAX)))
    with pytest.raises(BadRequest, match=f"more than {ITEMS_MAX} prompts"):
        parse(path, body(field, many(prompt, ITEMS_MAX + 1)))


def test_a_prompt_may_have_more_tokens_than_that():
    request = parse(COMPLETIONS, body("prompt", many(b"7", 4 * ITEMS_MAX)))
    assert request.token_ids == (7,) * (4 * ITEMS_MAX)


@pytest.mark.parametrize("field", ["messages", "tools", "metadata"])
@pytest.mark.parametrize("item", [b"{}", b"[]"])
def test_objects_and_lists_wherever_they_stand(field, item):
    with pytest.raises(BadRequest, match=f"more than {OPENINGS_MAX} objects and lists"):
        parse(CHAT, body(field, many(item, OPENINGS_MAX)))


def test_strings_wherever_they_stand():
    with pytest.raises(BadRequest, match=f"more than {STRINGS_MAX} strings"):
        parse(CHAT, body("metadata", many(b'""', STRINGS_MAX + 1)))


def test_a_long_text_of_quotes_is_no_string_each():
    text = '{"a": "b"} ' * (2 * STRINGS_MAX // 11)
    long = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()
    assert len(long) > LONG_BODY
    assert text.encode() in parse(CHAT, long).prompt
