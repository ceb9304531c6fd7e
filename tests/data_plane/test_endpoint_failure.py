"""A model server that is dead or dies: the client gets a 503 or another server's answer, never nothing."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from itertools import count, islice

import pytest

from epp.standalone.options import Mode
from tests.data_plane.clients import Response, opened, request
from tests.data_plane.rig import RANDOM, eventually, free_port
from tests.data_plane.upstream import DEADLINE_S, Exchange, answer


def body(number: int) -> bytes:
    return b'{"model": "m", "prompt": "prompt number %d"}' % number


def test_only_a_dead_server_is_503(lab):
    with lab.picker([free_port()]) as picker:
        for mode in (Mode.FULL_DUPLEX, Mode.LEAN, Mode.BUFFERED):
            with lab.gateway(picker, mode=mode) as gateway:
                assert [request(gateway, "POST", "/v1/completions", body(number)).status for number in range(3)] == [503] * 3
                assert request(gateway, "GET", "/v1/models").status == 503
        assert picker.in_flight() == 0


def test_a_dead_server_among_others_is_passed_over(lab, fleet):
    dead = free_port()
    with lab.picker([dead, *fleet.ports], config=RANDOM) as picker, lab.gateway(picker) as gateway:
        answers = [request(gateway, "POST", "/v1/completions", body(number)) for number in range(60)]
        assert {answer.status for answer in answers} <= {200, 503}
        assert [answer.status for answer in answers[-30:]] == [200] * 30, "by then it is known to be dead"


def test_a_server_that_fails_fast_does_not_draw_the_traffic(lab, fleet):
    sick = {fleet.ports[0]}

    def script(exchange: Exchange) -> None:
        if exchange.request.port in sick:
            exchange.respond(503, b'{"error": "the engine is dead"}')
        else:
            time.sleep(0.02)
            answer(exchange)

    fleet.scripts["sick"] = script
    config = {"strategy": {"chain": ["approximate"]}}
    with lab.picker(fleet.ports, config=config) as picker, lab.gateway(picker) as gateway:

        def ask(number: int) -> Response:
            return request(gateway, "POST", "/v1/completions", body(number), [("x-script", "sick")])

        with ThreadPoolExecutor(4) as clients:
            prompts = count()
            statuses = [response.status for response in clients.map(ask, islice(prompts, 120))]
            assert set(statuses) == {200, 503}, "it was tried"
            assert statuses.count(503) <= 12
        healed = sick.pop()
        with ThreadPoolExecutor(12) as clients:  # more than the others take without a queue
            ports = lambda: {response.port for response in clients.map(ask, islice(prompts, 24))}  # noqa: E731
            eventually(lambda: healed in ports(), "it serves again", timeout_s=60.0)


def test_a_fallback_is_taken_at_once_where_the_decision_names_some(lab, fleet):
    config = {"plugins": [{"type": "random-picker", "parameters": {"maxNumOfEndpoints": 3}}]}
    with lab.picker([free_port(), *fleet.ports], config=config) as picker, lab.gateway(picker) as gateway:
        answers = [request(gateway, "POST", "/v1/completions", body(number)) for number in range(40)]
        assert [answer.status for answer in answers] == [200] * 40


def test_a_server_that_cuts_the_connection_before_its_answer_is_503(any_gateway, picker, fleet):
    fleet.scripts["cut-before"] = Exchange.reset
    assert request(any_gateway, "POST", "/v1/completions", body(0), [("x-script", "cut-before")]).status == 503


def test_a_server_that_cuts_its_answer_cuts_it_for_the_client_too(any_gateway, picker, fleet):
    arrived = threading.Event()

    def script(exchange: Exchange) -> None:
        exchange.start()
        exchange.chunk(b"data: 1\n\n")
        assert arrived.wait(DEADLINE_S)
        exchange.reset()

    fleet.scripts["cut-during"] = script
    with opened(any_gateway, "POST", "/v1/completions", body(0), [("x-script", "cut-during")]) as connection:
        response = connection.getresponse()
        assert response.read1(100) == b"data: 1\n\n"
        arrived.set()
        with pytest.raises((HTTPException, ConnectionError)):
            response.read()
