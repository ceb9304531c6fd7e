"""A pool of the older API group, whose objects have another shape; with the rights that the chart gives."""

from tests.data_plane.rig import EXT_PROC, eventually
from tests.kube.rig import until_known

LEGACY = "inference.networking.x-k8s.io"
LEGACY_API = f"{LEGACY}/v1alpha2"


def test_a_pool_of_the_older_group_whose_kind_comes_late_and_goes(control_plane, namespace, pods, rig):
    pod = pods.add()
    target = ["--pool-name", "old", "--pool-group", LEGACY]
    user = namespace.service_account("legacy")
    with rig.picker(namespace, target=target, kubeconfig=user, ready=False) as picker:
        eventually(lambda: picker.health("liveness") == "SERVING", "it is alive")
        control_plane.install("legacy-pools")
        try:
            namespace.create("inferencepools", _pool(pods), api=LEGACY_API)
            picker.wait_until_ready()
            until_known(picker, pod)
            assert picker.metric('epp_endpoints{name="old"}') == 1
        finally:
            control_plane.uninstall("legacy-pools")
        eventually(lambda: picker.health(EXT_PROC) == "NOT_SERVING", "its pool has gone", 60)


def _pool(pods):
    spec = {"selector": pods.labels, "targetPortNumber": pods.ports[0], "extensionRef": {"name": "epp"}}
    return {"apiVersion": LEGACY_API, "kind": "InferencePool", "metadata": {"name": "old"}, "spec": spec}
