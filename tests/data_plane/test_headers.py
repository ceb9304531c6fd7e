"""Which headers reach the model server: the decision, what the client sent, nothing that was meant for the picker."""

import socket

import pytest

from epp.standalone.options import Mode
from tests.data_plane.clients import new_id, request
from tests.data_plane.rig import APPROXIMATE
from tests.data_plane.upstream import DEADLINE_S

BODY = b'{"model": "m", "prompt": "hello"}'
CONTROL = (
    "x-llm-d-inference-fairness-id",
    "x-gateway-inference-fairness-id",
    "x-llm-d-inference-objective",
    "x-gateway-inference-objective",
    "x-gateway-destination-endpoint-subset",
    "x-llm-d-slo-ttft-ms",
    "x-slo-tpot-ms",
)


def test_the_server_is_told_where_the_request_was_sent(any_gateway, picker, fleet):
    test_id = new_id()
    answer = request(any_gateway, "POST", "/v1/completions", BODY, [("x-test-id", test_id)])
    assert answer.status == 200
    (received,) = fleet.received(test_id)
    assert received.all("x-gateway-destination-endpoint") == [f"127.0.0.1:{received.port}"]


@pytest.mark.parametrize("mode", [Mode.FULL_DUPLEX, Mode.LEAN, Mode.BUFFERED, Mode.BUFFERED_BOTH])
@pytest.mark.parametrize("stripped_before", [True, False])
def test_a_client_cannot_choose_the_server(picker, open_gateway, fleet, mode, stripped_before):
    """Neither where Envoy strips the header early nor, by the decision's overwrite, where it does not."""
    gateway = open_gateway(mode=mode) if stripped_before else open_gateway(mode=mode, client_may_not_send=())
    test_id = new_id()
    headers = [
        ("x-gateway-destination-endpoint", "127.0.0.1:1"),
        ("x-gateway-destination-endpoint", "127.0.0.1:2"),
        ("x-test-id", test_id),
    ]
    answer = request(gateway, "POST", "/v1/completions", BODY, headers)
    assert answer.status == 200
    (received,) = fleet.received(test_id)
    assert received.port in fleet.ports
    assert received.all("x-gateway-destination-endpoint") == [f"127.0.0.1:{received.port}"]


def test_control_headers_end_at_the_picker(any_gateway, picker, fleet):
    test_id = new_id()
    headers = [(name, "100") for name in CONTROL]
    assert request(any_gateway, "POST", "/v1/completions", BODY, [*headers, ("x-test-id", test_id)]).status == 200
    (received,) = fleet.received(test_id)
    assert [name for name, _ in received.headers if name in CONTROL] == []


def test_repeated_headers_stay_repeated(any_gateway, picker, fleet):
    test_id = new_id()
    headers = [
        ("cookie", "a=1"),
        ("x-forwarded-for", "10.1.1.1"),
        ("x-forwarded-for", "10.2.2.2"),
        ("x-tag", "one"),
        ("x-tag", "two"),
    ]
    assert request(any_gateway, "POST", "/v1/completions", BODY, [*headers, ("x-test-id", test_id)]).status == 200
    (received,) = fleet.received(test_id)
    assert received.all("cookie") == ["a=1"]
    assert ",".join(received.all("x-tag")) == "one,two"
    assert ",".join(received.all("x-forwarded-for")) == "10.1.1.1,10.2.2.2"


def test_repeated_response_headers_stay_repeated(any_gateway, picker, fleet):
    cookies = [("set-cookie", "a=1"), ("set-cookie", "b=2")]
    fleet.scripts["cookies"] = lambda exchange: exchange.respond(200, b"{}", cookies)
    answer = request(any_gateway, "POST", "/v1/completions", BODY, [("x-script", "cookies")])
    assert [value for name, value in answer.headers if name == "set-cookie"] == ["a=1", "b=2"]


def test_switches_echo_headers_as_the_reference_does_and_name_who_served(lab, fleet):
    test_id = new_id()
    server = {"echoHeaders": True, "servedHeader": "x-served"}
    headers = [("x-tag", "one"), ("x-slo-tpot-ms", "100"), ("x-test-id", test_id)]
    with lab.picker(fleet.ports, config={**APPROXIMATE, "server": server}) as picker, lab.gateway(picker) as gateway:
        answer = request(gateway, "POST", "/v1/completions", BODY, headers)
    assert answer.status == 200
    assert answer.header("x-went-into-resp-headers") == "true"
    assert answer.header("x-served") == f"127.0.0.1:{answer.port}"
    (received,) = fleet.received(test_id)
    assert received.all("x-tag") == ["one"]
    assert received.all("x-slo-tpot-ms") == []


def test_headers_may_be_long_and_the_client_of_another_age(any_gateway, picker, fleet):
    answer = request(any_gateway, "POST", "/v1/completions", BODY, [(f"x-long-{number}", "v" * 8000) for number in range(10)])
    assert answer.status == 200
    with socket.create_connection((any_gateway.host, any_gateway.port), timeout=DEADLINE_S) as old:
        old.sendall(b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY))
        assert old.makefile("rb").readline().split()[1] == b"200"
