"""Parsers, fed with whatever comes: a request or `BadRequest`, never anything else."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.errors import BadRequest, TokenizeError
from epp.extproc.splice import splice_model
from epp.model.request import InferenceRequest, RequestHead
from epp.parsers.model_span import find_model_span
from epp.parsers.select import PARSERS, Parsers

PATHS = sorted({path for paths in PARSERS.values() for path in paths})
STRUCTURE = (
    "messages",
    "prompt",
    "input",
    "system",
    "instructions",
    "tools",
    "role",
    "content",
    "type",
    "text",
    "token_ids",
    "name",
)
FIELDS = ("model", "image_url", "source", "stream", "max_tokens", "priority", "cache_salt", "tool_calls", "id", "sampling_params")
KEYS = st.sampled_from(STRUCTURE + FIELDS)
TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=12)
SCALAR = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
    | st.sampled_from(["user", "text", "image", "tool_use"])
)
JSON = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | TEXT, inner, max_size=6), max_leaves=25
)
BODIES = st.dictionaries(KEYS, JSON, max_size=8).map(lambda body: {"model": "m", **body})
PARTS = st.one_of(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "input_text", "image", "thinking"])}, optional={"text": st.none() | TEXT}
    ),
    st.fixed_dictionaries(
        {"type": st.just("tool_use")}, optional={"id": st.none() | TEXT, "name": st.none() | TEXT, "input": JSON}
    ),
    st.fixed_dictionaries({"type": st.just("tool_result")}, optional={"tool_use_id": TEXT, "content": st.none() | TEXT}),
)
ITEM_TYPES = st.sampled_from(["message", "function_call", "function_call_output", "reasoning"])
TURNS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system"]), "content": TEXT | st.lists(PARTS, max_size=3)},
        optional={"type": ITEM_TYPES, "name": st.none() | TEXT, "arguments": st.none() | TEXT, "output": JSON},
    ),
    min_size=1,
    max_size=3,
)
CONVERSATIONS = st.fixed_dictionaries(
    {"model": st.just("m"), "messages": TURNS, "input": TURNS | TEXT},
    optional={"tools": JSON, "system": TEXT | st.lists(PARTS, max_size=2), "instructions": TEXT, "chat_template_kwargs": JSON},
)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": TEXT}),
    min_size=1,
    max_size=6,
)


def try_parse(path, body):
    """Return the request, or None when it was refused as it should be."""
    try:
        request = Parsers().parse(RequestHead(path="/v1/" + path), body)
    except BadRequest:
        return None
    assert isinstance(request, InferenceRequest)
    if request.chat is not None:
        try:
            chat = request.chat()
        except TokenizeError:
            return request
        assert all(isinstance(message, dict) for message in chat.messages)
    return request


@given(path=st.sampled_from(PATHS), body=st.binary(max_size=200))
def test_arbitrary_bytes(path, body):
    try_parse(path, body)


@settings(max_examples=400)
@given(path=st.sampled_from(PATHS), body=BODIES | JSON)
def test_arbitrary_json(path, body):
    try_parse(path, json.dumps(body).encode())


@settings(max_examples=300)
@given(path=st.sampled_from(["chat/completions", "messages", "responses"]), body=CONVERSATIONS)
def test_conversations_are_understood(path, body):
    request = try_parse(path, json.dumps(body).encode())
    assert request is not None
    assert request.prompt


@given(path=st.sampled_from(PATHS), body=BODIES, data=st.data())
def test_damaged_json(path, body, data):
    raw = bytearray(json.dumps(body, ensure_ascii=False).encode(errors="replace"))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try_parse(path, bytes(raw))


@given(messages=MESSAGES, cut=st.integers(1, 5))
def test_a_conversation_grows_by_appending(messages, cut):
    whole = try_parse("chat/completions", json.dumps({"model": "m", "messages": messages}).encode())
    begun = try_parse("chat/completions", json.dumps({"model": "m", "messages": messages[:cut]}).encode())
    assert whole.prompt.startswith(begun.prompt)


@given(
    pairs=st.lists(st.tuples(st.just("model") | KEYS | TEXT, TEXT | JSON), max_size=6),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
)
def test_the_span_is_what_a_json_decoder_takes_for_the_model(pairs, indent, ascii_only):
    inside = ",".join(
        f"{json.dumps(key, ensure_ascii=ascii_only)} : {json.dumps(value, indent=indent, ensure_ascii=ascii_only)}"
        for key, value in pairs
    )
    body = ("{" + inside + "}").encode()
    decoded = json.loads(body)
    model = decoded.get("model")
    if "model" not in decoded:
        start, end = find_model_span(body)
        assert start == end
        if decoded:
            assert json.loads(splice_model(body, (start, end), "other")) == {**decoded, "model": "other"}
    elif isinstance(model, str):
        start, end = find_model_span(body)
        assert json.loads(body[start:end]) == model
        assert json.loads(splice_model(body, (start, end), "other")) == {**decoded, "model": "other"}
    else:
        with pytest.raises(BadRequest):
            find_model_span(body)
