"""SIGTERM: not ready any more, still serving what comes and what is under way; then gone. A second signal does not wait."""

import signal
import threading

from tests.data_plane.clients import opened, request
from tests.data_plane.rig import DEADLINE_S, EXT_PROC, eventually
from tests.data_plane.upstream import Exchange

BODY = b'{"model": "m", "prompt": "hello"}'
UNNOTICED_S = 600
"""Between health checks: the gateway of these tests goes on sending, as other gateways do until they notice."""


def test_serves_while_it_drains_then_ends_well(lab, fleet):
    go_on = threading.Event()

    def script(exchange: Exchange) -> None:
        exchange.start()
        exchange.chunk(b"data: 1\n\n")
        assert go_on.wait(DEADLINE_S)
        exchange.chunk(b"data: 2\n\n")
        exchange.end()

    fleet.scripts["drain"] = script
    with (
        lab.picker(fleet.ports, flags=["--drain-timeout", "2s"]) as picker,
        lab.gateway(picker, health_interval_s=UNNOTICED_S) as gateway,
        opened(gateway, "POST", "/v1/completions", BODY, [("x-script", "drain")]) as connection,
    ):
        response = connection.getresponse()
        assert response.read1(100) == b"data: 1\n\n"
        picker.child.signal(signal.SIGTERM)
        eventually(lambda: picker.health(EXT_PROC) == "NOT_SERVING", "readiness is off")
        assert picker.health("readiness") == "NOT_SERVING"
        assert picker.health("liveness") == "SERVING", "a restart is not what it needs"
        assert [request(gateway, "POST", "/v1/completions", BODY).status for _ in range(5)] == [200] * 5
        go_on.set()
        assert response.read() == b"data: 2\n\n"
        assert picker.child.wait(DEADLINE_S) == 0


def test_a_second_signal_ends_it_at_once(lab, fleet):
    with lab.picker(fleet.ports, flags=["--drain-timeout", "600s"]) as picker:
        picker.child.signal(signal.SIGTERM)
        eventually(lambda: picker.health(EXT_PROC) == "NOT_SERVING", "it drains")
        picker.child.signal(signal.SIGINT)
        assert picker.child.wait(3) != 0
