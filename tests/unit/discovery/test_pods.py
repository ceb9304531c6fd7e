"""Which endpoints a pod makes."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.discovery.pods import PodEndpoints, active_ports, pod_endpoints
from epp.kube.objects import InferencePool, LegacyInferencePool, Pod
from epp.model.endpoint import Endpoint

READY = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}]


def pod(name="vllm-0", *, ip="10.0.0.7", conditions=READY, containers=(("vllm", "containerd://1", 0),), **metadata):
    """A pod as the API server has it, with more in it than is used."""
    return msgspec.json.decode(
        msgspec.json.encode(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": "ns", "uid": f"uid-{name}", "resourceVersion": "7", **metadata},
                "spec": {"containers": [{"name": "vllm", "ports": [{"containerPort": 8000}]}]},
                "status": {
                    "phase": "Running",
                    "podIP": ip,
                    "podIPs": [{"ip": ip}],
                    "conditions": conditions,
                    "containerStatuses": [
                        {"name": name, "containerID": container_id, "restartCount": count, "ready": True}
                        for name, container_id, count in containers
                    ],
                },
            }
        ),
        type=Pod,
    )


def ranks(one, ports=(8000, 8001)):
    return [endpoint.rank for endpoint in pod_endpoints(one, ports)]


def test_an_endpoint_for_each_port():
    labels = {"app": "vllm", "llm-d.ai/role": "prefill"}
    first, second = pod_endpoints(pod(labels=labels), (8000, 8001))
    life = "uid-vllm-0 vllm=containerd://1#0"
    assert first == Endpoint(name="ns/vllm-0-rank-0", address="10.0.0.7", port=8000, labels=labels, generation=life, rank=0)
    assert second == Endpoint(name="ns/vllm-0-rank-1", address="10.0.0.7", port=8001, labels=labels, generation=life, rank=1)


def test_ipv6_in_its_one_spelling():
    (endpoint,) = pod_endpoints(pod(ip="FD00:0::7"), (8000,))
    assert endpoint.authority == "[fd00::7]:8000"


@pytest.mark.parametrize(
    "changes",
    [
        {"conditions": []},
        {"conditions": [{"type": "Ready", "status": "False"}]},
        {"conditions": [{"type": "Ready", "status": "Unknown"}]},
        {"conditions": [{"type": "ContainersReady", "status": "True"}]},
        {"deletionTimestamp": "2026-01-01T00:00:00Z"},
        {"ip": ""},
        {"ip": "not-an-address"},
    ],
)
def test_a_pod_that_must_not_be_sent_to_makes_none(changes):
    assert pod_endpoints(pod(**changes), (8000,)) == ()


def test_a_pod_that_has_just_been_made_makes_none():
    new = msgspec.json.decode(b'{"metadata": {"name": "a", "namespace": "ns"}, "status": {"phase": "Pending"}}', type=Pod)
    assert pod_endpoints(new, (8000,)) == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8000,8001", [0, 1]),
        ("8001", [1]),
        (" 8001 , 8000 ", [0, 1]),
        ("8001,9999", [1]),
        ("8001,,", [1]),
        ("8000abc,8001", [1]),
        ("8000abc", []),
        ("-8000", []),
        ("+8000", []),
        ("8_000", []),
        ("٨٠٠٠", []),
        ("08000", [0]),
        ("80008000", []),
        ("", []),
        (" ", []),
    ],
)
@pytest.mark.parametrize("name", ["llm-d.ai/active-ports", "inference.networking.k8s.io/active-ports"])
def test_active_ports_are_read_strictly(name, text, expected):
    assert ranks(pod(annotations={name: text})) == expected


def test_the_newer_name_of_the_annotation_counts():
    both = pod(annotations={"llm-d.ai/active-ports": "8000", "inference.networking.k8s.io/active-ports": "8001"})
    assert active_ports(both) == {8000}


@pytest.mark.parametrize(
    "other",
    [
        pod(uid="another"),
        pod(containers=[("vllm", "containerd://2", 1)]),
        pod(containers=[("vllm", "containerd://1", 1)]),
        pod(containers=[("vllm", "containerd://1", 0), ("sidecar", "containerd://3", 0)]),
    ],
)
def test_another_life_is_another_generation(other):
    assert pod_endpoints(other, (8000,))[0].generation != pod_endpoints(pod(), (8000,))[0].generation


def test_the_order_of_containers_is_no_other_life():
    one, other = ("a", "x", 0), ("b", "y", 0)
    assert pod_endpoints(pod(containers=[one, other]), (1,)) == pod_endpoints(pod(containers=[other, one]), (1,))


def test_an_annotation_of_others_is_not_even_read():
    assert pod(annotations={"x": "1"}) == pod(annotations={"x": "2"})
    assert pod(resourceVersion="8", managedFields=[{"x": 1}]) == pod()


def test_of_two_pods_at_one_address_the_younger_counts():
    old = pod("z-old", creationTimestamp="2026-01-01T00:00:00Z")
    new = pod("a-new", creationTimestamp="2026-01-02T00:00:00Z")
    for pods in ([old, new], [new, old]):
        assert [one.name for one in PodEndpoints().of(pods, (8000,))] == ["ns/a-new-rank-0"]


def test_pools_of_both_groups():
    ports = [{"number": 1}, {"number": 2}]
    new = {"selector": {"matchLabels": {"a": "b"}}, "targetPorts": ports, "appProtocol": "kubernetes.io/h2c"}
    pool = msgspec.convert({"spec": new}, InferencePool)
    assert (pool.selector, pool.ports, pool.app_protocol) == ({"a": "b"}, (1, 2), "kubernetes.io/h2c")
    old = {"spec": {"selector": {"a": "b"}, "targetPortNumber": 1, "extensionRef": {"name": "epp"}}}
    legacy = msgspec.convert(old, LegacyInferencePool)
    assert (legacy.selector, legacy.ports, legacy.app_protocol) == ({"a": "b"}, (1,), "http")


def test_the_endpoints_of_an_unchanged_pod_are_the_same_objects():
    made, one, other = PodEndpoints(), pod("a"), pod("b", ip="10.0.0.8")
    before = made.of([one, other], (8000,))
    after = made.of([one, pod("b", ip="10.0.0.9")], (8000,))
    assert after[0] is before[0]
    assert after[1].address == "10.0.0.9"
    assert made.of([one], (8001,))[0].port == 8001


names = st.sampled_from(["a", "b", "c", "a-rank-0"])
pods = st.builds(
    pod,
    names,
    ip=st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1", "::ffff:10.0.0.1", "", "x"]),
    conditions=st.sampled_from([READY, []]),
    containers=st.lists(st.tuples(st.just("vllm"), st.sampled_from("xy"), st.integers(0, 1)), max_size=1),
    creationTimestamp=st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]),
    annotations=st.sampled_from([{}, {"llm-d.ai/active-ports": "8001"}, {"llm-d.ai/active-ports": "no"}]),
)
ports = st.sampled_from([(8000,), (8000, 8001), (8001, 8000)])


@given(st.lists(st.tuples(st.lists(pods, max_size=5, unique_by=lambda one: one.metadata.name), ports), max_size=6))
def test_what_is_remembered_makes_no_difference(steps):
    """After any history the endpoints are those of a fresh start, each name and each address once, and of the pods' own."""
    made = PodEndpoints()
    for listed, wanted in steps:
        found = made.of(listed, wanted)
        assert found == PodEndpoints().of(reversed(listed), wanted)
        assert len({one.name for one in found}) == len({one.authority for one in found}) == len(found)
        alone = {endpoint for one in listed for endpoint in _hashable(pod_endpoints(one, wanted))}
        assert set(_hashable(found)) <= alone
        assert {one.authority for one in found} == {authority for _, authority, _ in alone}


def _hashable(endpoints):
    return [(one.name, one.authority, one.generation) for one in endpoints]
