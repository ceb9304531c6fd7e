"""What a client gets wrong is a 4xx with a sentence, at once, and no model server hears of it."""

import pytest

from epp.standalone.options import Mode
from tests.data_plane.clients import new_id, request

BAD = {
    "not-json": (b'{"model": "m", "prompt": ', "/v1/completions"),
    "not-utf8": (b'{"model": "m", "prompt": "\xff\xfe"}', "/v1/completions"),
    "not-an-object": (b"[1, 2]", "/v1/completions"),
    "no-model": (b'{"prompt": "x"}', "/v1/completions"),
    "no-prompt": (b'{"model": "m"}', "/v1/completions"),
    "no-messages": (b'{"model": "m"}', "/v1/chat/completions"),
    "no-body": (b"", "/v1/completions"),
    "wrong-type": (b'{"model": "m", "messages": "hello"}', "/v1/chat/completions"),
}


@pytest.mark.parametrize("mode", [Mode.FULL_DUPLEX, Mode.LEAN, Mode.BUFFERED], ids=lambda mode: mode.value)
@pytest.mark.parametrize(("body", "path"), BAD.values(), ids=list(BAD))
def test_is_answered_with_a_sentence(picker, open_gateway, fleet, mode, body, path):
    test_id = new_id()
    answer = request(open_gateway(mode=mode), "POST", path, body, [("x-test-id", test_id)])
    assert answer.status == 400
    text = answer.body.decode()
    assert text.startswith("inference error: BadRequest - ")
    assert len(text.split()) > 5, f"a sentence: {text}"
    assert fleet.received(test_id) == []


def test_does_not_say_the_prompt_again(gateway, picker):
    answer = request(gateway, "POST", "/v1/completions", b'{"model": "m", "prompt": "the secret" "x"}')
    assert answer.status == 400
    assert b"secret" not in answer.body
