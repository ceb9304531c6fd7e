"""Whatever a client sends reaches the model server byte for byte, in every mode, and so does what comes back."""

import hashlib
import json
import random

import pytest

from tests.data_plane.clients import new_id, request

SIZES = (10, 2_000, 300_000, 6_000_000)


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def completion(size: int) -> bytes:
    """A completions request of about `size` bytes, spelt as no serializer would spell it again."""
    odd = b'{"stream" :false, "model": "m", "seed":12345678901234567890123,"model_extra":1e2, "prompt":  "'
    return odd + b"\\u00e9/" * ((size - len(odd)) // 7) + b'" }\n'


@pytest.mark.parametrize("size", SIZES)
def test_an_unknown_path_passes_with_any_bytes(any_gateway, picker, fleet, size):
    test_id = new_id()
    answer = request(any_gateway, "POST", "/v1/something/else?x=1", noise(size), [("x-test-id", test_id)])
    assert answer.status == 200
    (received,) = fleet.received(test_id)
    assert (received.method, received.path, received.length) == ("POST", "/v1/something/else?x=1", size)
    assert received.sha256 == hashlib.sha256(noise(size)).hexdigest()


@pytest.mark.parametrize("size", SIZES[1:])
def test_a_completion_reaches_the_server_as_it_was_written(any_gateway, picker, fleet, size):
    test_id, body = new_id(), completion(size)
    assert json.loads(body)["model"] == "m"
    answer = request(any_gateway, "POST", "/v1/completions", body, [("x-test-id", test_id), ("content-type", "application/json")])
    assert answer.status == 200
    (received,) = fleet.received(test_id)
    assert (received.length, received.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    assert received.port == answer.port


def test_a_large_answer_comes_back_whole(any_gateway, picker, fleet):
    body = noise(3_000_000)
    fleet.scripts["large"] = lambda exchange: exchange.respond(200, body, [("content-type", "application/octet-stream")])
    answer = request(any_gateway, "POST", "/v1/completions", completion(2_000), [("x-script", "large")])
    assert answer.status == 200
    assert hashlib.sha256(answer.body).hexdigest() == hashlib.sha256(body).hexdigest()


def test_a_request_without_a_body_is_routed(any_gateway, picker, fleet):
    test_id = new_id()
    answer = request(any_gateway, "GET", "/v1/models", None, [("x-test-id", test_id)])
    assert answer.status == 200
    (received,) = fleet.received(test_id)
    assert (received.method, received.path, received.length) == ("GET", "/v1/models", 0)
    assert received.header("x-gateway-destination-endpoint") == f"127.0.0.1:{received.port}"


def test_a_post_with_an_empty_body_passes_where_no_body_is_asked_for(any_gateway, picker, fleet):
    test_id = new_id()
    assert request(any_gateway, "POST", "/custom", b"", [("x-test-id", test_id)]).status == 200
    assert fleet.received(test_id)[0].length == 0


def test_a_model_server_s_own_error_passes_unchanged(any_gateway, picker, fleet):
    fleet.scripts["broken"] = lambda exchange: exchange.respond(500, b'{"error": "out of memory"}', [("x-mine", "1")])
    answer = request(any_gateway, "POST", "/v1/completions", completion(2_000), [("x-script", "broken")])
    assert (answer.status, answer.body, answer.header("x-mine")) == (500, b'{"error": "out of memory"}', "1")
