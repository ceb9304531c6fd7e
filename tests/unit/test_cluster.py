"""What a picker has to do with Kubernetes, put together."""

import asyncio
from random import Random

import pytest

from epp.cluster import Cluster
from epp.errors import ConfigError
from epp.flags import ServeOptions
from epp.objectives.objectives import Objectives


class Nobody:
    def found(self, endpoints):
        raise AssertionError

    def lost(self, reason):
        raise AssertionError

    def elected(self, leads, holder):
        raise AssertionError


def cluster(monkeypatch, **flags):
    monkeypatch.setenv("NAMESPACE", "models")

    async def make():
        return Cluster(ServeOptions(**flags), Nobody(), Objectives(), clock=lambda: 100.0, random=Random(1))

    return asyncio.run(make())


def test_a_pool_is_looked_for_in_the_namespace_that_is_named_or_in_our_own(monkeypatch):
    path = "/apis/inference.networking.k8s.io/v1/namespaces/{}/inferencepools"
    assert path.format("models") in {one.path for one in cluster(monkeypatch, pool_name="p")._watches()}
    assert path.format("other") in {one.path for one in cluster(monkeypatch, pool_name="p", pool_namespace="other")._watches()}


def test_pods_without_a_pool_have_no_objectives(monkeypatch):
    made = cluster(monkeypatch, endpoint_selector={"app": "x"}, endpoint_target_ports=(8000,))
    assert made._watches() == ()
    jobs = made.jobs()
    assert "objectives" not in jobs
    for job in jobs.values():
        job.close()


def test_what_cannot_be_followed_is_remarked_on_with_its_age(monkeypatch):
    made = cluster(monkeypatch, pool_name="p")
    assert list(made.remarks()) == []
    pools = next(one for one in made._watches() if one.resource.startswith("inferencepools"))
    pools.failing = "Forbidden"
    assert list(made.remarks()) == [
        "the API server cannot be followed (Forbidden): inferencepools.inference.networking.k8s.io are not known at all"
    ]
    pools.failing, pools.synced, pools.last_contact_s = "Unreachable", True, 58.4
    assert list(made.remarks()) == [
        "the API server cannot be followed (Unreachable): inferencepools.inference.networking.k8s.io are as they were 42 s ago"
    ]


def test_how_it_is_followed_is_reported(monkeypatch):
    made = cluster(monkeypatch, pool_name="p")
    pools = next(one for one in made._watches() if one.resource.startswith("inferencepools"))
    pools.synced, pools.failing, pools.lists, pools.last_contact_s = True, "Unreachable", 3, 7.0
    pools.errors["Unreachable"] += 2
    shown = {one.resource: one for one in made.watched()}[pools.resource]
    assert (shown.synced, shown.failing, shown.objects, shown.lists, shown.last_contact_s) == (True, True, 0, 3, 7.0)
    assert shown.errors == {"Unreachable": 2}


def test_the_admin_port_has_a_gate_unless_told_otherwise(monkeypatch):
    assert cluster(monkeypatch, pool_name="p").gate is not None
    assert cluster(monkeypatch, pool_name="p", metrics_endpoint_auth=False).gate is None


def test_a_leader_is_elected_by_a_lease_of_the_pool(monkeypatch):
    assert list(cluster(monkeypatch, pool_name="p").candidacies()) == []
    made = cluster(monkeypatch, pool_name="p", leader_election=True)
    (candidacy,) = made.candidacies()
    assert (candidacy.lease, candidacy.leads) == ("epp-models-p.llm-d.ai", False)
    assert "/apis/coordination.k8s.io/v1/namespaces/models/leases" in {one.path for one in made._watches()}
    made._elector.failing = "Forbidden"
    assert list(made.remarks()) == ["the Lease epp-models-p.llm-d.ai cannot be had (Forbidden)"]


def test_without_a_pool_the_lease_goes_by_the_deployment(monkeypatch):
    pods = {"endpoint_selector": {"app": "x"}, "endpoint_target_ports": (8000,), "leader_election": True}
    monkeypatch.setenv("POD_NAME", "my-epp-5d9c7b-x2x4k")
    (candidacy,) = cluster(monkeypatch, **pods).candidacies()
    assert candidacy.lease == "epp-models-my-epp.llm-d.ai"
    monkeypatch.setenv("POD_NAME", "solo")
    with pytest.raises(ConfigError, match="POD_NAME"):
        cluster(monkeypatch, **pods)


def test_who_takes_no_part_has_nothing_to_give_up(monkeypatch):
    assert asyncio.run(cluster(monkeypatch, pool_name="p").resign()) is False
