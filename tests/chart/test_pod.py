"""The picker's pod: several of them, the time it takes to end, probes, TLS, and what is passed on to it."""

import argparse

import pytest

from epp.flags import add_serve_flags, read_serve_flags
from tests.chart.rendered import ISSUED, NAME, NAMESPACE


@pytest.mark.parametrize(
    ("values", "elects"),
    [
        (["replicas=1"], False),
        (["replicas=1", "highAvailability=leader"], False),
        (["replicas=2"], True),
        (["replicas=2", "strategy.chain={consistent-hash}"], False),
        (["replicas=2", "strategy.chain={accurate,approximate}"], False),
        (["replicas=2", "strategy.chain={approximate,accurate}"], True),
        (["replicas=2", "strategy.chain={consistent-hash}", "highAvailability=leader"], True),
        (["replicas=2", "highAvailability=active-active"], False),
        (["replicas=2", "existingConfigMap=mine"], True),
    ],
)
def test_who_answers_when_there_are_several(chart, values, elects):
    rendered = chart.render(*values)
    assert rendered.flags["ha-enable-leader-election"] == str(elects).lower()
    rolling = rendered.one("Deployment")["spec"]["strategy"]["rollingUpdate"]
    if elects:
        assert rolling == {"maxSurge": "100%", "maxUnavailable": "100%"}, "a standby never becomes ready while the leader leads"
        assert rendered.picker["lifecycle"]["preStop"]["sleep"]["seconds"] == 10
    else:
        assert rolling == {"maxSurge": 1, "maxUnavailable": 0}, "there is always one that is ready"


def test_a_leader_with_an_envoy_hands_over_then_has_clients_turn_away(chart, monkeypatch):
    def hook(*values):
        rendered = chart.render("standalone.enabled=true", *values)
        program, flag, code = rendered.picker["lifecycle"]["preStop"]["exec"]["command"]
        assert (program, flag) == ("python", "-c")
        done = []
        with monkeypatch.context() as patched:
            patched.setattr("time.sleep", done.append)
            patched.setattr("urllib.request.urlopen", lambda url, **_: done.append(url))
            exec(code, {})
        return done, rendered.pod["terminationGracePeriodSeconds"]

    fail = "http://127.0.0.1:9901/healthcheck/fail"
    assert hook() == ([fail], 70)
    assert hook("replicas=2", "strategy.chain={consistent-hash}") == ([fail], 70)
    assert hook("replicas=2") == ([10, fail], 80)


@pytest.mark.parametrize(("drain_s", "elects"), [(0, False), (30, False), (30, True), (300, False)])
def test_a_pod_has_the_time_that_draining_takes(chart, drain_s, elects):
    rendered = chart.render(f"drainTimeoutS={drain_s}", f"replicas={1 + elects}")
    assert rendered.flags["drain-timeout"] == f"{drain_s}s"
    hook_s = rendered.picker.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert hook_s == (10 if elects else 0)
    assert rendered.pod["terminationGracePeriodSeconds"] == hook_s + 2 * drain_s + 10, (
        "not ready, then open requests, some to spare"
    )


def test_probes_ask_the_health_port(chart):
    picker = chart.render().picker
    assert {name: picker[f"{name}Probe"]["grpc"] for name in ("startup", "liveness", "readiness")} == {
        "startup": {"port": 9003, "service": "liveness"},
        "liveness": {"port": 9003, "service": "liveness"},
        "readiness": {"port": 9003, "service": "readiness"},
    }


def test_the_pod_is_told_who_it_is(chart):
    fields = {one["name"]: one["valueFrom"]["fieldRef"]["fieldPath"] for one in chart.render().picker["env"]}
    assert fields == {"NAMESPACE": "metadata.namespace", "POD_NAME": "metadata.name"}


def test_tls(chart):
    assert chart.render().flags["secure-serving"] == "true"
    assert "cert-path" not in chart.render().flags
    assert chart.render("tls.enabled=false").flags["secure-serving"] == "false"
    for values, secret in ((ISSUED, f"{NAME}-tls"), (("tls.mode=secret", "tls.secretName=mine"), "mine")):
        rendered = chart.render(*values)
        assert rendered.flags["cert-path"] == "/etc/epp/tls"
        assert rendered.flags["enable-cert-reload"] == "true"
        assert {"name": "tls", "secret": {"secretName": secret, "defaultMode": 0o440}} in rendered.pod["volumes"]
        assert {"name": "tls", "mountPath": "/etc/epp/tls", "readOnly": True} in rendered.picker["volumeMounts"]


def test_the_budget_and_the_spread_are_of_these_pods(chart):
    rendered = chart.render("replicas=2", "highAvailability=active-active")
    selector = rendered.one("Deployment")["spec"]["selector"]["matchLabels"]
    budget = rendered.one("PodDisruptionBudget")["spec"]
    assert budget["selector"]["matchLabels"] == selector
    assert budget["maxUnavailable"] == 1
    (spread,) = rendered.pod["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == selector
    assert spread["topologyKey"] == "kubernetes.io/hostname"


def test_autoscaling_looks_at_the_picker_alone_and_owns_the_number(chart):
    rendered = chart.render(
        "autoscaling.enabled=true", "highAvailability=active-active", "standalone.enabled=true", "pool.create=false"
    )
    scaler = rendered.one("HorizontalPodAutoscaler")["spec"]
    assert scaler["metrics"][0]["containerResource"]["container"] == "epp"
    assert scaler["scaleTargetRef"]["name"] == NAME
    assert "replicas" not in rendered.one("Deployment")["spec"], "an upgrade would undo what the autoscaler did"


def test_what_is_passed_on_to_the_pod(chart):
    rendered = chart.render(
        "imagePullSecrets[0].name=registry",
        "priorityClassName=high",
        "nodeSelector.pool=cpu",
        "tolerations[0].key=cpu",
        "affinity.nodeAffinity.x=y",
        "podLabels.team=a",
        "podAnnotations.note=b",
        "extraArgs={--emit-endpoint-scores}",
        "extraEnv[0].name=A,extraEnv[0].value=b",
        "extraVolumes[0].name=models,extraVolumes[0].emptyDir.medium=Memory",
        "extraVolumeMounts[0].name=models,extraVolumeMounts[0].mountPath=/models",
    )
    pod, template = rendered.pod, rendered.one("Deployment")["spec"]["template"]["metadata"]
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert pod["priorityClassName"] == "high"
    assert pod["nodeSelector"] == {"pool": "cpu"}
    assert pod["tolerations"] == [{"key": "cpu"}]
    assert pod["affinity"] == {"nodeAffinity": {"x": "y"}}
    assert template["labels"]["team"] == "a"
    assert template["annotations"]["note"] == "b"
    assert rendered.picker["args"][-1] == "--emit-endpoint-scores"
    assert {"name": "A", "value": "b"} in rendered.picker["env"]
    assert {"name": "models", "emptyDir": {"medium": "Memory"}} in pod["volumes"]
    assert {"name": "models", "mountPath": "/models"} in rendered.picker["volumeMounts"]


def test_the_transport_is_the_pickers_choice_unless_given(chart):
    assert "transport" not in chart.render().flags
    assert chart.render("transport=native").flags["transport"] == "native"


def test_images(chart):
    digest = "sha256:" + "0" * 64
    assert chart.render().picker["image"] == "epp:0.1.0"
    assert chart.render("image.repository=a/epp", "image.tag=b").picker["image"] == "a/epp:b"
    assert chart.render("image.tag=b", f"image.digest={digest}").picker["image"] == f"epp@{digest}"


@pytest.mark.parametrize(
    "values",
    [
        (),
        ("replicas=2", "metrics.authentication.enabled=true"),
        ("pool.create=false", "pool.targetPorts[0].number=8000,pool.targetPorts[1].number=8001"),
        ("transport=native", "tls.mode=secret", "tls.secretName=mine", "log.verbosity=4", "log.format=text", "drainTimeoutS=0"),
        ("standalone.enabled=true", "watchConfigMap=false"),
    ],
    ids=str,
)
def test_the_picker_knows_every_flag(chart, values):
    """Read by its own parser, which refuses a flag or a value that it does not know."""
    arguments = [one.replace("$(NAMESPACE)", NAMESPACE) for one in chart.render(*values).picker["args"][1:]]
    parser = argparse.ArgumentParser()
    add_serve_flags(parser)
    options = read_serve_flags(parser.parse_args(arguments))
    assert options.ignored == (), "no flag is given in vain"
    assert (options.grpc_port, options.grpc_health_port, options.metrics_port) == (9002, 9003, 9090)
    assert options.pool_namespace == NAMESPACE
