"""Pods and pickers come and go under traffic: not one wrong pick, not one failed request that a ready pod could have served."""

import signal
import time
from contextlib import ExitStack

from epp.standalone.options import EndpointFile
from tests.data_plane.rig import eventually
from tests.kube.pods import Pod
from tests.kube.rig import EITHER_TRANSPORT, addresses, until_known, write_endpoints
from tests.kube.traffic import Traffic, traffic

GRACE_S = 1.5
"""How long a server goes on after its pod was asked to go. Longer than a picker may take to notice."""
STEP_S = 0.4
REPLACED = 20


def late_s(sent: Traffic, pods: list[Pod]) -> float:
    """How long after its pod was asked to go a server got its last request, at worst."""
    gone = {address: pod.gone_s for pod in pods if pod.gone_s is not None for address in pod.addresses}
    return max((one.sent_s - gone[one.server] for one in sent.answers if one.server in gone), default=0.0)


@EITHER_TRANSPORT
def test_twenty_pods_are_replaced_and_nobody_notices(namespace, pods, rig, record_property):
    namespace.pool(labels=pods.labels, ports=pods.ports)
    for _ in range(4):
        pods.add()
    with ExitStack() as stack:
        picker = stack.enter_context(rig.picker(namespace))
        sent = stack.enter_context(traffic(stack.enter_context(rig.gateway(picker))))
        eventually(lambda: {one.server for one in sent.answers} == addresses(*pods.ever), "all are used")
        leaving: list[Pod] = []
        for _ in range(REPLACED):
            pods.add()
            going = pods.here[0]
            going.terminate()
            leaving.append(going)
            time.sleep(STEP_S)
            leaving = _see_off(leaving)
        while leaving:
            time.sleep(STEP_S)
            leaving = _see_off(leaving)
        until_known(picker, *pods.here)
        sent.wait_for(50)
    assert len(pods.ever) - len(pods.here) == REPLACED
    assert not sent.failed
    assert not sent.wrong(pods.ever)
    assert {one.server for one in sent.answers} == addresses(*pods.ever), "every pod has had its turn"
    record_property("requests", len(sent.answers))
    record_property("latest_pick_s", late_s(sent, pods.ever))


def _see_off(leaving: list[Pod]) -> list[Pod]:
    """Let those go whose time is over; return the others."""
    stay = []
    for pod in leaving:
        if time.monotonic() - pod.gone_s > GRACE_S:
            pod.kill()
            pod.remove()
        else:
            stay.append(pod)
    return stay


def test_pods_that_die_without_a_word_cost_only_what_they_were_answering(namespace, pods, rig, tmp_path):
    """Where the gateway knows the endpoints and the picker names several, the next one takes over before anybody has noticed."""
    namespace.pool(labels=pods.labels, ports=pods.ports)
    here = [pods.add() for _ in range(4)]
    endpoints = tmp_path / "endpoints" / "pool.json"
    write_endpoints(endpoints, here)
    several = {"plugins": [{"type": "random-picker", "parameters": {"maxNumOfEndpoints": 3}}]}
    with ExitStack() as stack:
        picker = stack.enter_context(rig.picker(namespace, config=several))
        gateway = stack.enter_context(rig.gateway(picker, pool=EndpointFile(path=endpoints)))
        sent = stack.enter_context(traffic(gateway))
        sent.wait_for(20)
        for dies in here[:2]:
            before_s = time.monotonic()
            dies.kill()
            died_s = time.monotonic()
            time.sleep(0.5)  # what a kubelet needs to notice
            dies.ready(False)
            sent.wait_for(50)
            until_known(picker, *(pod for pod in here if pod.is_ready))
            lost = [one for one in sent.failed if one.sent_s + one.took_s > before_s]
            assert all(one.sent_s <= died_s for one in lost), "only what it was answering"
        assert len(sent.failed) <= 4


@EITHER_TRANSPORT
def test_of_two_pickers_one_can_be_stopped_and_one_can_be_killed(namespace, pods, rig):
    """Active-active: both know everything by themselves. An orderly stop costs nothing, a crash what was passing through it."""
    namespace.pool(labels=pods.labels, ports=pods.ports)
    here = [pods.add(), pods.add()]
    config = {"strategy": {"chain": ["consistent-hash"]}}
    flags = ["--drain-timeout", "1s"]
    with ExitStack() as stack:
        first, second = (stack.enter_context(rig.picker(namespace, config=config, flags=flags)) for _ in range(2))
        sent = stack.enter_context(traffic(stack.enter_context(rig.gateway(first, second))))
        sent.wait_for(50)
        assert all(picker.metric("llm_d_epp_request_total") > 5 for picker in (first, second)), "both are asked"

        first.child.signal(signal.SIGTERM)
        assert first.child.wait(10) == 0
        sent.wait_for(50)
        assert not sent.failed, "an orderly stop"
        rig.restart(first)
        eventually(lambda: first.metric("llm_d_epp_request_total") > 5, "it is asked again")

        second.kill()
        killed_s = time.monotonic()
        sent.wait_for(100)
        pods.replace(here[0])
        sent.wait_for(20)
        assert all(one.sent_s < killed_s for one in sent.failed), "the other one goes on alone, and follows the pods"
        assert len(sent.failed) <= 3, "no more than was passing through it"
        assert not sent.wrong(pods.ever)
