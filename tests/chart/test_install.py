"""The chart in a real API server: every object is accepted; installed, upgraded, rolled back, uninstalled; its picker at work."""

import json
from pathlib import Path

import pytest
import yaml

from tests.chart.installed import Release, ask
from tests.chart.rendered import ISSUED, NAME, NAMESPACE, RELEASE
from tests.data_plane.clients import request
from tests.data_plane.rig import eventually
from tests.kube.rig import known

DEADLINE_S = 30
EVERYTHING = (
    ("replicas=3", "highAvailability=active-active", "networkPolicy.enabled=true"),
    (
        "replicas=2",
        "metrics.authentication.enabled=true",
        "inferenceObjectives.items[0].name=a,inferenceObjectives.items[0].priority=-1",
    ),
    ("autoscaling.enabled=true", "highAvailability=active-active", "service.headless=true"),
    ("metrics.serviceMonitor.enabled=true", "metrics.serviceMonitor.labels.a=b", "metrics.authentication.tokenSecret.name=reader"),
    ("metrics.podMonitor.enabled=true", "metrics.prometheusRule.enabled=true", "metrics.dashboard.enabled=true", "replicas=2"),
    ("standalone.enabled=true", "pool.create=false", "service.type=LoadBalancer"),
    ("gateway.provider=istio",),
    ("gateway.provider=istio", *ISSUED, "gateway.istio.credentialName=authority"),
    (
        "gateway.provider=gke",
        "pool.appProtocol=kubernetes.io/h2c",
        "pool.targetPorts[0].number=8000,pool.targetPorts[1].number=8001",
    ),
    ("gateway.provider=agentgateway", "tls.mode=secret", "tls.secretName=mine"),
    ("gateway.provider=envoy-ai-gateway", "gateway.envoyAiGateway.bodyMode=buffered"),
    ("gateway.provider=nginx-gateway-fabric", *ISSUED),
    ("gateway.provider=kgateway", "pool.failureMode=FailClose"),
)


def test_the_api_server_accepts_every_object(chart, control_plane, definitions):
    """One dry run for all: what kubectl is given twice it looks at twice."""
    control_plane.kubectl("create", "namespace", NAMESPACE)
    texts = [chart.template(*values) for values in EVERYTHING]
    wanted = sum(1 for text in texts for one in yaml.load_all(text, yaml.CSafeLoader) if one)
    said = control_plane.kubectl("apply", "--dry-run=server", "--validate=strict", "--filename", "-", stdin="\n---\n".join(texts))
    assert len(said.splitlines()) == wanted
    assert "Warning" not in said
    kinds = {line.partition("/")[0].partition(".")[0] for line in said.splitlines()}
    assert {"destinationrule", "healthcheckpolicy", "gcpbackendpolicy", "backendtlspolicy", "certificate"} <= kinds


@pytest.mark.parametrize("values", [(), ("standalone.enabled=true", "pool.create=false"), ("replicas=2",)], ids=str)
def test_the_pods_fit_where_only_restricted_pods_may_be(chart, control_plane, namespace, values):
    template = chart.render(*values).one("Deployment")["spec"]["template"]
    label = "pod-security.kubernetes.io/enforce=restricted"
    namespace.control_plane.kubectl("label", "namespace", namespace.name, label, "--overwrite")
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": {**template["spec"]}}
    namespace.kubectl("create", "--dry-run=server", "--filename", "-", stdin=json.dumps(body))
    body["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    with pytest.raises(AssertionError, match="violates PodSecurity"):
        namespace.kubectl("create", "--dry-run=server", "--filename", "-", stdin=json.dumps(body))


def everything_in(namespace) -> set[str]:
    """Every object of a namespace, of whatever kind, by name."""
    kinds = namespace.control_plane.kubectl("api-resources", "--namespaced", "--verbs=list", "--output", "name").split()
    wanted = ",".join(sorted(kind for kind in kinds if not kind.startswith("events")))
    return set(namespace.kubectl("get", wanted, "--output", "name").split())


def test_install_upgrade_rollback_uninstall(namespace, tmp_path):
    before = everything_in(namespace)
    values = ["pool.selector.app=vllm", "metrics.authentication.enabled=true", "replicas=2", "highAvailability=active-active"]
    release = Release(namespace, tmp_path, *values)
    generation = release.deployment["metadata"]["generation"]
    assert {f"deployment.apps/{NAME}", f"inferencepool.inference.networking.k8s.io/{RELEASE}"} <= everything_in(namespace)
    release.upgrade("strategy.load=none")
    assert "load: none" in release.config_map["data"]["config.yaml"]
    assert release.deployment["metadata"]["generation"] == generation, "a changed configuration restarts nothing"
    release.upgrade("replicas=3")
    assert release.deployment["spec"]["replicas"] == 3
    release.rollback(1)
    assert "load: marginal-cost" in release.config_map["data"]["config.yaml"]
    assert release.deployment["spec"]["replicas"] == 2
    release.uninstall()
    assert everything_in(namespace) == before
    assert (
        namespace.control_plane.kubectl("get", "clusterroles,clusterrolebindings", "--selector", "app.kubernetes.io/name=epp") == ""
    )


def weighs(picker) -> str:
    """The first plugin of the profile in force."""
    return picker.page("/config")["effective"]["schedulingProfiles"][0]["plugins"][0]["pluginRef"]


def test_the_picker_runs_with_the_rights_of_the_chart(release, pods, rig):
    """Nothing is forbidden that it tries, and a request is answered through an Envoy that speaks TLS to it."""
    with release.picker(rig) as picker, rig.gateway(picker, picker_tls=True) as gateway:
        assert set(known(picker).values()) == pods.here[0].addresses
        assert ask(gateway).status == 200
        assert picker.metric("epp_kube_failing") == 0
        assert picker.metric("epp_kube_errors_total") == 0
    assert "without effect" not in picker.child.tail(), "the chart gives no flag in vain"
    assert "orbidden" not in picker.child.tail()


def test_of_two_pickers_one_leads_with_the_rights_of_the_chart(release, rig):
    release.upgrade("replicas=2")
    with release.picker(rig) as first, release.picker(rig, ready=False) as second:
        eventually(lambda: second.health("liveness") == "SERVING", "the other one is up, and not restarted for waiting")
        assert (first.health("readiness"), second.health("readiness")) == ("SERVING", "NOT_SERVING")
        assert (first.metric("epp_leader"), second.metric("epp_leader")) == (1, 0)
        assert first.metric("epp_leader_errors_total") == 0
        first.child.signal(15)
        eventually(lambda: second.health("readiness") == "SERVING", "it takes over", DEADLINE_S)
    assert "orbidden" not in second.child.tail()


def test_it_may_not_read_more(release, control_plane):
    user = str(release.namespace.kubeconfig(NAME))

    def may(*what: str) -> str:
        return control_plane.kubectl("auth", "can-i", *what, "--kubeconfig", user, "--quiet")

    may("list", "pods")
    for forbidden in (["list", "secrets"], ["list", "configmaps"], ["delete", "pods"], ["list", "pods", "--all-namespaces"]):
        with pytest.raises(AssertionError):
            may(*forbidden)


def test_a_changed_config_map_is_in_force_at_once(release, rig):
    with release.picker(rig) as picker:
        assert weighs(picker) == "marginal-cost-scorer"
        release.upgrade("strategy.load=none")
        eventually(lambda: weighs(picker) == "prefix-cache-scorer", "the upgrade is in force", 2)
        text = json.dumps([{"op": "replace", "path": "/data/config.yaml", "value": "strategy: {load: heavy}"}])
        release.namespace.kubectl("patch", "configmap", NAME, "--type", "json", "--patch", text)
        eventually(lambda: picker.metric("epp_config_up_to_date") == 0, "the broken one is refused", 2)
        eventually(lambda: "heavy" in release.namespace.kubectl("events", "--for", f"configmap/{NAME}"), "an Event says so")
        with pytest.raises(AssertionError, match="conflict"):
            release.rollback(1)  # somebody else has changed it, says Helm 4
        release.rollback(1, "--force-conflicts")
        eventually(lambda: weighs(picker) == "marginal-cost-scorer", "the rollback is in force", 2)


def test_a_certificate_from_a_secret_is_what_the_gateway_sees(namespace, pods, tmp_path, rig):
    pods.add()
    files = namespace.control_plane.certificates
    namespace.kubectl("create", "secret", "tls", "mine", f"--cert={files.server}", f"--key={files.server_key}")
    values = [f"pool.selector.app={pods.labels['app']}", f"pool.targetPorts[0].number={pods.ports[0]}"]
    release = Release(namespace, tmp_path, *values, "tls.mode=secret", "tls.secretName=mine")
    with release.picker(rig) as picker:
        with rig.gateway(picker, picker_ca=Path(files.authority)) as gateway:
            assert ask(gateway).status == 200
        with rig.gateway(picker, picker_ca=Path(files.admin)) as gateway:
            assert ask(gateway).status == 500, "another authority's"


def test_metrics_want_a_token_where_they_are_to(namespace, pods, tmp_path, rig):
    """From outside the pod, that is: what says that it comes through a proxy is not taken for the pod's own."""
    pods.add()
    values = [f"pool.selector.app={pods.labels['app']}", f"pool.targetPorts[0].number={pods.ports[0]}"]
    release = Release(namespace, tmp_path, *values, "metrics.authentication.enabled=true")
    namespace.create("serviceaccounts", {"metadata": {"name": "reader"}})
    role, reader = f"{namespace.name}-{NAME}-metrics-reader", f"{namespace.name}:reader"
    outside = ("x-forwarded-for", "10.0.0.1")

    with release.picker(rig) as picker:

        def status(path: str, *headers: tuple[str, str]) -> int:
            return request(picker, "GET", path, None, [outside, *headers]).status

        token = ("authorization", f"Bearer {namespace.token('reader')}")
        assert status("/readyz") == 200, "the kubelet has no token"
        assert status("/metrics") == 401
        assert status("/metrics", token) == 403, "nobody has given it the role"
        namespace.kubectl("create", "clusterrolebinding", role, f"--clusterrole={role}", f"--serviceaccount={reader}")
        eventually(lambda: status("/metrics", token) == 200, "it may read the metrics now", DEADLINE_S)
        assert status("/decisions", token) == 403, "and nothing else"
