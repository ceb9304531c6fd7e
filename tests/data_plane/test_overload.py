"""What is over a bound is told so: too many requests 429, with when to come back; a body too long 413."""

import threading
from contextlib import ExitStack

from epp.standalone.options import Mode
from tests.data_plane.clients import new_id, opened, request
from tests.data_plane.rig import eventually
from tests.data_plane.upstream import DEADLINE_S, Exchange

BODY = b'{"model": "m", "prompt": "hello"}'


def test_one_too_many_is_429_with_retry_after(lab, fleet):
    go_on = threading.Event()

    def wait(exchange: Exchange) -> None:
        assert go_on.wait(DEADLINE_S)
        exchange.respond(200, b"{}")

    fleet.scripts["busy"] = wait
    config = {"strategy": {"chain": ["approximate"]}, "limits": {"requestsMax": 2}}
    with lab.picker(fleet.ports, config=config) as picker, lab.gateway(picker) as gateway, ExitStack() as stack:
        busy = []
        for _ in range(2):
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


def test_a_body_too_long_is_413_and_reaches_nobody(lab, fleet):
    bound = 50_000
    config = {"strategy": {"chain": ["approximate"]}, "limits": {"bodyBytesMax": bound}}
    with lab.picker(fleet.ports, config=config) as picker:
        for mode in (Mode.FULL_DUPLEX, Mode.LEAN, Mode.BUFFERED):
            with lab.gateway(picker, mode=mode) as gateway:
                test_id, fits = new_id(), BODY + b" " * (bound - len(BODY))
                assert request(gateway, "POST", "/v1/completions", fits).status == 200
                answer = request(gateway, "POST", "/v1/completions", fits + b" ", [("x-test-id", test_id)])
                assert answer.status == 413
                assert answer.body.startswith(b"inference error: PayloadTooLarge - ")
                assert fleet.received(test_id) == []
        assert picker.in_flight() == 0
