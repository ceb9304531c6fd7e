"""What is over a bound is told so: too many requests 429, with when to come back; a body too long 413."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from epp.standalone.options import Mode
from tests.data_plane.clients import new_id, opened, request
from tests.data_plane.rig import Picker, eventually
from tests.data_plane.upstream import DEADLINE_S, Exchange

BODY = b'{"model": "m", "prompt": "hello"}'


BODY_BYTES_MAX = 50_000
BODIES_BYTES_MAX = 80_000
REQUESTS_MAX = 2


@pytest.fixture(scope="module")
def bounded_picker(lab, fleet) -> Iterator[Picker]:
    limits = {"requestsMax": REQUESTS_MAX, "bodyBytesMax": BODY_BYTES_MAX, "bodiesBytesMax": BODIES_BYTES_MAX}
    with lab.picker(fleet.ports, config={"strategy": {"chain": ["approximate"]}, "limits": limits}) as picker:
        yield picker


def test_one_too_many_is_429_with_retry_after(lab, bounded_picker, fleet):
    go_on = threading.Event()

    def wait(exchange: Exchange) -> None:
        assert go_on.wait(DEADLINE_S)
        exchange.respond(200, b"{}")

    fleet.scripts["busy"] = wait
    with lab.gateway(bounded_picker) as gateway, ExitStack() as stack:
        busy = []
        for _ in range(REQUESTS_MAX):
            test_id = new_id()
            headers = [("x-script", "busy"), ("x-test-id", test_id)]
            busy.append(stack.enter_context(opened(gateway, "POST", "/v1/completions", BODY, headers)))
            fleet.wait_for(test_id)
        shed = request(gateway, "POST", "/v1/completions", BODY)
        assert shed.status == 429
        assert int(shed.header("retry-after") or 0) >= 1
        assert shed.header("x-llm-d-request-dropped-reason") == "rejected-saturated"
        assert shed.body.startswith(b"inference error: ResourceExhausted - ")
        go_on.set()
        assert [connection.getresponse().status for connection in busy] == [200, 200]
        eventually(lambda: request(gateway, "POST", "/v1/completions", BODY).status == 200, "room again")


def test_a_body_too_long_is_413_and_reaches_nobody(lab, bounded_picker, fleet):
    for mode in (Mode.FULL_DUPLEX, Mode.LEAN, Mode.BUFFERED):
        with lab.gateway(bounded_picker, mode=mode) as gateway:
            test_id, fits = new_id(), BODY + b" " * (BODY_BYTES_MAX - len(BODY))
            assert request(gateway, "POST", "/v1/completions", fits).status == 200
            answer = request(gateway, "POST", "/v1/completions", fits + b" ", [("x-test-id", test_id)])
            assert answer.status == 413
            assert answer.body.startswith(b"inference error: PayloadTooLarge - ")
            assert fleet.received(test_id) == []
    assert bounded_picker.in_flight() == 0


def test_slow_uploads_together_have_a_bound_and_make_room_when_their_client_goes(lab, bounded_picker):
    fits, half = BODY + b" " * (BODY_BYTES_MAX - len(BODY)), BODY_BYTES_MAX // 2

    def upload(stack: ExitStack) -> http.client.HTTPConnection:
        before = bounded_picker.metric("epp_request_bodies_held_bytes")
        length = [("content-length", str(len(fits)))]
        connection = stack.enter_context(opened(gateway, "POST", "/v1/completions", headers=length))
        connection.send(fits[:half])
        eventually(lambda: bounded_picker.metric("epp_request_bodies_held_bytes") == before + half, "half of a body is held")
        return connection

    with lab.gateway(bounded_picker) as gateway:
        with ExitStack() as stack:
            slow, _ = upload(stack), upload(stack)
            shed = request(gateway, "POST", "/v1/completions", fits)
            assert shed.status == 429
            assert int(shed.header("retry-after") or 0) >= 1
            assert request(gateway, "POST", "/v1/completions", BODY).status == 200, "a short one still fits"
            slow.send(fits[half:])
            assert slow.getresponse().status == 200
        eventually(lambda: bounded_picker.metric("epp_request_bodies_held_bytes") == 0, "all is let go")
        assert request(gateway, "POST", "/v1/completions", fits).status == 200
