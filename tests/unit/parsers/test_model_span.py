"""Where the model's name stands."""

import pytest

from epp.errors import BadRequest
from epp.parsers.model_span import find_model_span


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"model":"m"}', b'"m"'),
        (b'{"a": {"model": "inner"}, "model" :\n "m" , "b": [{"model": "x"}]}', b'"m"'),
        (b'{"model": "first", "model": "last"}', b'"last"'),
        (b'{"model": "first", "mod\\u0065l": "last"}', b'"last"'),
        (b'{"text": "\\"model\\": \\"no\\"", "model": "m\\"\\\\"}', b'"m\\"\\\\"'),
        (b'{"model": "\xc3\xa9", "x": "' + b"y" * 200_000 + b'"}', b'"\xc3\xa9"'),
        (b'  {"model": ""}', b'""'),
    ],
)
def test_the_last_top_level_value(body, value):
    start, end = find_model_span(body)
    assert body[start:end] == value


@pytest.mark.parametrize("body", [b"{}", b' \n{ "a": {"model": "m"}}', b'{"Model": "m"}'])
def test_where_there_is_none_the_place_for_it(body):
    start, end = find_model_span(body)
    assert start == end
    assert body[:start].strip() == b"{"


@pytest.mark.parametrize("body", [b'{"model": 3}', b'{"model": null}', b"", b"[]", b"{", b"[" * 10_000])
def test_no_name(body):
    with pytest.raises(BadRequest):
        find_model_span(body)
