"""What each gateway needs beyond an InferencePool, and what it is told of the picker's certificate."""

import pytest

from tests.chart.rendered import ISSUED, NAME, NAMESPACE, RELEASE

HOST = f"{NAME}.{NAMESPACE}.svc"
POOL_REF = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": RELEASE}
ADDED = {
    "none": [],
    "istio": ["DestinationRule"],
    "gke": ["GCPBackendPolicy", "HealthCheckPolicy"],
    "agentgateway": [],
    "envoy-ai-gateway": [],
    "nginx-gateway-fabric": [],
    "kgateway": [],
}


@pytest.mark.parametrize(("provider", "kinds"), ADDED.items())
def test_what_a_provider_adds(chart, provider, kinds):
    plain, rendered = chart.render(), chart.render(f"gateway.provider={provider}")
    assert sorted([*plain.kinds, *kinds]) == rendered.kinds
    assert rendered.one("Deployment") == plain.one("Deployment"), "the picker is the same behind all"


def test_istio_speaks_tls_to_a_self_signed_picker(chart):
    rule = chart.render("gateway.provider=istio").one("DestinationRule")["spec"]
    assert rule == {"host": f"{HOST}.cluster.local", "trafficPolicy": {"tls": {"mode": "SIMPLE", "insecureSkipVerify": True}}}


@pytest.mark.parametrize("how", ["credentialName", "caCertificates"])
def test_istio_checks_a_certificate_that_can_be_checked(chart, how):
    rule = chart.render("gateway.provider=istio", *ISSUED, f"gateway.istio.{how}=authority").one("DestinationRule")["spec"]
    tls = rule["trafficPolicy"]["tls"]
    assert tls == {"mode": "SIMPLE", how: "authority", "sni": HOST, "subjectAltNames": [HOST]}
    assert HOST in chart.render(*ISSUED).one("Certificate")["spec"]["dnsNames"], "the name it checks is the name it has"


def test_istio_leaves_plaintext_to_the_mesh(chart):
    assert chart.render("gateway.provider=istio", "tls.enabled=false").all("DestinationRule") == []


def test_gke_asks_each_endpoint_and_waits_for_generations(chart):
    rendered = chart.render("gateway.provider=gke", "gateway.gke.timeoutS=600", "gateway.gke.logging=true")
    health, backend = rendered.one("HealthCheckPolicy")["spec"], rendered.one("GCPBackendPolicy")["spec"]
    assert health["targetRef"] == backend["targetRef"] == POOL_REF
    check = health["default"]["config"]
    assert check == {"type": "HTTP", "httpHealthCheck": {"requestPath": "/health", "portSpecification": "USE_SERVING_PORT"}}
    assert backend["default"] == {"timeoutSec": 600, "logging": {"enabled": True}}


@pytest.mark.parametrize(("mode", "override"), [("duplex", "false"), ("buffered", "true")])
def test_envoy_ai_gateway_is_told_by_annotations_of_the_pool(chart, mode, override):
    values = ["gateway.provider=envoy-ai-gateway", f"gateway.envoyAiGateway.bodyMode={mode}", "pool.annotations.a=b"]
    assert chart.render(*values).one("InferencePool")["metadata"]["annotations"] == {
        "a": "b",
        "aigateway.envoyproxy.io/processing-body-mode": mode,
        "aigateway.envoyproxy.io/allow-mode-override": override,
    }


@pytest.mark.parametrize(
    ("values", "reference"),
    [
        ((), {"group": "", "kind": "Secret", "name": f"{NAME}-tls"}),
        (("tls.authority.name=bundle",), {"group": "", "kind": "ConfigMap", "name": "bundle"}),
        (("tls.authority.name=ca", "tls.authority.kind=Secret"), {"group": "", "kind": "Secret", "name": "ca"}),
    ],
)
def test_nginx_gateway_fabric_checks_a_certificate_that_can_be_checked(chart, values, reference):
    policy = chart.render("gateway.provider=nginx-gateway-fabric", *ISSUED, *values).one("BackendTLSPolicy")["spec"]
    assert policy["targetRefs"] == [{"group": "", "kind": "Service", "name": NAME}]
    assert policy["validation"] == {"hostname": HOST, "caCertificateRefs": [reference]}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["gateway.provider=istio"], "gateway.istio.credentialName"),
        (["gateway.provider=nginx-gateway-fabric"], "endpointPicker.skipVerify=true"),
        (["gateway.provider=nginx-gateway-fabric", "tls.enabled=false"], "endpointPicker.disableTLS=true"),
        (["gateway.provider=agentgateway"], "inferenceExtension.enabled=true"),
        (["gateway.provider=kgateway", "replicas=2"], "service.headless=true"),
        (["gateway.provider=envoy-ai-gateway", "replicas=2"], "service.headless=true"),
        (["gateway.provider=gke"], "gke-l7"),
        (
            ["pool.create=false", "pool.name=mine"],
            'patch inferencepool mine --type merge -p \\\n       \'{"spec": {"endpointPickerRef"',
        ),
        (["standalone.enabled=true", "pool.create=false"], f"port-forward service/{NAME} 8080:80"),
        (["pool.create=false"], f"ask {HOST}:9002 (ext_proc, TLS)"),
        (["replicas=2"], "only the leader is"),
        (["replicas=2", "highAvailability=active-active"], "highAvailability=leader asks one of them alone"),
        (["metrics.authentication.enabled=true"], f"--clusterrole={NAMESPACE}-{NAME}-metrics-reader"),
        ([], f"edit configmap {NAME}"),
    ],
    ids=str,
)
def test_the_notes_say_what_to_do_next(chart, values, said):
    assert said in chart.notes(*values)


def test_the_notes_warn_only_of_what_is(chart):
    assert "NOTE" not in chart.notes("gateway.provider=istio", *ISSUED, "gateway.istio.credentialName=authority")
    assert "NOTE" not in chart.notes("replicas=2")
    assert "NOTE" not in chart.notes("replicas=2", "strategy.chain={consistent-hash}")
    assert "no public registry" not in chart.notes("image.repository=registry.example/epp")
