"""Usage found in what is kept of a response."""

import pytest

from epp.extproc.usage import UsageWindow
from epp.model.decision import Usage

OPENAI = (
    b'{"id":"1","choices":[{"message":{"content":"a \\"usage\\": {} b"}}],'
    b'"usage":{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13,"prompt_tokens_details":{"cached_tokens":8}}}'
)
RESPONSES = (
    b'data: {"type":"response.completed","response":{"output":[],'
    b'"usage":{"input_tokens":5,"output_tokens":6,"input_tokens_details":{"cached_tokens":2}}}}\n\n'
)
ANTHROPIC = (
    b'event: message_start\ndata: {"type":"message_start",'
    b'"message":{"usage":{"input_tokens":25,"cache_read_input_tokens":16,"output_tokens":1}}}\n\n'
    + b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"Hi"}}\n\n' * 20
    + b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":15}}\n\nevent: message_stop\ndata: {}\n\n'
)


def found(text: bytes, *, head: int = 300, tail: int = 4000, step: int = 7) -> Usage | None:
    window = UsageWindow(head, tail)
    for start in range(0, len(text), step):
        window.feed(text[start : start + step])
    return window.find()


@pytest.mark.parametrize(
    ("text", "usage"),
    [
        (OPENAI, Usage(prompt_tokens=9, completion_tokens=4, cached_tokens=8)),
        (b"\n" + OPENAI, Usage(prompt_tokens=9, completion_tokens=4, cached_tokens=8)),
        (b'{"usage":{"prompt_tokens":"9","completion_tokens":"4"}}', Usage(prompt_tokens=9, completion_tokens=4)),
        (b'{"usage":null}', None),
        (b'{"x":{"usage":{"prompt_tokens":9}}}', None),
        (
            b'data: {"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\ndata: [DONE]\n\n',
            Usage(prompt_tokens=1, completion_tokens=2),
        ),
        (b'data:{"usage":{"prompt_tokens":1}}\r\n\r\ndata: [DONE]\r\n', Usage(prompt_tokens=1)),
        (
            b'data: {"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n'
            b'data: {"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n',
            Usage(prompt_tokens=1, completion_tokens=2),
        ),
        (RESPONSES, Usage(prompt_tokens=5, completion_tokens=6, cached_tokens=2)),
        (ANTHROPIC, Usage(prompt_tokens=25, completion_tokens=15, cached_tokens=16)),
        (b'data: {"usage":null}\n\n', None),
        (b'data: {"usage": broken\n\n', None),
        (b"", None),
        (b"\xff\xfe", None),
        (b'{"usage":' + b"[" * 3000, None),
        (b'data: {"x":' + b"[" * 3000 + b',"usage"', None),
        (b'{"usage":{"prompt_tokens":-1}}', None),
    ],
)
def test_usage_of_every_api(text, usage):
    assert found(text) == usage
    assert found(text, step=len(text) or 1) == usage


@pytest.mark.parametrize("tail", [100_000, 5000])
def test_deep_nesting_is_no_usage(tail):
    assert found(b'{"x":' + b"[" * 16_000 + b'"usage"', tail=tail, step=5000) is None
    assert found(b'{"x":1,"usage":' + b'{"usage":' * 3_000, tail=tail, step=5000) is None
    assert found(b'{"x":1,"usage":' + b"[" * 16_000, tail=tail, step=5000) is None


def test_a_document_longer_than_the_tail_still_has_its_usage():
    text = b'{"choices":[{"text":"' + b"x" * 5000 + b'"}],"usage":{"prompt_tokens":9,"completion_tokens":4},"other":1}'
    assert found(text, tail=100) == Usage(prompt_tokens=9, completion_tokens=4)


def test_an_event_longer_than_the_tail_still_has_its_usage():
    text = b'data: {"response":{"output":"' + b"x" * 5000 + b'","usage":{"input_tokens":5,"output_tokens":6}}}\n\n'
    assert found(text, tail=100) == Usage(prompt_tokens=5, completion_tokens=6)


def test_the_head_is_read_when_the_tail_does_not_reach_it():
    assert found(ANTHROPIC, head=200, tail=200) == Usage(prompt_tokens=25, completion_tokens=15, cached_tokens=16)


def test_what_is_kept_is_bounded():
    window = UsageWindow(100, 1000)
    for _ in range(1000):
        window.feed(b"x" * 150)
    assert window.size == 150_000
    assert len(window._head) == 100
    assert sum(map(len, window._tail)) < 1000 + 150
