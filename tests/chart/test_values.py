"""Values: the schema is what values.yaml says, and what cannot work is refused with a sentence that says what to do."""

import json
import subprocess
import sys

import pytest
import yaml

from tests.chart.rendered import CHART, ROOT, Refused


def test_lint(chart):
    assert "0 chart(s) failed" in chart.run("lint", "--strict", str(CHART), "--set", "pool.selector.app=vllm")


@pytest.mark.parametrize("script", ["chart_schema.py", "render_manifests.py"])
def test_generated_files_are_up_to_date(script, assets):
    done = subprocess.run([sys.executable, str(ROOT / "hack" / script), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_each_value_has_its_reason_in_the_schema():
    def undescribed(schema: dict, path: str):
        for name, one in schema.get("properties", {}).items():
            here = f"{path}.{name}".lstrip(".")
            if not one.get("description") and path.partition(".")[0] not in {"pool", "imagePullSecrets", "inferenceObjectives"}:
                yield here
            yield from undescribed(one, here)

    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(schema["properties"]) - {"global"} == set(yaml.safe_load((CHART / "values.yaml").read_text()))
    assert list(undescribed(schema, "")) == []


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("gateway.provider=traefik", "value must be one of 'none', 'istio', 'gke'"),
        ("pool.failureMode=FailClosed", "value must be one of 'FailOpen', 'FailClose'"),
        ("highAvailability=always", "value must be one of 'auto', 'active-active', 'leader'"),
        ("tls.mode=mtls", "value must be one of 'self-signed', 'secret', 'cert-manager'"),
        ("strategy.load=heavy", "value must be one of 'marginal-cost', 'llm-d', 'none'"),
        ("strategy.chain={exact}", "value must be one of 'accurate', 'approximate', 'consistent-hash'"),
        ("pool.targetPorts[0].number=70000", "maximum: got 70,000, want 65,535"),
        ("pool.targetPorts=[]", "got string, want array"),
        ("replicas=0", "minimum: got 0, want 1"),
        ("replicas=two", "got string, want integer"),
        ("image.digest=latest", "does not match pattern"),
        ("drainTimeoutSeconds=5", "additional properties 'drainTimeoutSeconds' not allowed"),
        ("tls.enable=false", "additional properties 'enable' not allowed"),
        ("standalone.listenAddress=localhost", "value must be one of '0.0.0.0', '::'"),
        (f"fullnameOverride={'a' * 47}", "maxLength: got 47, want 46"),
        ("inferenceObjectives.items[0].name=batch", "missing property 'priority'"),
    ],
)
def test_the_schema_refuses(chart, value, said):
    with pytest.raises(Refused) as refused:
        chart.template(value)
    assert said in str(refused.value)
    assert value.partition("=")[0].partition("[")[0].partition(".")[0] in str(refused.value), "it says where"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["tls.mode=secret"], "name the Secret in tls.secretName"),
        (["tls.mode=cert-manager"], "name who issues in tls.certManager.issuerRef.name"),
        (["tls.enabled=false", "gateway.provider=agentgateway"], "agentgateway always speaks TLS"),
        (["tls.enabled=false", "gateway.provider=kgateway"], "kgateway always speaks TLS"),
        (["tls.enabled=false", "gateway.provider=envoy-ai-gateway"], "envoy-ai-gateway always speaks TLS"),
        (["standalone.enabled=true", "gateway.provider=istio"], "leave gateway.provider at none"),
        (["standalone.enabled=true", "service.headless=true"], "set service.headless=false"),
        (["service.headless=true", "service.type=LoadBalancer"], "leave service.type at ClusterIP"),
        (["standalone.enabled=true", "standalone.port=9090"], "9090 is the port of the metrics"),
        (["configText=x", "config.limits.requestsMax=1"], "leave config and existingConfigMap empty"),
        (["existingConfigMap=x", "config.limits.requestsMax=1"], "leave config empty"),
        (["config.strategy.load=none"], "the strategy has a value of its own"),
        (["config.schedulingProfiles[0].name=default"], "set strategy to null"),
        (["autoscaling.enabled=true"], "set highAvailability=active-active"),
        (
            ["autoscaling.enabled=true", "highAvailability=active-active", "autoscaling.minReplicas=9"],
            "above autoscaling.maxReplicas",
        ),
        (["gateway.istio.credentialName=x"], "a self-signed one cannot be checked"),
        (["gateway.istio.credentialName=x", "gateway.istio.caCertificates=y"], "not both"),
        (["metrics.serviceMonitor.enabled=true", "metrics.podMonitor.enabled=true"], "enable one"),
        (["serviceAccount.create=false"], "name the one that exists"),
    ],
)
def test_what_does_not_go_together_is_refused(chart, values, said):
    with pytest.raises(Refused) as refused:
        chart.template(*values)
    assert said in str(refused.value)


@pytest.mark.parametrize("values", [(), ("pool.create=false",)])
def test_without_pods_or_a_pool_it_says_what_to_give(chart, values):
    with pytest.raises(Refused, match=r"--set pool\.selector\.app=vllm"):
        chart.template(*values, only_pool=False)
