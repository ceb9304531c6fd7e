"""Objectives and rewrites that the configuration file lists: who is shed when the pool is full, and who gets another model."""

import hashlib
import json
from collections.abc import Iterator

import pytest

from epp.standalone.launcher import Envoy
from tests.data_plane import upstream
from tests.data_plane.clients import new_id, request
from tests.data_plane.rig import Picker, eventually

BODY = b'{"model": "chat", "prompt": "hello"}'
CONFIG = {
    "strategy": {"chain": ["approximate"]},
    "objectives": [{"name": "batch", "priority": -1}, {"name": "gold", "priority": 5}],
    "modelRewrites": [
        {
            "name": "canary",
            "rules": [
                {"matches": [{"model": {"value": "chat"}}], "targets": [{"modelRewrite": "chat-v2"}]},
                {
                    "matches": [{"model": {"type": "Exact", "value": "split"}}],
                    "targets": [{"modelRewrite": "one", "weight": 1}, {"modelRewrite": "two", "weight": 1}],
                },
            ],
        }
    ],
    "scrape": {"idleIntervalMs": 100},
}
FULL = upstream.METRICS.replace(b"waiting 0", b"waiting 5")


@pytest.fixture(scope="module")
def ruled_picker(lab, fleet) -> Iterator[Picker]:
    with lab.picker(fleet.ports, config=CONFIG) as picker:
        yield picker


@pytest.fixture(scope="module")
def ruled_gateway(lab, ruled_picker) -> Iterator[Envoy]:
    with lab.gateway(ruled_picker) as gateway:
        yield gateway


def ask(gateway, objective="", body=BODY, method="POST", path="/v1/completions", **more):
    headers = [("x-llm-d-inference-objective", objective)] if objective else []
    return request(gateway, method, path, body, [*headers, *((name.replace("_", "-"), value) for name, value in more.items())])


def until_saturated(picker, wanted):
    eventually(lambda: (picker.metric("epp_pool_saturation") >= 1.0) is wanted, f"saturated: {wanted}")


def test_only_requests_of_negative_priority_are_shed_and_only_while_the_pool_is_full(
    monkeypatch, fleet, ruled_picker, ruled_gateway
):
    until_saturated(ruled_picker, False)
    assert ask(ruled_gateway, "batch").status == 200
    with monkeypatch.context() as patch:
        patch.setattr(upstream, "METRICS", FULL)
        until_saturated(ruled_picker, True)
        test_id = new_id()
        shed = ask(ruled_gateway, "batch", x_test_id=test_id)
        assert shed.status == 429
        assert shed.header("retry-after") == "1"
        assert shed.header("x-llm-d-request-dropped-reason") == "rejected-saturated"
        assert shed.body == b"inference error: ResourceExhausted - system saturated, sheddable request dropped"
        assert fleet.received(test_id) == []
        assert ask(ruled_gateway, "batch", body=None, method="GET", path="/v1/models").status == 429
        for objective in ("gold", "nobody", ""):
            assert ask(ruled_gateway, objective).status == 200
    until_saturated(ruled_picker, False)
    assert ask(ruled_gateway, "batch").status == 200


def test_where_nobody_can_serve_a_request_that_may_be_shed_is_503_too(lab, ruled_picker, fleet):
    ruled_picker.set_pool([], known_to_gateway=fleet.ports)
    try:
        with lab.gateway(ruled_picker) as gateway:
            eventually(lambda: ask(gateway, "gold").status == 503, "the pool is empty")
            answer = ask(gateway, "batch")
            assert (answer.status, answer.header("x-llm-d-request-dropped-reason")) == (503, "rejected-no-endpoints")
    finally:
        ruled_picker.set_pool(fleet.ports)
        eventually(lambda: ruled_picker.metric("llm_d_epp_ready_endpoints") == len(fleet.ports), "the pool is back")


def test_the_priority_is_in_series_and_sheets_and_the_header_goes_no_further(ruled_picker, ruled_gateway, fleet):
    test_id = new_id()
    assert ask(ruled_gateway, "gold", x_test_id=test_id).status == 200
    (received,) = fleet.received(test_id)
    assert received.header("x-llm-d-inference-objective") is None
    sheet = ruled_picker.page("/decisions?limit=1")["decisions"][0]
    assert (sheet["priority"], sheet["model"], sheet["target_model"], sheet["rewrite"]) == (5, "chat", "chat-v2", "canary")
    page = request(ruled_picker, "GET", "/metrics").body.decode()
    labels = 'fairness_id="default-flow",model_name="chat",priority="5",target_model_name="chat-v2"'
    assert f"llm_d_epp_request_total{{{labels}}}" in page


def test_a_rule_s_target_reaches_the_server_and_the_client_s_name_comes_back(ruled_gateway, fleet):
    def named(exchange):
        exchange.respond(200, json.dumps({"id": "1", "model": "chat-v2"}).encode(), [("content-type", "application/json")])

    fleet.scripts["named-by-rule"] = named
    test_id = new_id()
    answer = ask(ruled_gateway, x_script="named-by-rule", x_test_id=test_id, x_llm_d_model_name_rewrite="the-rule-wins")
    assert json.loads(answer.body) == {"id": "1", "model": "chat"}
    (received,) = fleet.received(test_id)
    assert received.length == len(BODY) + len("-v2")


def test_a_model_that_the_client_left_out_is_supplied(ruled_gateway, fleet):
    test_id, body = new_id(), b'{ "prompt": "hello"}'
    assert ask(ruled_gateway, body=body).status == 400
    answer = ask(ruled_gateway, body=body, x_test_id=test_id, x_llm_d_model_name_rewrite="theirs")
    assert answer.status == 200
    (received,) = fleet.received(test_id)
    assert received.sha256 == hashlib.sha256(b'{"model":"theirs", "prompt": "hello"}').hexdigest()


def test_weights_split_and_are_counted(ruled_picker, ruled_gateway):
    body = BODY.replace(b"chat", b"split")
    before = ruled_picker.metric("llm_d_epp_model_rewrite_decisions_total")
    for _ in range(40):
        assert ask(ruled_gateway, body=body).status == 200
    assert ruled_picker.metric("llm_d_epp_model_rewrite_decisions_total") == before + 40
    page = request(ruled_picker, "GET", "/metrics").body.decode()
    for target in ("one", "two"):  # neither is left out but once in 2 ** 39 runs
        assert (
            f'llm_d_epp_model_rewrite_decisions_total{{model_name="split",model_rewrite_name="canary",target_model="{target}"}}'
            in page
        )
