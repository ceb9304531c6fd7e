"""A request may end with trailers in place of an end of stream on its last byte; it must not hang, nor lose a byte."""

import hashlib
import json

import pytest

from epp.standalone.options import Mode
from tests.data_plane.clients import H2Client, new_id

TRAILERS = [("x-checksum", "abc")]


def body(size: int) -> bytes:
    return json.dumps({"model": "m", "prompt": "x" * size}).encode()


@pytest.mark.parametrize("size", [10, 300_000])
def test_a_body_that_ends_with_announced_trailers_arrives_whole(any_gateway, picker, fleet, size):
    """Announced as RFC 9110 6.6.2 wants it: then Envoy does not retry, and does not double the body."""
    test_id, sent = new_id(), body(size)
    headers = [("x-test-id", test_id), ("trailer", "x-checksum")]
    with H2Client(any_gateway) as client:
        answer = client.request("POST", "/v1/completions", [sent[:7], sent[7:]], headers=headers, trailers=TRAILERS)
    assert answer.status == 200
    (received,) = fleet.received(test_id)
    assert (received.length, received.sha256) == (len(sent), hashlib.sha256(sent).hexdigest())


@pytest.mark.parametrize("mode", Mode, ids=lambda mode: mode.value)
def test_trailers_that_nobody_announced_are_safe_where_nothing_is_retried(picker, open_gateway, fleet, mode):
    test_id, sent = new_id(), body(2_000)
    with H2Client(open_gateway(mode=mode, retries=0)) as client:
        answer = client.request("POST", "/v1/completions", [sent], headers=[("x-test-id", test_id)], trailers=TRAILERS)
    assert answer.status == 200
    (received,) = fleet.received(test_id)
    assert (received.length, received.sha256) == (len(sent), hashlib.sha256(sent).hexdigest())


@pytest.mark.parametrize("mode", Mode, ids=lambda mode: mode.value)
def test_trailers_without_a_body_end_the_request(picker, open_gateway, fleet, mode):
    """Where Envoy buffers, the headers have been answered by then and no message is left that could carry a destination."""
    test_id = new_id()
    with H2Client(open_gateway(mode=mode)) as client:
        answer = client.request("POST", "/custom", headers=[("x-test-id", test_id)], trailers=TRAILERS)
    if mode.buffered:
        assert (answer.status, fleet.received(test_id)) == (400, [])
    else:
        assert answer.status == 200
        assert fleet.received(test_id)[0].length == 0
