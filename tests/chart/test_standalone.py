"""Standalone mode: the chart's own Envoy beside the picker, as it would run in the pod."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from epp.standalone.launcher import envoy_binary, fetch
from epp.standalone.process import Child
from tests.chart.installed import Release, ask
from tests.chart.rendered import CHART, NAME, RELEASE
from tests.data_plane.clients import request
from tests.data_plane.rig import eventually, free_port

ALONE = ("standalone.enabled=true", "pool.create=false")
READY_S = 15
LISTENER, ADMIN, PICKER = 8080, 9901, 9002
"""Ports in the pod, which the test puts others in the place of."""


class Envoy:
    """The sidecar, as a process."""

    host = "127.0.0.1"

    def __init__(self, rendered, directory: Path, picker_port: int) -> None:
        self.port, self.admin_port = free_port(), free_port()
        config = directory / "envoy.json"
        config.write_text(self.with_ports(rendered.named("ConfigMap", f"{NAME}-envoy")["data"]["envoy.json"], picker_port))
        (container,) = rendered.pod["initContainers"]
        arguments = [one.replace("/etc/envoy/envoy.json", str(config)) for one in container["args"]]
        self.child = Child("envoy", [str(envoy_binary()), *arguments])

    def with_ports(self, text: str, picker_port: int) -> str:
        for before, after in ((LISTENER, self.port), (ADMIN, self.admin_port), (PICKER, picker_port)):
            assert text.count(str(before)) == 1, f"port {before} is in one place"
            text = text.replace(str(before), str(after))
        return text

    def ready(self) -> bool:
        return fetch(self.host, self.admin_port, "/ready")[0] == 200


@pytest.fixture
def standalone(chart, namespace, pods, tmp_path, rig):
    """A release with its picker and its Envoy: (picker, envoy, rendered)."""
    pods.add(), pods.add()
    values = (*ALONE, f"pool.selector.app={pods.labels['app']}", f"pool.targetPorts[0].number={pods.ports[0]}")
    release = Release(namespace, tmp_path, *values)
    rendered = chart.render(*values)

    @contextmanager
    def running(*flags: str) -> Iterator:
        with release.picker(rig, flags=flags) as picker:
            envoy = Envoy(rendered, tmp_path, picker.grpc_port)
            rig.children.append(envoy.child)
            try:
                envoy.child.wait_until(envoy.ready, READY_S, "it is ready")
                yield picker, envoy, rendered
            finally:
                envoy.child.stop()

    return running


def test_objects_of_standalone_mode(chart):
    rendered = chart.render(*ALONE, "standalone.port=8000", "service.type=LoadBalancer")
    service = rendered.one("Service")["spec"]
    assert service["type"] == "LoadBalancer"
    assert [(port["name"], port["port"], port["targetPort"]) for port in service["ports"]] == [
        ("http", 8000, "http"),
        ("http-metrics", 9090, "http-metrics"),
    ]
    (envoy,) = rendered.pod["initContainers"]
    assert envoy["restartPolicy"] == "Always", "a sidecar: it ends after the picker, so that open requests end through it"
    assert envoy["image"] == "envoyproxy/envoy:distroless-v1.40.0"
    assert rendered.flags["secure-serving"] == "false", "what never leaves the pod is not encrypted"
    assert all("InferencePool" not in kind for kind in rendered.kinds)
    with_pool = chart.render("standalone.enabled=true")
    assert "endpointPickerRef" not in with_pool.one("InferencePool")["spec"]
    assert with_pool.flags["pool-name"] == RELEASE


def test_a_changed_bootstrap_restarts_the_pod(chart):
    def checksum(*values):
        return chart.render(*ALONE, *values).one("Deployment")["spec"]["template"]["metadata"]["annotations"]["checksum/envoy"]

    assert checksum() == checksum("strategy.load=none"), "a changed configuration does not"
    assert checksum() != checksum("standalone.listenAddress=::")


@pytest.mark.parametrize("values", [(), ("standalone.listenAddress=::",), ("pool.appProtocol=kubernetes.io/h2c",)], ids=str)
def test_envoy_accepts_the_bootstrap(chart, tmp_path, values):
    bootstrap = tmp_path / "envoy.json"
    bootstrap.write_text(chart.render(*ALONE, *values).named("ConfigMap", f"{NAME}-envoy")["data"]["envoy.json"])
    done = subprocess.run(
        [str(envoy_binary()), "--mode", "validate", "--config-path", str(bootstrap)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    pool = json.loads(bootstrap.read_text())["staticResources"]["clusters"][1]
    (protocol,) = pool["typedExtensionProtocolOptions"].values()
    h2c = "pool.appProtocol=kubernetes.io/h2c" in values
    assert list(protocol["explicitHttpConfig"]) == ["http2ProtocolOptions" if h2c else "httpProtocolOptions"]


def test_the_bootstrap_is_the_one_that_epp_standalone_builds():
    text = (CHART / "files" / "envoy.json").read_text()
    assert json.loads(text)["staticResources"]["clusters"][0]["healthChecks"][0]["grpcHealthCheck"] == {"serviceName": "liveness"}


def test_a_request_goes_where_the_picker_says(standalone, pods):
    with standalone() as (picker, envoy, _):
        served = {ask(envoy).header("x-served-by") for _ in range(20)}
        assert served <= {address for pod in pods.here for address in pod.addresses}
        forged = [("content-type", "application/json"), ("x-gateway-destination-endpoint", "127.0.0.1:1")]
        body = b'{"model": "tiny", "prompt": "hi", "max_tokens": 1}'
        assert request(envoy, "POST", "/v1/completions", body, forged).status == 200, "a client's own choice is not heeded"
        assert picker.metric("llm_d_epp_request_total") == 21


def test_no_request_is_lost_while_the_pod_ends(standalone):
    """The hook has clients close their connections; the picker answers until it has drained, and Envoy asks it until then."""
    with standalone("--drain-timeout", "2s") as (picker, envoy, rendered):
        assert ask(envoy).header("connection") is None
        command = rendered.picker["lifecycle"]["preStop"]["exec"]["command"]
        assert command[:2] == ["python", "-c"]
        subprocess.run([sys.executable, "-c", command[2].replace(str(ADMIN), str(envoy.admin_port))], check=True)
        answer = ask(envoy)
        assert (answer.status, answer.header("connection")) == (200, "close")
        picker.child.signal(15)
        eventually(lambda: "draining" in picker.child.tail(), "it drains")
        statuses = []
        while picker.health("readiness") == "NOT_SERVING":
            statuses.append(ask(envoy).status)
        assert len(statuses) > 10
        assert set(statuses[:-1]) == {200}, "the last one may have met the end"
