"""The API server dies, forgets, comes back: requests are served as if nothing had happened, and what is amiss is said."""

import time
from contextlib import ExitStack

from tests.data_plane.clients import request
from tests.data_plane.rig import EXT_PROC, eventually
from tests.kube.link import Link
from tests.kube.rig import addresses, known, until_known
from tests.kube.traffic import LATE_S, traffic

AWAY_S = 4.0
BACK_S = 8.0
"""How long a picker may take at most to have caught up with a server that is back: three seconds, and what a busy machine needs."""


def readiness(picker) -> str:
    return request(picker, "GET", "/readyz").body.decode()


def test_an_api_server_killed_and_started_again(control_plane, namespace, pods, rig):
    namespace.pool(labels=pods.labels, ports=pods.ports)
    here = [pods.add(), pods.add()]
    with ExitStack() as stack:
        picker = stack.enter_context(rig.picker(namespace))
        sent = stack.enter_context(traffic(stack.enter_context(rig.gateway(picker))))
        sent.wait_for(50)
        before = {row["name"]: row["slot"] for row in picker.page("/pool")["endpoints"]}
        remembered = picker.page("/strategies")["strategies"][0]["size"]["tokens"]
        control_plane.stop_api()
        eventually(lambda: picker.metric("epp_kube_failing") >= 2, "a metric says that it is away, of pods and pool")
        away_s = time.monotonic()
        sent.wait_for(round(AWAY_S * 50))
        assert picker.health(EXT_PROC) == "SERVING"
        assert "API server" in readiness(picker), "health says that it is away"
        assert picker.metric("epp_kube_last_contact_age_seconds") >= 2 * (time.monotonic() - away_s)
        control_plane.start_api()
        third = pods.add()
        eventually(lambda: set(known(picker).values()) == addresses(*here, third), "it is followed again", BACK_S)
        after = {row["name"]: row["slot"] for row in picker.page("/pool")["endpoints"]}
        assert before.items() <= after.items(), "who did not change is still the same"
        assert picker.page("/strategies")["strategies"][0]["size"]["tokens"] >= remembered, "nothing was forgotten"
        eventually(lambda: picker.metric("epp_kube_failing") == 0, "the metric says that it is there", BACK_S)
        assert "API server" not in readiness(picker)
        pods.replace(here[0])
        sent.wait_for(50)
    assert not sent.failed
    assert not sent.wrong(pods.ever)


def test_a_watch_that_has_expired_is_made_up_for(control_plane, namespace, pods, rig):
    namespace.pool(labels=pods.labels, ports=pods.ports)
    stays, goes = pods.add(), pods.add()
    with ExitStack() as stack:
        link = stack.enter_context(Link(control_plane.port))
        picker = stack.enter_context(rig.picker(namespace, kubeconfig=namespace.service_account(server=link.server)))
        sent = stack.enter_context(traffic(stack.enter_context(rig.gateway(picker))))
        link.cut()
        comes = pods.add()
        goes.ready(False)
        namespace.change_pool(targetPorts=[{"number": pods.ports[0]}])
        control_plane.stop_api()
        control_plane.start_api()
        control_plane.compact()
        link.mend()
        eventually(lambda: set(known(picker).values()) == addresses(stays, comes), "what happened meanwhile", BACK_S)
        mended_s = time.monotonic()
        sent.wait_for(100)
        assert {one.server for one in sent.since(mended_s + LATE_S)} <= addresses(stays, comes)
    assert not sent.failed


def test_a_pod_that_dies_while_the_api_server_is_away_is_found_out_by_its_silence(control_plane, namespace, pods, rig):
    """Nobody says that it is gone. What was given to it fails; the rest goes to the others, and no request is spent on a try."""
    namespace.pool(labels=pods.labels, ports=pods.ports)
    dies, *_ = pods.add(), pods.add(), pods.add()
    with ExitStack() as stack:
        link = stack.enter_context(Link(control_plane.port))
        picker = stack.enter_context(rig.picker(namespace, kubeconfig=namespace.service_account(server=link.server)))
        sent = stack.enter_context(traffic(stack.enter_context(rig.gateway(picker))))
        eventually(lambda: len({one.server for one in sent.answers}) == 3, "all are used")
        link.cut()
        dies.kill()
        died_s = time.monotonic()
        sent.wait_for(250)
    assert sent.failed, "it was in use"
    assert all(one.sent_s < died_s + 0.5 for one in sent.failed)


def test_a_picker_started_while_the_api_server_is_away(control_plane, namespace, pods, rig):
    namespace.pool(labels=pods.labels, ports=pods.ports)
    pod = pods.add()
    with Link(control_plane.port) as link:
        user = namespace.service_account(server=link.server)
        link.cut()
        with rig.picker(namespace, kubeconfig=user, ready=False) as picker:
            eventually(lambda: picker.health("liveness") == "SERVING", "it is alive")
            eventually(lambda: "API server" in readiness(picker), "it says why it is not ready")
            assert picker.health(EXT_PROC) == "NOT_SERVING"
            link.mend()
            picker.wait_until_ready()
            until_known(picker, pod)


def test_a_picker_without_rights_says_which_and_is_ready_when_it_has_them(namespace, pods, rig):
    namespace.pool(labels=pods.labels, ports=pods.ports)
    pod = pods.add()
    pools = {"apiGroups": ["inference.networking.k8s.io"], "resources": ["inferencepools"], "verbs": ["get", "list", "watch"]}
    with rig.picker(namespace, kubeconfig=namespace.service_account(rules=[pools]), ready=False) as picker:
        eventually(lambda: picker.health("liveness") == "SERVING", "it is alive")
        eventually(lambda: "(Forbidden): pods are not known" in readiness(picker), "it says what it may not")
        namespace.grant("late", [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}], to="picker")
        picker.wait_until_ready()
        until_known(picker, pod)
