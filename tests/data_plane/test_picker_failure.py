"""The picker dies and comes back under traffic: every request gets an answer, and soon a good one."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPException

import pytest

from epp.standalone.options import Mode
from tests.data_plane.clients import opened, request
from tests.data_plane.rig import eventually
from tests.data_plane.upstream import DEADLINE_S, Exchange

BODY = b'{"model": "m", "prompt": "hello"}'
CLIENTS = 4
PACE_S = 0.01
"""Between two requests of a client; without it four clients fill the machine."""


class Traffic:
    """Clients that send one request after the other and count what they get; a connection cut counts as `cut`."""

    def __init__(self, gateway) -> None:
        self._gateway = gateway
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.statuses: Counter[int | str] = Counter()
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]

    def _run(self) -> None:
        while not self._stop.wait(PACE_S):
            try:
                status: int | str = request(self._gateway, "POST", "/v1/completions", BODY).status
            except TimeoutError:
                status = "hung"
            except (OSError, HTTPException):
                status = "cut"
            with self._lock:
                self.statuses[status] += 1

    @property
    def answered(self) -> int:
        return sum(self.statuses.values())

    def seen(self, status: int, times: int = 1) -> None:
        """Wait for so many more answers of this status."""
        wanted = self.statuses[status] + times
        eventually(lambda: self.statuses[status] >= wanted, f"{times} more answers of {status}: {self.statuses}")


@contextmanager
def traffic(gateway) -> Iterator[Traffic]:
    running = Traffic(gateway)
    for thread in running._threads:
        thread.start()
    try:
        yield running
    finally:
        running._stop.set()
        for thread in running._threads:
            thread.join()
    assert running.statuses["hung"] == 0


def test_failing_closed_it_is_5xx_until_the_picker_is_back(lab, fleet):
    modes = (Mode.FULL_DUPLEX, Mode.LEAN, Mode.BUFFERED)
    with lab.picker(fleet.ports) as picker, ExitStack() as stack:
        gateways = [stack.enter_context(lab.gateway(picker, mode=mode)) for mode in modes]
        everybody = [stack.enter_context(traffic(gateway)) for gateway in gateways]
        for status, step in ((200, lambda: None), (500, picker.kill), (200, lambda: lab.restart(picker))):
            step()
            for clients in everybody:
                clients.seen(status, 20)
        for clients in everybody:
            assert set(clients.statuses) <= {200, 500, 503, "cut"}


def test_failing_open_requests_go_on_without_a_picker(lab, fleet):
    with lab.picker(fleet.ports) as picker, lab.gateway(picker, fail_open=True) as gateway, traffic(gateway) as clients:
        clients.seen(200, 20)
        picker.kill()
        eventually(lambda: _unhealthy(gateway), "Envoy knows that the picker is gone")
        before = clients.statuses.copy()
        clients.seen(200, 50)
        failed = clients.statuses - before
        assert failed[500] <= CLIENTS, "only what was under way when Envoy noticed"


def test_an_answer_under_way_goes_on_in_lean_mode_and_is_cut_in_full_duplex(lab, fleet):
    """Cut, and not left hanging: what the picker has not passed on is lost with it."""
    go_on = threading.Event()
    fleet.scripts["two-pieces"] = _two_pieces(go_on)
    with lab.picker(fleet.ports) as picker, ExitStack() as stack:
        responses = {}
        for mode in (Mode.LEAN, Mode.FULL_DUPLEX):
            gateway = stack.enter_context(lab.gateway(picker, mode=mode))
            sent = opened(gateway, "POST", "/v1/completions", BODY, [("x-script", "two-pieces")])
            responses[mode] = stack.enter_context(sent).getresponse()
            assert responses[mode].read1(100) == b"data: 1\n\n"
        picker.kill()
        with pytest.raises((HTTPException, ConnectionError)):
            responses[Mode.FULL_DUPLEX].read()
        go_on.set()
        assert responses[Mode.LEAN].read() == b"data: 2\n\n"


def _two_pieces(go_on: threading.Event):
    def script(exchange: Exchange) -> None:
        exchange.start()
        exchange.chunk(b"data: 1\n\n")
        assert go_on.wait(DEADLINE_S)
        exchange.chunk(b"data: 2\n\n")
        exchange.end()

    return script


def _unhealthy(gateway) -> bool:
    return "picker::" in gateway.admin("/clusters") and "/failed_active_hc" in gateway.admin("/clusters")
