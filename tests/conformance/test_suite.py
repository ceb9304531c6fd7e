"""The conformance suite of the Gateway API Inference Extension itself, all of it, with this picker in the place of its own.

It runs as published, against a real API server, real Envoys, and pickers that the arguments in its Deployments start; `cluster.py`
says what stands in for the rest of a cluster.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conformance.cluster import CLASS, SmallCluster
from tests.data_plane.rig import free_port
from tests.kube.control_plane import ControlPlane
from tests.kube.pods import Servers
from tests.transport.tools import bring

MANIFESTS = Path(__file__).parents[2] / "manifests" / "conformance"
SUITE_S, STEP_S = 300.0, 0.3
TESTS = 14
FLAGS = ["-test.v", "-test.run=TestConformance", f"-gateway-class={CLASS}", "-allow-crds-mismatch"]


@pytest.fixture(scope="module")
def program() -> Path:
    """The suite, built."""
    return bring("conformance_suite.sh")


@pytest.fixture
def manifests(control_plane: ControlPlane, tmp_path) -> Path:
    """The suite's base manifests with our picker in them. Gateways listen at a port for which nobody has to be root."""
    directory = tmp_path / "manifests"
    shutil.copytree(MANIFESTS, directory)
    base = directory / "base.yaml"
    base.write_text(yaml.safe_dump_all(control_plane.assets.definitions("conformance")))
    objects = list(yaml.safe_load_all(control_plane.kubectl("kustomize", str(directory))))
    port = free_port()
    for one in objects:
        if one["kind"] == "Gateway":
            one["spec"]["listeners"][0]["port"] = port
    base.write_text(yaml.safe_dump_all(objects))
    return directory


@pytest.fixture
def cluster(control_plane: ControlPlane, tmp_path) -> Iterator[SmallCluster]:
    control_plane.install("gateway-api")
    servers = Servers()
    cluster = SmallCluster(control_plane, servers, tmp_path)
    try:
        yield cluster
    finally:
        cluster.end()
        servers.close()


def test_everything_passes(program, manifests, control_plane, cluster, tmp_path):
    report, log = tmp_path / "report.yaml", tmp_path / "suite.log"
    environment = {**os.environ, "KUBECONFIG": str(control_plane.kubeconfig), "MANIFESTS": str(manifests)}
    cluster.begin()
    with log.open("w") as output:
        suite = subprocess.Popen([program, *FLAGS, f"-report-output={report}"], stdout=output, stderr=output, env=environment)
        try:
            end_s = time.monotonic() + SUITE_S
            while suite.poll() is None and time.monotonic() < end_s:
                cluster.step()
                time.sleep(STEP_S)
        finally:
            suite.kill()
            suite.wait()
    lines = log.read_text().splitlines()
    assert report.exists(), "\n".join(lines[-100:])
    (profile,) = yaml.safe_load(report.read_text())["profiles"]
    failed = [line.strip() for line in lines if "--- FAIL" in line]
    assert profile["core"]["statistics"] == {"Passed": TESTS, "Failed": 0, "Skipped": 0}, (failed, cluster.logs())
