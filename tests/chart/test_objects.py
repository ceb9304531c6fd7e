"""Which objects the values switch, and the fields that matter."""

import pytest

from tests.chart.rendered import ISSUED, NAME, NAMESPACE, RELEASE

ALWAYS = ["ConfigMap", "Deployment", "Role", "RoleBinding", "Service", "ServiceAccount"]
OBJECTIVE = ["inferenceObjectives.items[0].name=batch", "inferenceObjectives.items[0].priority=-1"]
ALONE = ["standalone.enabled=true", "pool.create=false"]


def objects_of(chart, *values):
    """Kinds beyond those that are always there."""
    kinds = chart.render(*values).kinds
    for kind in ALWAYS:
        kinds.remove(kind)
    return kinds


def test_by_default_a_picker_and_its_pool(chart):
    rendered = chart.render()
    assert rendered.kinds == sorted([*ALWAYS, "InferencePool"])
    for one in rendered.objects:
        assert one["metadata"]["namespace"] == NAMESPACE
        assert one["metadata"]["labels"]["app.kubernetes.io/instance"] == RELEASE


@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        (["pool.create=false", "pool.name=mine"], []),
        (["serviceAccount.annotations.a=b"], ["InferencePool"]),
        (["replicas=3", "highAvailability=active-active"], ["InferencePool", "PodDisruptionBudget"]),
        (["replicas=3", "highAvailability=active-active", "podDisruptionBudget.enabled=false"], ["InferencePool"]),
        (["replicas=3", "highAvailability=leader"], ["InferencePool"]),
        (["networkPolicy.enabled=true"], ["InferencePool", "NetworkPolicy"]),
        (["metrics.serviceMonitor.enabled=true"], ["InferencePool", "ServiceMonitor"]),
        (["metrics.podMonitor.enabled=true"], ["InferencePool", "PodMonitor"]),
        (["metrics.prometheusRule.enabled=true"], ["InferencePool", "PrometheusRule"]),
        (["metrics.dashboard.enabled=true"], ["ConfigMap", "InferencePool"]),
        (["metrics.authentication.enabled=true"], ["ClusterRole", "ClusterRole", "ClusterRoleBinding", "InferencePool"]),
        (
            ["autoscaling.enabled=true", "highAvailability=active-active"],
            ["HorizontalPodAutoscaler", "InferencePool", "PodDisruptionBudget"],
        ),
        ([*OBJECTIVE], ["InferenceObjective", "InferencePool"]),
        ([*ISSUED], ["Certificate", "InferencePool"]),
        (["tls.enabled=false", *ISSUED], ["InferencePool"]),
        ([*ALONE], ["ConfigMap"]),
    ],
)
def test_values_that_switch_objects(chart, values, kinds):
    assert objects_of(chart, *values) == kinds


def test_names(chart):
    def names(*more):
        return {one["metadata"]["name"] for one in chart.render(*more).objects if one["kind"] != "InferencePool"}

    assert names() == {NAME}
    assert names("fullnameOverride=picker") == {"picker"}
    assert "serviceAccountName: other" in chart.template("serviceAccount.name=other", "serviceAccount.create=false")


def test_the_pool_refers_to_the_service_at_its_port(chart):
    rendered = chart.render("pool.appProtocol=kubernetes.io/h2c", "pool.annotations.a=b", "pool.failureMode=FailClose")
    pool, service = rendered.one("InferencePool"), rendered.one("Service")
    assert pool["metadata"]["name"] == RELEASE
    assert pool["metadata"]["annotations"] == {"a": "b"}
    assert pool["spec"] == {
        "selector": {"matchLabels": {"app": "vllm"}},
        "targetPorts": [{"number": 8000}],
        "appProtocol": "kubernetes.io/h2c",
        "endpointPickerRef": {"name": service["metadata"]["name"], "port": {"number": 9002}, "failureMode": "FailClose"},
    }
    ports = {port["name"]: port for port in service["spec"]["ports"]}
    assert ports["grpc-ext-proc"]["port"] == 9002
    container_ports = {port["name"] for port in rendered.picker["ports"]}
    assert {port["targetPort"] for port in ports.values()} <= container_ports
    selector = service["spec"]["selector"].items()
    assert selector <= rendered.one("Deployment")["spec"]["template"]["metadata"]["labels"].items()


def test_which_pool_or_pods_are_served(chart):
    assert chart.render().flags["pool-name"] == RELEASE
    assert chart.render("pool.name=mine").flags["pool-name"] == "mine"
    assert chart.render("pool.create=false", "pool.name=mine", only_pool=False).flags["pool-name"] == "mine"
    ports = [f"pool.targetPorts[{place}].number={8000 + place}" for place in range(2)]
    poolless = chart.render("pool.create=false", "pool.selector.tier=gpu", *ports)
    assert poolless.flags["endpoint-selector"] == "app=vllm,tier=gpu"
    assert poolless.flags["endpoint-target-ports"] == "8000,8001"
    assert "pool-name" not in poolless.flags


def test_the_certificate_has_the_name_that_gateways_call(chart):
    certificate = chart.render(*ISSUED, "tls.certManager.issuerRef.kind=ClusterIssuer").one("Certificate")["spec"]
    assert f"{NAME}.{NAMESPACE}.svc" in certificate["dnsNames"]
    assert certificate["secretName"] == f"{NAME}-tls"
    assert certificate["issuerRef"] == {"name": "inference-ca", "kind": "ClusterIssuer", "group": "cert-manager.io"}
    assert certificate["usages"] == ["server auth", "digital signature"]


def test_network_policy(chart):
    values = ["networkPolicy.enabled=true", "networkPolicy.from[0].namespaceSelector.matchLabels.name=gateways"]
    policy = chart.render(*values).one("NetworkPolicy")["spec"]
    asks, scrapes, probes = policy["ingress"]
    assert asks == {"ports": [{"port": "grpc-ext-proc"}], "from": [{"namespaceSelector": {"matchLabels": {"name": "gateways"}}}]}
    assert scrapes == {"ports": [{"port": "http-metrics"}]}
    assert probes == {"ports": [{"port": "grpc-health"}]}
    servers, api, names = policy["egress"]
    assert servers == {
        "ports": [{"port": 8000}, {"port": 5557}, {"port": 5558}],
        "to": [{"podSelector": {"matchLabels": {"app": "vllm"}}}],
    }
    assert [one["port"] for one in api["ports"]] == [443, 6443]
    assert [one["port"] for one in names["ports"]] == [53, 53]
    alone = chart.render(*values, *ALONE).one("NetworkPolicy")["spec"]
    assert alone["ingress"] == [{**asks, "ports": [{"port": "http"}]}, scrapes, probes], "rules add up: the clients' port is in one"
    anybody = chart.render("networkPolicy.enabled=true", *ALONE).one("NetworkPolicy")["spec"]
    assert anybody["ingress"] == [{"ports": [{"port": "http"}]}, scrapes, probes]
    elsewhere = chart.render("networkPolicy.enabled=true", "pool.create=false", "pool.name=mine", only_pool=False)
    assert elsewhere.one("NetworkPolicy")["spec"]["egress"][0]["to"] == [{"podSelector": {}}], "whose labels are not known here"


def test_objectives_refer_to_the_pool(chart):
    objective = chart.render(*OBJECTIVE).one("InferenceObjective")
    assert objective["apiVersion"] == "llm-d.ai/v1alpha2"
    assert objective["spec"] == {"priority": -1, "poolRef": {"group": "inference.networking.k8s.io", "name": RELEASE}}


def test_a_service_without_an_address_of_its_own(chart):
    assert "clusterIP" not in chart.render().one("Service")["spec"]
    assert chart.render("service.headless=true").one("Service")["spec"]["clusterIP"] == "None"
