"""A client that leaves, at whatever moment, leaves nothing behind: the `picker` fixture sees to it that nothing stays in flight."""

import threading

from tests.data_plane.clients import H2Client, new_id, opened, reset
from tests.data_plane.rig import eventually
from tests.data_plane.upstream import Exchange

BODY = b'{"model": "m", "prompt": "hello", "stream": true}'


def test_while_it_uploads(any_gateway, picker, fleet):
    test_id = new_id()
    with opened(any_gateway, "POST", "/v1/completions", None, [("content-length", "1000"), ("x-test-id", test_id)]) as connection:
        connection.send(BODY)
        reset(connection)
    eventually(lambda: picker.in_flight() == 0, "nothing in flight")
    assert fleet.received(test_id) == []


def test_before_the_answer(any_gateway, picker, fleet):
    test_id = new_id()
    gone = threading.Event()

    def wait(exchange: Exchange) -> None:
        exchange.wait_until_gone()
        gone.set()

    fleet.scripts["silent"] = wait
    with opened(any_gateway, "POST", "/v1/completions", BODY, [("x-script", "silent"), ("x-test-id", test_id)]) as connection:
        fleet.wait_for(test_id)
        eventually(lambda: picker.in_flight() == 1, "it is in flight")
        reset(connection)
    assert gone.wait(10), "the model server goes on for a client that has left"


def test_during_the_answer(any_gateway, picker, fleet):
    gone = threading.Event()

    def stream(exchange: Exchange) -> None:
        exchange.start()
        exchange.chunk(b"data: 1\n\n")
        exchange.wait_until_gone()
        gone.set()

    fleet.scripts["endless"] = stream
    with opened(any_gateway, "POST", "/v1/completions", BODY, [("x-script", "endless")]) as connection:
        assert connection.getresponse().read1(100) == b"data: 1\n\n"
        reset(connection)
    assert gone.wait(10), "the model server goes on for a client that has left"


def test_by_cancelling_one_of_several_http2_streams(any_gateway, picker, fleet):
    test_id = new_id()
    gone = threading.Event()

    def wait(exchange: Exchange) -> None:
        exchange.wait_until_gone()
        gone.set()

    fleet.scripts["silent-h2"] = wait
    with H2Client(any_gateway) as client:
        stream = client.begin("POST", "/v1/completions", [("x-script", "silent-h2"), ("x-test-id", test_id)], end=False)
        client.send(stream, BODY, end=True)
        fleet.wait_for(test_id)
        client.cancel(stream)
        assert gone.wait(10), "the model server goes on for a client that has left"
        assert client.request("GET", "/v1/models").status == 200, "the connection serves on"
