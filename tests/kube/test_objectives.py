"""Objectives and rewrites as objects: made, changed and deleted while the picker runs, in a group that is there or comes later."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.data_plane.clients import opened, request
from tests.data_plane.rig import eventually
from tests.kube.api import Json
from tests.kube.assets import GROUP, OBJECTIVES
from tests.kube.control_plane import ControlPlane
from tests.kube.namespace import MODEL_API

LEGACY_API = "inference.networking.x-k8s.io/v1alpha2"
ONE_AT_A_TIME = {
    "strategy": {"chain": ["approximate"]},
    "plugins": [{"type": "concurrency-detector", "parameters": {"maxConcurrency": 1}}],
}
"""The pool is full as soon as it works on one request."""
LONG = {"model": "tiny", "prompt": "hello", "stream": True, "max_tokens": 30_000}
JSON_HEADER = ("content-type", "application/json")
LOOK_S = 20.0
"""How long a resource that was not there may take to be found."""


def ask(gateway, *, model="tiny", objective=""):
    body = json.dumps({"model": model, "prompt": "hello", "max_tokens": 1}).encode()
    headers = [JSON_HEADER, *([("x-llm-d-inference-objective", objective)] if objective else [])]
    return request(gateway, "POST", "/v1/completions", body, headers)


def until(gateway, status, **asked):
    eventually(lambda: ask(gateway, **asked).status == status, f"{asked} is answered with {status}", LOOK_S)


def to(target, *models, **weight) -> Json:
    matches = [{"model": {"value": model}} for model in models]
    return {"targets": [{"modelRewrite": target, **weight}]} | ({"matches": matches} if matches else {})


@contextmanager
def full(gateway, picker) -> Iterator[None]:
    """The pool works on a request all the while."""
    with opened(gateway, "POST", "/v1/completions", json.dumps(LONG).encode(), [JSON_HEADER]) as connection:
        assert connection.getresponse().status == 200
        yield
    eventually(lambda: picker.in_flight() == 0, "the long request is over")


@pytest.fixture
def without_resources(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """An API server that does not know objectives and rewrites; at the end it does, as before."""
    control_plane.uninstall(GROUP)
    yield control_plane
    control_plane.install(GROUP)


@pytest.fixture
def both_groups(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """An API server that knows the older group as well."""
    control_plane.install(OBJECTIVES)
    yield control_plane
    control_plane.uninstall(OBJECTIVES)


def test_an_objective_counts_from_when_it_is_made_changed_and_deleted(namespace, pods, rig):
    namespace.pool(labels=pods.labels, ports=pods.ports)
    pods.add()
    namespace.objective("other-pool", -1, pool="another")
    path = namespace.path("inferenceobjectives", "batch", api=MODEL_API)
    with rig.picker(namespace, config=ONE_AT_A_TIME) as picker, rig.gateway(picker) as gateway, full(gateway, picker):
        assert ask(gateway, objective="batch").status == ask(gateway, objective="other-pool").status == 200
        namespace.objective("batch", -1)
        until(gateway, 429, objective="batch")
        shed = ask(gateway, objective="batch")
        assert shed.header("x-llm-d-request-dropped-reason") == "rejected-saturated"
        assert shed.header("retry-after") == "1"
        assert ask(gateway, objective="other-pool").status == ask(gateway).status == 200
        namespace.api.patch(path, {"spec": {"priority": None}})
        until(gateway, 200, objective="batch")
        namespace.api.patch(path, {"spec": {"priority": -7}})
        until(gateway, 429, objective="batch")
        assert 'priority="-7"' in request(picker, "GET", "/metrics").body.decode()
        namespace.api.patch(path, {"spec": {"poolRef": {"name": "another"}}})
        until(gateway, 200, objective="batch")
        namespace.api.patch(path, {"spec": {"poolRef": {"name": "pool"}}})
        until(gateway, 429, objective="batch")
        namespace.api.delete(path)
        until(gateway, 200, objective="batch")


def test_a_rewrite_counts_from_when_it_is_made_changed_and_deleted(namespace, pods, rig):
    namespace.pool(labels=pods.labels, ports=pods.ports)
    pods.add()
    namespace.rewrite("other-pool", [to("tiny")], pool="another")
    path = namespace.path("inferencemodelrewrites", "chat", api=MODEL_API)
    with rig.picker(namespace) as picker, rig.gateway(picker) as gateway:
        assert ask(gateway, model="chat").status == 404, "the server knows no such model"
        namespace.rewrite("chat", [to("tiny", "chat")])
        until(gateway, 200, model="chat")
        assert json.loads(ask(gateway, model="chat").body)["model"] == "chat"
        namespace.rewrite("all", [to("nobody")])
        until(gateway, 404)
        assert ask(gateway, model="chat").status == 200, "the exact rule comes before the generic one"
        namespace.api.patch(path, {"spec": {"rules": [to("tiny", "talk", weight=3)]}})
        until(gateway, 404, model="chat")
        assert ask(gateway, model="talk").status == 200
        namespace.api.delete(path)
        until(gateway, 404, model="talk")


def test_a_rewrite_is_known_before_the_first_request(namespace, pods, rig):
    namespace.pool(labels=pods.labels, ports=pods.ports)
    pods.add()
    namespace.rewrite("chat", [to("tiny", "chat")])
    for _ in range(3):
        with rig.picker(namespace) as picker, rig.gateway(picker) as gateway:
            assert ask(gateway, model="chat").status == 200


def test_resources_that_are_not_there_are_a_log_line_and_are_found_when_they_come(without_resources, namespace, pods, rig):
    namespace.pool(labels=pods.labels, ports=pods.ports)
    pods.add()
    with rig.picker(namespace, config=ONE_AT_A_TIME) as picker, rig.gateway(picker) as gateway, full(gateway, picker):
        assert ask(gateway, objective="batch").status == 200
        assert picker.child.tail().count("the API server has no such collection") == 4, "two resources in two groups"
        assert "remarks" not in picker.page("/readyz"), "nothing is amiss"
        without_resources.install(GROUP)
        namespace.objective("batch", -1)
        namespace.rewrite("chat", [to("tiny", "chat")])
        until(gateway, 429, objective="batch")
        until(gateway, 200, model="chat")
        without_resources.uninstall(GROUP)
        until(gateway, 200, objective="batch")
        until(gateway, 404, model="chat")


def test_the_present_group_wins_over_the_older_one(both_groups, namespace, pods, rig):
    namespace.pool(labels=pods.labels, ports=pods.ports)
    pods.add()
    namespace.objective("batch", -1, api=LEGACY_API)
    namespace.rewrite("chat", [to("tiny", "chat", "talk")], api=LEGACY_API)
    with rig.picker(namespace, config=ONE_AT_A_TIME) as picker, rig.gateway(picker) as gateway, full(gateway, picker):
        assert ask(gateway, objective="batch").status == 429
        assert ask(gateway, model="talk").status == 200
        namespace.objective("batch", 1)
        namespace.rewrite("chat", [to("tiny", "chat")])
        until(gateway, 200, objective="batch")
        until(gateway, 404, model="talk")
        namespace.api.delete(namespace.path("inferenceobjectives", "batch", api=MODEL_API))
        namespace.api.delete(namespace.path("inferencemodelrewrites", "chat", api=MODEL_API))
        until(gateway, 429, objective="batch")
        until(gateway, 200, model="talk")
