"""HTTP/2 on the client's side: the same service, several requests on one connection."""

import hashlib

from tests.data_plane.clients import H2Client, new_id

BODY = b'{"model": "m", "prompt": "hello"}'


def test_post_and_get(any_gateway, picker, fleet):
    post_id, get_id = new_id(), new_id()
    with H2Client(any_gateway) as client:
        assert client.request("POST", "/v1/completions", [BODY], headers=[("x-test-id", post_id)]).status == 200
        assert client.request("GET", "/v1/models", headers=[("x-test-id", get_id)]).status == 200
    assert fleet.received(post_id)[0].sha256 == hashlib.sha256(BODY).hexdigest()
    assert fleet.received(get_id)[0].path == "/v1/models"


def test_an_upload_under_way_holds_up_nobody_else(any_gateway, picker, fleet):
    slow_id, quick_id = new_id(), new_id()
    with H2Client(any_gateway) as client:
        slow = client.begin("POST", "/v1/completions", [("x-test-id", slow_id)], end=False)
        client.send(slow, BODY[:5], end=False)
        assert client.request("POST", "/v1/completions", [BODY], headers=[("x-test-id", quick_id)]).status == 200
        client.send(slow, BODY[5:], end=True)
        assert client.answer(slow).status == 200
    assert fleet.received(slow_id)[0].sha256 == hashlib.sha256(BODY).hexdigest()


def test_a_large_body_is_flow_controlled_through(any_gateway, picker, fleet):
    test_id, body = new_id(), b'{"model": "m", "prompt": "' + b"y" * 2_000_000 + b'"}'
    with H2Client(any_gateway) as client:
        assert client.request("POST", "/v1/completions", [body], headers=[("x-test-id", test_id)]).status == 200
    assert fleet.received(test_id)[0].sha256 == hashlib.sha256(body).hexdigest()
