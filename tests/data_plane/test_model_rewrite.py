"""A rewritten model name: the server gets the new one, the client sees its own again, and no other byte changes."""

import hashlib

import pytest

from epp.standalone.options import Mode
from tests.data_plane.clients import new_id, opened, request
from tests.data_plane.upstream import chunks

BODY = b'{"stream" :false, "model": "mine", "seed":12345678901234567890123, "prompt":  "the \\"model\\": \\"mine\\" in a prompt"}\n'
REWRITE = ("x-llm-d-model-name-rewrite", "theirs/8b")
SEES_THE_BODY = (Mode.FULL_DUPLEX, Mode.LEAN, Mode.BUFFERED, Mode.BUFFERED_BOTH)


@pytest.mark.parametrize("mode", SEES_THE_BODY, ids=lambda mode: mode.value)
def test_only_the_value_changes_on_the_way_there(picker, open_gateway, fleet, mode):
    test_id = new_id()
    answer = request(open_gateway(mode=mode), "POST", "/v1/completions", BODY, [REWRITE, ("x-test-id", test_id)])
    assert answer.status == 200
    (received,) = fleet.received(test_id)
    wanted = BODY.replace(b'"model": "mine", "seed"', b'"model": "theirs/8b", "seed"')
    assert (received.length, received.sha256) == (len(wanted), hashlib.sha256(wanted).hexdigest())
    assert received.header(REWRITE[0]) is None


def test_the_client_s_own_name_comes_back_in_json(gateway, picker, fleet):
    sent = b'{"id":"1", "model" : "theirs/8b", "choices":[{"text":"\\"model\\":\\"theirs/8b\\""}]}'
    fleet.scripts["named"] = lambda exchange: exchange.respond(200, sent, [("content-type", "application/json")])
    answer = request(gateway, "POST", "/v1/completions", BODY, [REWRITE, ("x-script", "named")])
    assert answer.body == sent.replace(b'"model" : "theirs/8b"', b'"model" : "mine"')


def test_the_client_s_own_name_comes_back_in_events_cut_anywhere(gateway, picker, fleet):
    event = b'data: {"id":"1","model":"theirs/8b","choices":[{"text":"x"}]}\n\n'
    stream = event * 3 + b"data: [DONE]\n\n"
    pieces = [stream[start : start + 17] for start in range(0, len(stream), 17)]
    fleet.scripts["named-events"] = chunks(pieces, lambda _index: None)
    body = BODY.replace(b'"stream" :false', b'"stream" :true')
    with opened(gateway, "POST", "/v1/completions", body, [REWRITE, ("x-script", "named-events")]) as connection:
        assert connection.getresponse().read() == stream.replace(b"theirs/8b", b"mine")
