"""The image as it is run: as nobody, read-only, without a capability; alive, ready, and picking for an Envoy in a container."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import docker
import pytest
import yaml
from docker.models.containers import Container

from tests.chart.rendered import CHART
from tests.data_plane.rig import eventually

DEADLINE_S = 60
LOCKED = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]}
READY = """
import sys, grpc
from epp.pb import health_pb2 as h
with grpc.insecure_channel("127.0.0.1:9003") as channel:
    request, response = h.HealthCheckRequest, h.HealthCheckResponse
    check = channel.unary_unary("/grpc.health.v1.Health/Check", request.SerializeToString, response.FromString)
    print(response.ServingStatus.Name(check(request(service=sys.argv[1]), timeout=2).status))
"""
REQUEST = """
import json, sys, urllib.request as u
body = json.dumps({"model": "tiny", "prompt": sys.argv[2], "max_tokens": 1}).encode()
with u.urlopen(u.Request(sys.argv[1], body, {"content-type": "application/json"}), timeout=10) as answer:
    print(answer.status, answer.headers["x-served-by"])
"""


@contextmanager
def running(image: str, *command: str, **options) -> Iterator[Container]:
    """A container, removed at the end."""
    container = docker.from_env().containers.run(image, list(command), detach=True, **{**LOCKED, **options})
    try:
        yield container
    finally:
        container.remove(force=True)


def python(container: Container, script: str, *arguments: str) -> tuple[int, str]:
    code, output = container.exec_run(["python", "-c", script, *arguments])
    return code, output.decode().strip()


def address(container: Container, network: str) -> str:
    container.reload()
    return container.attrs["NetworkSettings"]["Networks"][network]["IPAddress"]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def network(stack: ExitStack) -> str:
    """A network of containers."""
    made = docker.from_env().networks.create(f"epp-e2e-{time.monotonic_ns()}")
    stack.callback(made.remove)
    return made.name


def picker_flags(servers: list[str]) -> tuple[list[str], str]:
    """Of a picker with these endpoints, and the file that lists them."""
    endpoints = [{"name": f"server-{place}", "address": ip, "port": 8000} for place, ip in enumerate(servers)]
    discovery = {"type": "file-discovery", "parameters": {"path": "/pool/pool.yaml"}}
    config = {"plugins": [discovery], "dataLayer": {"discovery": {"pluginRef": "file-discovery"}}}
    return ["serve", f"--config-text={json.dumps(config)}", "--secure-serving=false"], yaml.safe_dump({"endpoints": endpoints})


def test_it_picks_for_an_envoy_in_a_container(image, stack, network, tmp_path):
    serve = ("-m", "epp.testing.model_server", "--host", "0.0.0.0", "--port", "8000")
    servers = [stack.enter_context(running(image, *serve, entrypoint="python", network=network)) for _ in range(2)]
    places = [address(one, network) for one in servers]
    flags, pool = picker_flags(places)
    (tmp_path / "pool.yaml").write_text(pool)
    tmp_path.chmod(0o755)
    mounts = {str(tmp_path): {"bind": "/pool", "mode": "ro"}}
    picker = stack.enter_context(running(image, *flags, network=network, volumes=mounts))
    eventually(lambda: python(picker, READY, "readiness") == (0, "SERVING"), "it is ready", DEADLINE_S)
    assert python(picker, READY, "liveness") == (0, "SERVING")
    assert picker.exec_run(["id", "-u"])[1].strip() == b"65532"
    assert picker.exec_run(["touch", "/x"])[0] != 0, "nothing can be written"

    values = yaml.safe_load((CHART / "values.yaml").read_text())["standalone"]["image"]
    envoy_image = os.environ.get("EPP_E2E_ENVOY") or f"{values['repository']}:{values['tag']}"
    bootstrap = {str(CHART / "files"): {"bind": "/etc/envoy", "mode": "ro"}}
    arguments = ("--config-path", "/etc/envoy/envoy.json", "--disable-hot-restart")
    stack.enter_context(running(envoy_image, *arguments, network_mode=f"container:{picker.id}", volumes=bootstrap))
    url = "http://127.0.0.1:8080/v1/completions"
    eventually(lambda: python(picker, REQUEST, url, "first")[0] == 0, "Envoy answers", DEADLINE_S)
    answers = {python(picker, REQUEST, url, f"question {number} " * 20) for number in range(20)}
    assert {code for code, _ in answers} == {0}
    assert {text.partition(" ")[0] for _, text in answers} == {"200"}
    assert {text.partition(" ")[2].rpartition(":")[0] for _, text in answers} <= {*places, "0.0.0.0"}


def test_it_drains_when_it_is_told_to_stop(image, stack, tmp_path):
    flags, pool = picker_flags(["127.0.0.1"])
    (tmp_path / "pool.yaml").write_text(pool)
    tmp_path.chmod(0o755)
    mounts = {str(tmp_path): {"bind": "/pool", "mode": "ro"}}
    picker = stack.enter_context(running(image, *flags, "--drain-timeout=1s", volumes=mounts))
    eventually(lambda: python(picker, READY, "readiness") == (0, "SERVING"), "it is ready", DEADLINE_S)
    picker.stop(timeout=20)
    picker.reload()
    assert picker.attrs["State"]["ExitCode"] == 0
    assert b'"draining"' in picker.logs()
