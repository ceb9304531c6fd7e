"""Which objects of the API server count, and what they come to."""

import asyncio
import json
import time
from random import Random
from types import MappingProxyType

import msgspec
import pytest

from epp.kube import objectives as module
from epp.kube.objectives import GROUP, LEGACY_GROUP, InferenceModelRewrite, InferenceObjective, ObjectiveWatch
from epp.kube.objects import LEGACY_POOL_GROUP, POOL_GROUP, PoolRef
from epp.objectives.objectives import Objectives
from epp.objectives.rewrites import Rewrite, Rule, Target
from tests.unit.kube.api_server import listing, refuses, serving

POOL = PoolRef(name="pool", namespace="ns")
REF = {"name": "pool", "group": POOL_GROUP, "kind": "InferencePool"}
OTHER = {"name": "other"}


def objective(name, priority=None, ref=MappingProxyType({})):
    spec = {"poolRef": REF | ref} | ({} if priority is None else {"priority": priority})
    return {"metadata": {"name": name}, "spec": spec, "status": {"conditions": []}}


def rewrite(name, model, target, ref=MappingProxyType({})):
    rules = [{"matches": [{"model": {"type": "Exact", "value": model}}], "targets": [{"modelRewrite": target}]}]
    return {"metadata": {"name": name, "creationTimestamp": "2026-05-04T03:02:01Z"}, "spec": {"poolRef": REF | ref, "rules": rules}}


def read(kind, body):
    return msgspec.json.decode(json.dumps(body), type=kind)


@pytest.mark.parametrize(
    ("ref", "counts"),
    [
        ({}, True),
        ({"group": GROUP}, True),  # as published definitions fill it in
        ({"name": "other"}, False),
        ({"kind": "Service"}, False),
        ({"group": LEGACY_POOL_GROUP}, False),
        ({"group": ""}, False),
    ],
)
def test_only_what_names_our_pool_counts(ref, counts):
    assert read(InferenceObjective, objective("a", ref=ref)).spec.pool_ref.names(POOL) is counts


def test_a_pool_of_the_older_group_is_named_by_its_own():
    old = PoolRef(name="pool", namespace="ns", group=LEGACY_POOL_GROUP)
    assert read(InferenceObjective, objective("a", ref={"group": LEGACY_POOL_GROUP})).spec.pool_ref.names(old)
    assert not read(InferenceObjective, objective("a")).spec.pool_ref.names(old)


def test_what_is_left_out_of_a_reference_is_an_inference_pool():
    assert read(InferenceObjective, {"metadata": {"name": "a"}, "spec": {"poolRef": {"name": "pool"}}}).spec.pool_ref.names(POOL)


def test_a_rewrite_is_read_with_its_age():
    body = rewrite("r", "a", "b")
    body["spec"]["rules"].append({"matches": None, "targets": [{"modelRewrite": "c", "weight": 3}, {"modelRewrite": "d"}]})
    assert read(InferenceModelRewrite, body).rewrite() == Rewrite(
        name="r",
        created="2026-05-04T03:02:01Z",
        rules=(
            Rule(models=("a",), targets=(Target(model="b"),)),
            Rule(targets=(Target(model="c", weight=3), Target(model="d"))),
        ),
    )


def follow(monkeypatch, tmp_path, collections, check):
    """Run `check(objectives, watch)` when the first look at these collections, by the end of their path, is over."""

    async def answer(request):
        found = next((items for end, items in collections.items() if request.path.endswith(end)), None)
        script = refuses(404, "NotFound") if found is None else listing(1, *found)
        return await script(request)

    async def main():
        async with asyncio.timeout(20), serving(monkeypatch, tmp_path, lists=[answer]) as (_, api):
            objectives = Objectives()
            watch = ObjectiveWatch(api, POOL, objectives, clock=time.monotonic, random=Random(1))
            task = asyncio.create_task(watch.run())
            try:
                await watch.first_look()
                check(objectives, watch)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


def test_both_groups_are_followed_and_the_present_one_wins(monkeypatch, tmp_path):
    def check(objectives, watch):
        assert objectives.priorities == {"a": -1, "old": 2, "shared": 5, "none": 0}
        assert objectives.rewrites.choose("m", Random(1)) == ("new", "r")
        assert objectives.rewrites.choose("n", Random(1)) == ("of-the-old", "s")
        assert all(one.synced for one in watch.watches)
        assert {one.resource for one in watch.watches} == {
            f"{plural}.{group}" for plural in ("inferenceobjectives", "inferencemodelrewrites") for group in (GROUP, LEGACY_GROUP)
        }

    new, old = f"{GROUP}/v1alpha2/namespaces/ns/", f"{LEGACY_GROUP}/v1alpha2/namespaces/ns/"
    collections = {
        f"{new}inferenceobjectives": [
            objective("a", -1),
            objective("shared", 5),
            objective("none"),
            objective("x", 9, ref=OTHER),
        ],
        f"{old}inferenceobjectives": [objective("old", 2), objective("shared", -5), objective("x", 1, ref=OTHER)],
        f"{new}inferencemodelrewrites": [rewrite("r", "m", "new"), rewrite("s", "m", "other-pool", ref=OTHER)],
        f"{old}inferencemodelrewrites": [rewrite("r", "m", "old"), rewrite("s", "n", "of-the-old")],
    }
    follow(monkeypatch, tmp_path, collections, check)


def test_without_the_resources_there_is_nothing_to_wait_for(monkeypatch, tmp_path, caplog):
    def check(objectives, watch):
        assert not objectives.priorities
        assert objectives.rewrites is None
        assert all(one.absent for one in watch.watches)

    with caplog.at_level("INFO"):
        follow(monkeypatch, tmp_path, {}, check)
    assert [record.message for record in caplog.records if record.name.startswith("epp")] == [
        "the API server has no such collection; it will be looked for again"
    ] * 4, "one line for each"


def begin(monkeypatch, tmp_path, *script):
    """Take a first look at an API server that answers so, within some seconds."""

    async def main():
        async with asyncio.timeout(20), serving(monkeypatch, tmp_path, lists=script) as (_, api):
            watch = ObjectiveWatch(api, POOL, Objectives(), clock=time.monotonic, random=Random(1))
            task = asyncio.create_task(watch.run())
            await watch.first_look()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("script", "longest_s"),
    [([refuses(403, "Forbidden")], 60.0), ([refuses(500, "InternalError")], 0.05)],
    ids=["not-allowed", "does-not-say"],
)
def test_who_may_not_see_them_begins_without_and_an_api_server_that_does_not_say_is_not_waited_for_long(
    monkeypatch, tmp_path, caplog, script, longest_s
):
    monkeypatch.setattr(module, "FIRST_LOOK_S", longest_s)
    begin(monkeypatch, tmp_path, *script)
    (record,) = (record for record in caplog.records if record.message.startswith("beginning without"))
    assert record.resources.count(",") == 3
