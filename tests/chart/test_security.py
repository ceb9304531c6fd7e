"""What a picker may do: nobody's root, nothing on the node, and no more of the API server than it reads."""

import pytest

from epp.kube.access import own_deployment
from tests.chart.rendered import ISSUED, NAME, NAMESPACE

ALONE = ("standalone.enabled=true", "pool.create=false")
READ = ["get", "list", "watch"]


def rules(rendered, kind="Role"):
    """What is allowed: (group, resource) -> verbs and names."""
    return {
        (group, resource): (rule["verbs"], rule.get("resourceNames", []))
        for role in rendered.all(kind)
        for rule in role["rules"]
        for group in rule.get("apiGroups", [""])
        for resource in rule.get("resources", rule.get("nonResourceURLs", []))
    }


@pytest.mark.parametrize("values", [(), ALONE, (*ISSUED, "replicas=3")], ids=str)
def test_no_container_is_privileged(chart, values):
    rendered = chart.render(*values)
    pod = rendered.pod["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["runAsUser"] > 0
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    containers = list(rendered.containers)
    assert len(containers) == 1 + (values == ALONE)
    for container in containers:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"].keys() == {"memory"}, "a limit on CPU throttles"
        assert all(mount["readOnly"] for mount in container["volumeMounts"])
        assert all(port["containerPort"] > 1024 for port in container["ports"])
    assert not any("hostPath" in volume for volume in rendered.pod["volumes"])


def test_by_default_it_may_read_its_namespace_and_its_config_map(chart):
    rendered = chart.render()
    assert rules(rendered) == {
        ("", "pods"): (READ, []),
        ("inference.networking.k8s.io", "inferencepools"): (READ, []),
        ("inference.networking.x-k8s.io", "inferencepools"): (READ, []),
        ("llm-d.ai", "inferenceobjectives"): (READ, []),
        ("llm-d.ai", "inferencemodelrewrites"): (READ, []),
        ("inference.networking.x-k8s.io", "inferenceobjectives"): (READ, []),
        ("inference.networking.x-k8s.io", "inferencemodelrewrites"): (READ, []),
        ("", "configmaps"): (READ, [NAME]),
        ("events.k8s.io", "events"): (["create"], []),
    }
    assert rendered.all("ClusterRole") == rendered.all("ClusterRoleBinding") == []


def test_without_a_pool_or_a_watch_it_may_read_less(chart):
    assert rules(chart.render("pool.create=false", "watchConfigMap=false")) == {("", "pods"): (READ, [])}


def test_to_elect_a_leader_it_may_write_one_lease(chart):
    found = chart.render("replicas=2").one("Role")["rules"]
    leases = [rule for rule in found if rule["resources"] == ["leases"]]
    assert leases == [
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": [f"epp-{NAMESPACE}-llama.llm-d.ai"],
            "verbs": ["get", "list", "watch", "update", "patch"],
        },
    ]


@pytest.mark.parametrize("letters", [1, 41, 42, 43, 44, 46, 47, 50, 53])
def test_without_a_pool_a_picker_knows_its_lease_however_long_the_release(chart, monkeypatch, letters):
    """The name is told from the pod's, which Kubernetes cuts where it is too long."""
    rendered = chart.render("pool.create=false", "replicas=2", release="a" * letters)
    name = rendered.one("Deployment")["metadata"]["name"]
    for template in ("5d9c7b", "5d9c7b5d9c"):
        monkeypatch.setenv("POD_NAME", f"{name}-{template}-"[:58] + "x2x4k")
        assert own_deployment() == name
    (lease,) = rules(rendered)["coordination.k8s.io", "leases"][1]
    assert lease == f"epp-{NAMESPACE}-{name}.llm-d.ai"


def test_only_authentication_of_metrics_needs_the_cluster(chart):
    rendered = chart.render("metrics.authentication.enabled=true")
    assert rendered.flags["metrics-endpoint-auth"] == "true"
    assert chart.render().flags["metrics-endpoint-auth"] == "false"
    assert rules(rendered, "ClusterRole") == {
        ("authentication.k8s.io", "tokenreviews"): (["create"], []),
        ("authorization.k8s.io", "subjectaccessreviews"): (["create"], []),
        ("", "/metrics"): (["get"], []),
    }
    binding = rendered.one("ClusterRoleBinding")
    assert binding["roleRef"]["name"] == f"{NAMESPACE}-{NAME}-metrics-auth"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}]


def test_the_role_is_the_pickers(chart):
    for values, name in (((), NAME), (("serviceAccount.name=mine", "serviceAccount.create=false"), "mine")):
        rendered = chart.render(*values)
        assert rendered.pod["serviceAccountName"] == name
        assert rendered.one("RoleBinding")["subjects"] == [{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}]
        assert bool(rendered.all("ServiceAccount")) is (name == NAME)
