"""The chart in a real Kubernetes, k3s in a container: its pods start, and requests through the sidecar are answered."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from testcontainers.community.k3s import K3SContainer

from tests.chart.rendered import CHART, NAME, RELEASE
from tests.data_plane.rig import eventually
from tests.e2e.test_image import REQUEST
from tests.kube.assets import find

DEADLINE_S = 300
SERVERS = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: servers}
spec:
  replicas: 2
  selector: {matchLabels: {app: vllm}}
  template:
    metadata: {labels: {app: vllm}}
    spec:
      containers:
      - name: server
        image: IMAGE
        imagePullPolicy: Never
        command: [python, -m, epp.testing.model_server, --host, 0.0.0.0, --port, "8000"]
        readinessProbe: {tcpSocket: {port: 8000}, periodSeconds: 1}
"""


class Cluster:
    """k3s, spoken to with kubectl and Helm."""

    def __init__(self, container: K3SContainer, directory: Path) -> None:
        self._assets = find()
        self._kubeconfig = directory / "kubeconfig"
        self._kubeconfig.write_text(container.config_yaml())
        self._directory = directory

    def run(self, program: str, *arguments: str, stdin: str = "") -> str:
        environment = {"KUBECONFIG": str(self._kubeconfig), "HOME": str(self._directory), "PATH": os.environ["PATH"]}
        done = subprocess.run([program, *arguments], input=stdin, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        return self.run(self._assets.kubectl, *arguments, stdin=stdin)

    def helm(self, *arguments: str) -> str:
        return self.run(self._assets.helm, *arguments)


@pytest.fixture(scope="module")
def cluster(image, tmp_path_factory) -> Iterator[Cluster]:
    """A cluster that has the image."""
    directory = tmp_path_factory.mktemp("k3s")
    archive = directory / "image.tar"
    with archive.open("wb") as file:
        for part in docker.from_env().images.get(image).save(named=True):
            file.write(part)
    made = K3SContainer(os.environ["EPP_E2E_K3S"]) if "EPP_E2E_K3S" in os.environ else K3SContainer()
    with made.with_volume_mapping(str(directory), "/images", "ro") as container:
        code, output = container.exec(["ctr", "--namespace", "k8s.io", "images", "import", "/images/image.tar"])
        assert code == 0, output
        yield Cluster(container, directory)


def test_install_ask_change_uninstall(cluster, image):
    cluster.kubectl("apply", "--filename", "-", stdin=SERVERS.replace("IMAGE", image))
    repository, _, tag = image.rpartition(":")
    values = [
        "pool.selector.app=vllm",
        "pool.create=false",
        "standalone.enabled=true",
        "replicas=2",
        "highAvailability=active-active",
    ]
    values += [f"image.repository={repository}", f"image.tag={tag}", "image.pullPolicy=Never", "networkPolicy.enabled=true"]
    given = [f"--set={one}" for one in values]
    cluster.helm("install", RELEASE, str(CHART), *given, "--wait", f"--timeout={DEADLINE_S}s")
    url = f"http://{NAME}/v1/completions"

    def ask() -> str:
        return cluster.kubectl("exec", "deployment/servers", "--", "python", "-c", REQUEST, url, "hello")

    assert ask().startswith("200 ")
    cluster.helm("upgrade", RELEASE, str(CHART), *given, "--set=strategy.load=none")
    logs = ("logs", f"--selector=app.kubernetes.io/instance={RELEASE}", "--container=epp", "--tail=-1")
    eventually(lambda: cluster.kubectl(*logs).count("ConfigApplied") == 2, "both pickers have the new configuration", DEADLINE_S)
    assert ask().startswith("200 ")
    pods = cluster.kubectl("get", "pods", f"--selector=app.kubernetes.io/instance={RELEASE}", "--output=jsonpath={..restartCount}")
    assert set(pods.split()) == {"0"}, "nothing was restarted"
    cluster.kubectl("rollout", "restart", f"deployment/{NAME}")
    while "successfully" not in cluster.kubectl("rollout", "status", f"deployment/{NAME}", "--timeout=1s", "--watch=false"):
        assert ask().startswith("200 "), "no request fails while pods are replaced"
    cluster.helm("uninstall", RELEASE)
