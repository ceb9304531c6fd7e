"""The rig itself does what it says: the proofs that stand on it count on that."""

import http.client
import json
import ssl
import subprocess

import pytest

from tests.data_plane.rig import eventually
from tests.kube.api import Api, Refused
from tests.kube.assets import OBJECTIVES
from tests.kube.link import Link


def _kubectl(control_plane, kubeconfig, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [control_plane.assets.kubectl, "--kubeconfig", str(kubeconfig), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_a_service_account_may_do_what_its_role_says_and_nothing_else(control_plane, namespace):
    kubeconfig = namespace.service_account()
    assert _kubectl(control_plane, kubeconfig, "get", "pods,inferencepools").returncode == 0
    for refused in (("get", "secrets"), ("get", "pods", "--all-namespaces"), ("create", "configmap", "x")):
        assert "forbidden" in _kubectl(control_plane, kubeconfig, *refused).stderr


def test_a_pod_is_an_object_with_a_server_behind_it(namespace, pods):
    pod = pods.add()
    status = json.loads(namespace.kubectl("get", "pod", pod.name, "-o", "json"))["status"]
    assert status["podIP"] == pod.ip
    assert ("Ready", "True") in [(one["type"], one["status"]) for one in status["conditions"]]
    assert _asked(pod) == 200
    pod.restart_container()
    (container,) = namespace.api.get(namespace.path("pods", pod.name))["status"]["containerStatuses"]
    assert container["restartCount"] == 1
    assert container["containerID"] == f"containerd://{pod.name}-1"
    pod.terminate()
    assert namespace.api.get(namespace.path("pods", pod.name))["metadata"]["deletionTimestamp"]
    assert _asked(pod) == 200, "it serves until it is killed"
    pod.kill()
    with pytest.raises(ConnectionRefusedError):
        _asked(pod)
    pod.remove()
    assert namespace.kubectl("get", "pods", "-o", "name") == ""


def _asked(pod) -> int:
    connection = http.client.HTTPConnection(pod.ip, pod.ports[0], timeout=5)
    try:
        connection.request("GET", "/v1/models")
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_link_can_be_cut_frozen_and_mended(control_plane):
    with Link(control_plane.port) as link:
        api = Api(int(link.server.rpartition(":")[2]), control_plane.certificates)
        assert api.answers()
        link.cut()
        assert not api.answers()
        link.mend()
        assert api.answers()
        assert control_plane.api.answers()
        assert link.connections == 3


def test_an_old_watch_expires_after_a_compaction_and_a_restart(control_plane, namespace, pods):
    version = namespace.api.get(namespace.path("pods"))["metadata"]["resourceVersion"]
    pods.add()
    control_plane.compact()
    control_plane.stop_api()
    with pytest.raises((OSError, ssl.SSLError)):
        namespace.api.get("/readyz")
    control_plane.start_api()
    said = namespace.api.get(namespace.path("pods"), watch="true", resourceVersion=version, timeoutSeconds="1")
    assert said["object"]["code"] == 410
    assert len(namespace.api.get(namespace.path("pods"))["items"]) == 1, "etcd has kept what there is"


def test_definitions_come_and_go(control_plane, namespace):
    legacy = "inference.networking.x-k8s.io/v1alpha2"
    with pytest.raises(Refused):
        namespace.objective("early", 1, api=legacy)
    control_plane.install(OBJECTIVES)
    try:
        namespace.objective("late", 1, api=legacy)
    finally:
        control_plane.uninstall(OBJECTIVES)
    namespace.objective("late", 1)
    eventually(lambda: "late" in namespace.kubectl("get", "inferenceobjectives"), "kubectl lists it")
