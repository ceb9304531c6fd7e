"""What the objects say is what is picked, within a second, under traffic and without a failed request."""

import time
from contextlib import ExitStack

import pytest

from epp.kube.reflector import PAGE_OBJECTS
from tests.data_plane.clients import new_id, request
from tests.data_plane.rig import EXT_PROC, RANDOM, eventually, free_port
from tests.kube.pods import Pods
from tests.kube.rig import EITHER_TRANSPORT, addresses, known, until_known
from tests.kube.traffic import LATE_S, traffic

BODY = b'{"model": "tiny", "prompt": "hello", "max_tokens": 1}'
LONG = b'{"model": "tiny", "max_tokens": 1, "prompt": "%s"}' % (b"a long prompt that is sent again " * 100)
ACTIVE, LEGACY_ACTIVE = "llm-d.ai/active-ports", "inference.networking.k8s.io/active-ports"


def post(gateway, body: bytes = BODY, headers=()):
    return request(gateway, "POST", "/v1/completions", body, [("content-type", "application/json"), *headers])


@pytest.fixture
def two_ports(namespace, servers):
    """Pods that serve on two ports."""
    with Pods(namespace, servers, labels={"app": "server"}, ports=[free_port(), free_port()]) as pods:
        yield pods


def test_every_port_of_every_ready_pod_is_an_endpoint(namespace, two_ports, rig):
    first, second = two_ports.ports
    namespace.pool(labels=two_ports.labels, ports=two_ports.ports)
    a, b = two_ports.add(), two_ports.add(ready=False)
    with rig.picker(namespace) as picker:
        assert known(picker) == {f"{a.name}-rank-0": f"{a.ip}:{first}", f"{a.name}-rank-1": f"{a.ip}:{second}"}
        b.ready()
        until_known(picker, a, b)
        two_ports.add(labels={"app": "other"})
        c = two_ports.add()
        until_known(picker, a, b, c)


def test_a_pod_says_which_of_its_ports_are_active(namespace, two_ports, rig):
    first, second = two_ports.ports
    namespace.pool(labels=two_ports.labels, ports=two_ports.ports)
    pod = two_ports.add(annotations={ACTIVE: str(second)})
    with rig.picker(namespace) as picker:
        for text, ports in (
            (f" {first} , {second}", {0, 1}),
            (f"{first}abc,{second}", {1}),
            (f"-{first}", set()),
            ("1", set()),
            ("", set()),
            (str(first), {0}),
        ):
            pod.mark(annotations={ACTIVE: text})
            wanted = {f"{pod.name}-rank-{rank}" for rank in ports}
            eventually(lambda wanted=wanted: set(known(picker)) == wanted, f"{text!r} is {ports}")
        pod.mark(annotations={ACTIVE: None, LEGACY_ACTIVE: str(second)})
        eventually(lambda: set(known(picker)) == {f"{pod.name}-rank-1"}, "the older name of the annotation")
        pod.mark(annotations={LEGACY_ACTIVE: None})
        until_known(picker, pod)


def test_a_pod_that_is_not_ready_is_not_picked_until_it_is_again(namespace, pods, rig):
    namespace.pool(labels=pods.labels, ports=pods.ports)
    flips, stays = pods.add(), pods.add()
    with ExitStack() as stack:
        picker = stack.enter_context(rig.picker(namespace, config=RANDOM))
        sent = stack.enter_context(traffic(stack.enter_context(rig.gateway(picker))))
        for _ in range(2):
            eventually(lambda: {one.server for one in sent.answers[-20:]} == addresses(flips, stays), "both are used")
            flips.ready(False)
            flipped_s = time.monotonic()
            sent.wait_for(60)
            assert {one.server for one in sent.since(flipped_s + LATE_S)} == addresses(stays)
            flips.ready()
        sent.wait_for(20)
    assert not sent.failed


@EITHER_TRANSPORT
def test_a_changed_selector_is_followed_under_traffic(namespace, pods, rig):
    namespace.pool(labels=pods.labels, ports=pods.ports)
    old = [pods.add(), pods.add()]
    new = [pods.add(labels={"app": "other"}), pods.add(labels={"app": "other"})]
    with ExitStack() as stack:
        picker = stack.enter_context(rig.picker(namespace, config=RANDOM))
        sent = stack.enter_context(traffic(stack.enter_context(rig.gateway(picker))))
        sent.wait_for(20)
        for labels, wanted in (({"app": "other"}, new), (pods.labels, old)):
            namespace.change_pool(selector={"matchLabels": labels})
            changed_s = time.monotonic()
            sent.wait_for(100)
            assert {one.server for one in sent.since(changed_s + LATE_S)} == addresses(*wanted)
        new[0].mark(labels=pods.labels)
        until_known(picker, *old, new[0])
        old[0].mark(labels={"app": None})
        until_known(picker, old[1], new[0])
    assert not sent.failed


@EITHER_TRANSPORT
def test_changed_ports_are_followed_under_traffic(namespace, two_ports, rig):
    first, second = two_ports.ports
    namespace.pool(labels=two_ports.labels, ports=[first])
    here = [two_ports.add(), two_ports.add()]
    with ExitStack() as stack:
        picker = stack.enter_context(rig.picker(namespace, config=RANDOM))
        sent = stack.enter_context(traffic(stack.enter_context(rig.gateway(picker))))
        sent.wait_for(20)
        for ports in ([second], [first, second], [first]):
            namespace.change_pool(targetPorts=[{"number": port} for port in ports])
            changed_s = time.monotonic()
            sent.wait_for(100)
            wanted = {f"{pod.ip}:{port}" for pod in here for port in ports}
            assert {one.server for one in sent.since(changed_s + LATE_S)} == wanted
    assert not sent.failed


def test_a_pool_without_pods_is_503_with_the_reason_until_one_is_ready(namespace, pods, rig):
    namespace.pool(labels=pods.labels, ports=pods.ports)
    with rig.picker(namespace) as picker, rig.gateway(picker) as gateway:
        answer = post(gateway)
        assert answer.status == 503
        assert answer.header("x-llm-d-request-dropped-reason") == "rejected-no-endpoints"
        pod = pods.add(ready=False)
        assert post(gateway).status == 503
        pod.ready()
        eventually(lambda: post(gateway).status == 200, "the pod serves")


def test_a_pool_that_comes_late_goes_and_is_made_again(namespace, pods, rig):
    """Without its pool a picker is not ready, and says why; with one it is, whatever was before."""
    first, second = pods.add(), pods.add(labels={"app": "other"})
    with rig.picker(namespace, ready=False) as picker:
        eventually(lambda: "no InferencePool" in _not_ready_for(picker), "it says that there is no pool")
        assert picker.health(EXT_PROC) == "NOT_SERVING"
        assert picker.health("liveness") == "SERVING"
        namespace.pool(labels=pods.labels, ports=pods.ports)
        picker.wait_until_ready()
        until_known(picker, first)
        namespace.delete_pool()
        eventually(lambda: picker.health(EXT_PROC) == "NOT_SERVING", "its pool has gone")
        namespace.pool(labels={"app": "other"}, ports=pods.ports)
        picker.wait_until_ready()
        until_known(picker, second)


def _not_ready_for(picker) -> str:
    """The reasons that the admin port gives."""
    eventually(lambda: picker.health("liveness") == "SERVING", "it has started")
    answer = request(picker, "GET", "/readyz")
    return answer.body.decode() if answer.status == 503 else ""


def test_without_a_pool_object_a_selector_says_which_pods(namespace, pods, rig):
    first, second = pods.add(), pods.add()
    pods.add(labels={"app": "other"})
    target = ["--endpoint-selector", "app=server", "--endpoint-target-ports", str(pods.ports[0])]
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    user = namespace.service_account("selector", rules)
    with rig.picker(namespace, target=target, kubeconfig=user) as picker, rig.gateway(picker) as gateway:
        until_known(picker, first, second)
        assert post(gateway).status == 200
        until_known(picker, first, pods.replace(second, grace_s=0))


def test_a_pod_with_an_ipv6_address(namespace, pods, rig):
    namespace.pool(labels=pods.labels, ports=pods.ports)
    pod = pods.add(ip="::1")
    with rig.picker(namespace) as picker, rig.gateway(picker) as gateway:
        assert known(picker) == {f"{pod.name}-rank-0": f"[::1]:{pods.ports[0]}"}
        assert post(gateway).status == 200


def test_an_address_given_to_another_pod_is_another_engine(namespace, pods, rig):
    """Under another name at the same address; nothing is left of what was believed of the one before."""
    namespace.pool(labels=pods.labels, ports=pods.ports)
    old = pods.add()
    with rig.picker(namespace) as picker, rig.gateway(picker) as gateway:
        assert _matched_tokens(picker, gateway, LONG) == 0
        assert _matched_tokens(picker, gateway, LONG) > 100
        old.kill()
        old.remove()
        new = pods.add(ip=old.ip)
        eventually(lambda: set(known(picker)) == {f"{new.name}-rank-0"}, "only the new one is known", LATE_S)
        assert _matched_tokens(picker, gateway, LONG) == 0
        assert old.name not in request(picker, "GET", "/metrics").body.decode(), "no series speaks of who has gone"


def test_all_of_many_pods_are_known_when_the_picker_is_ready(namespace, pods, rig):
    """More than one page of a list. They do not answer, which must not keep the picker from following them."""
    many = PAGE_OBJECTS + 10
    namespace.pool(labels=pods.labels, ports=pods.ports)
    for _ in range(many):
        pods.add(serving=False)
    began_s = time.monotonic()
    with rig.picker(namespace) as picker:
        took_s = time.monotonic() - began_s
        assert len(known(picker)) == many
        for pod in pods.here[:10]:
            pod.ready(False)
        eventually(lambda: len(known(picker)) == many - 10, "who is not ready is left out", LATE_S)
        assert took_s < 10


def test_a_container_restarted_in_place_is_another_engine(namespace, pods, rig):
    """What was believed to be in its cache is forgotten, and nothing else is."""
    namespace.pool(labels=pods.labels, ports=pods.ports)
    pod = pods.add()
    with rig.picker(namespace) as picker, rig.gateway(picker) as gateway:
        assert _matched_tokens(picker, gateway, LONG) == 0
        assert _matched_tokens(picker, gateway, LONG) > 100
        pod.restart_container()
        eventually(lambda: _believed(picker) == 0, "nothing is believed of the new engine", LATE_S)
        assert _matched_tokens(picker, gateway, LONG) == 0
        pod.mark(labels={"another": "label"})
        other = pods.add()
        until_known(picker, pod, other)
        other.restart_container(before_ready=True)
        other.terminate()
        until_known(picker, pod)
        assert _matched_tokens(picker, gateway, LONG) > 100, "a touch of the pod is no new engine, nor is another's restart"


def _matched_tokens(picker, gateway, body: bytes) -> float:
    """Send it; return how many of its tokens were believed to be in the cache of who got it."""
    identity = new_id()
    assert post(gateway, body, [("x-request-id", identity)]).status == 200
    return picker.page(f"/decisions/{identity}")["strategy"]["matched_tokens"]


def _believed(picker) -> int:
    """How many tokens the strategy believes to be cached anywhere."""
    return picker.page("/strategies")["strategies"][0]["size"]["tokens"]
