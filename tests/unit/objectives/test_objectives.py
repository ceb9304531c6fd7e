"""Priorities and rewrites from everybody who lists some."""

from random import Random

import pytest

from epp.config import load
from epp.model.request import RequestHead
from epp.objectives.objectives import Objectives, Source
from epp.objectives.rewrites import Rewrite, Rule, Target

CONFIG = load(
    """
    objectives: [{name: batch, priority: -1}, {name: plain}, {name: gold, priority: 7}]
    modelRewrites:
      - name: canary
        rules:
          - matches: [{model: {type: Exact, value: chat}}, {model: {value: talk}}]
            targets: [{modelRewrite: chat-v2}]
    """
)


@pytest.fixture
def objectives():
    made = Objectives()
    made.configure(CONFIG.objectives, CONFIG.model_rewrites)
    return made


def priority(objectives, **headers):
    names = {"new": "x-llm-d-inference-objective", "old": "x-gateway-inference-objective"}
    return objectives.rank(RequestHead(headers={names[key]: value for key, value in headers.items()})).priority


def target(objectives, model):
    found = objectives.rewrites.choose(model, Random(0))
    return None if found is None else found[0]


def rewrites(name, model, to, *, created="2026-01-01T00:00:00Z"):
    return {name: Rewrite(name=name, created=created, rules=(Rule(models=(model,), targets=(Target(model=to),)),))}


def test_a_request_has_the_priority_of_the_objective_it_names(objectives):
    assert priority(objectives, new="batch") == -1
    assert priority(objectives, new="gold") == 7


def test_no_objective_an_unknown_one_or_one_without_a_priority_is_0(objectives):
    head = RequestHead(headers={"x-llm-d-inference-objective": "nobody"})
    assert objectives.rank(head) is head
    assert priority(objectives) == priority(objectives, new="plain") == priority(objectives, new="") == 0


def test_the_new_header_wins_and_an_empty_one_is_none(objectives):
    assert priority(objectives, new="gold", old="batch") == 7
    assert priority(objectives, old="batch") == priority(objectives, new="", old="batch") == -1


def test_nothing_else_of_the_head_changes(objectives):
    head = RequestHead(path="/p", method="GET", headers={"x-llm-d-inference-objective": "gold"}, subset=("a",), request_id="r")
    ranked = objectives.rank(head)
    assert (ranked.path, ranked.method, ranked.headers, ranked.subset, ranked.request_id) == (
        "/p", "GET", head.headers, ("a",), "r",
    )  # fmt: skip


def test_rewrites_of_the_file(objectives):
    assert [target(objectives, model) for model in ("chat", "talk", "other")] == ["chat-v2", "chat-v2", None]


def test_nothing_at_all_is_nothing_to_ask():
    nothing = Objectives()
    assert not nothing.priorities
    assert nothing.rewrites is None


def test_of_one_name_the_cluster_wins_over_the_legacy_group_and_that_over_the_file(objectives):
    objectives.set_priorities(Source.CLUSTER, {"batch": -3, "mine": 1})
    objectives.set_priorities(Source.LEGACY_GROUP, {"batch": -2, "gold": 0, "old": 2})
    assert objectives.priorities == {"batch": -3, "plain": 0, "gold": 0, "mine": 1, "old": 2}
    objectives.set_priorities(Source.CLUSTER, {})
    assert objectives.priorities == {"batch": -2, "plain": 0, "gold": 0, "old": 2}
    objectives.set_priorities(Source.LEGACY_GROUP, {})
    assert objectives.priorities == {"batch": -1, "plain": 0, "gold": 7}


def test_a_rewrite_of_the_cluster_takes_the_place_of_the_whole_one_with_its_name(objectives):
    objectives.set_rewrites(Source.CLUSTER, rewrites("canary", "chat", "chat-v3"))
    assert [target(objectives, model) for model in ("chat", "talk")] == ["chat-v3", None]
    objectives.set_rewrites(Source.CLUSTER, {})
    assert target(objectives, "talk") == "chat-v2"


def test_rewrites_of_other_names_are_added(objectives):
    objectives.set_rewrites(Source.LEGACY_GROUP, rewrites("z", "chat", "of-the-cluster"))
    objectives.set_rewrites(Source.CLUSTER, rewrites("y", "new", "newer"))
    assert [target(objectives, model) for model in ("chat", "talk", "new")] == ["of-the-cluster", "chat-v2", "newer"]


def test_a_new_configuration_takes_the_place_of_the_old_one(objectives):
    objectives.configure((), ())
    assert not objectives.priorities
    assert objectives.rewrites is None
