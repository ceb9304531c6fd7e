"""A leader elected by a Lease of a real API server, by pickers with the rights that the chart gives them."""

import math
import signal
import time
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest

from epp.kube.lease import Timing
from tests.data_plane.clients import request
from tests.data_plane.rig import EXT_PROC, PickerProcess, eventually
from tests.kube.link import Link
from tests.kube.rig import POOL, known, until_known
from tests.kube.traffic import traffic

TIMING = Timing()
ELECT = "--ha-enable-leader-election"
DRAIN_S = 3
FRESH_S = 5.0
LEASES = "coordination.k8s.io/v1"


@pytest.fixture
def picker(namespace, rig, control_plane):
    """Starts a picker that takes part, as the pod of that name; it may be cut off when it comes by a link."""
    values = ("replicas=2", "highAvailability=leader", f"pool.name={POOL}")

    @contextmanager
    def start(name: str, *, link: Link | None = None, drain_s: float = 0):
        rules = control_plane.chart_rules("role", *values, namespace=namespace.name)
        user = namespace.service_account(name, rules, server=link.server if link is not None else "")
        flags = (ELECT, f"--drain-timeout={drain_s}s")
        with rig.picker(namespace, kubeconfig=user, flags=flags, environment={"POD_NAME": name}, ready=False) as started:
            until_alive(started)
            yield started

    return start


def until_alive(picker: PickerProcess) -> None:
    eventually(lambda: picker.health("liveness") == "SERVING", "it is alive")


def is_ready(picker: PickerProcess) -> bool:
    return picker.health(EXT_PROC) == "SERVING"


def why_not(picker: PickerProcess) -> str:
    return request(picker, "GET", "/readyz").body.decode()


def lease_of(namespace) -> dict:
    name = f"epp-{namespace.name}-{POOL}.llm-d.ai"
    return namespace.api.get(namespace.path("leases", name, api=LEASES))["spec"]


def scraped_age_s(picker) -> float:
    """How old the one endpoint's metrics are; without end where none have come yet."""
    (row,) = picker.page("/pool")["endpoints"]
    return math.inf if row["scraped_age_s"] is None else row["scraped_age_s"]


def test_one_of_two_is_ready_and_the_other_is_warm(namespace, pods, rig, picker):
    namespace.pool(labels=pods.labels, ports=pods.ports)
    pod = pods.add()
    with picker("picker-a") as first:
        first.wait_until_ready()
        with picker("picker-b") as second:
            until_known(second, pod)
            eventually(lambda: "picker-a_" in why_not(second), "it says who leads")
            assert second.health(EXT_PROC) == second.health("") == second.health("readiness") == "NOT_SERVING"
            assert first.health("liveness") == second.health("liveness") == "SERVING"
            assert second.health("inference-extension") == "NOT_FOUND"
            assert (first.metric("epp_leader"), second.metric("epp_leader")) == (1, 0)
            assert (first.metric("epp_leader_changes_total"), second.metric("epp_leader_changes_total")) == (1, 0)
            eventually(lambda: scraped_age_s(second) < FRESH_S, "its load is known to the one that waits")
    lease = lease_of(namespace)
    assert (lease["leaseDurationSeconds"], lease["holderIdentity"]) == (1, ""), "given up"


def test_a_leader_that_stops_hands_over_and_no_request_fails(namespace, pods, rig, picker, record_property):
    namespace.pool(labels=pods.labels, ports=pods.ports)
    pods.add(), pods.add()
    with ExitStack() as stack:
        first = stack.enter_context(picker("picker-a", drain_s=DRAIN_S))
        first.wait_until_ready()
        second = stack.enter_context(picker("picker-b"))
        until_known(second, *pods.here)
        sent = stack.enter_context(traffic(stack.enter_context(rig.gateway(first, second))))
        sent.wait_for(50)
        assert not is_ready(second)
        first.child.signal(signal.SIGTERM)
        told_s = time.monotonic()
        eventually(lambda: is_ready(second), "the other leads at once, by the watch", TIMING.retry_s)
        record_property("handover_s", round(time.monotonic() - told_s, 3))
        eventually(lambda: first.health(EXT_PROC) == "NOT_SERVING", "the first turns requests away")
        assert first.child.wait(10) == 0
        sent.wait_for(50)
        lease = lease_of(namespace)
        assert lease["holderIdentity"].startswith("picker-b_")
        assert lease["leaseTransitions"] == 1
        assert second.metric("llm_d_epp_request_total") > 0
    assert not sent.failed
    record_property("requests", len(sent.answers))


def test_a_leader_that_is_cut_off_steps_down_before_another_takes_over(control_plane, namespace, pods, rig, picker):
    namespace.pool(labels=pods.labels, ports=pods.ports)
    pod = pods.add()
    with ExitStack() as stack:
        link = stack.enter_context(Link(control_plane.port))
        first = stack.enter_context(picker("picker-a", link=link))
        first.wait_until_ready()
        second = stack.enter_context(picker("picker-b"))
        until_known(second, pod)
        link.freeze()
        both = partial(eventually, timeout_s=TIMING.duration_s + 3 * TIMING.retry_s)
        both(lambda: _one_at_most(first, second) and not is_ready(first), "the first steps down")
        assert "cannot be had" in why_not(first)
        assert known(first), "it forgets nothing"
        both(lambda: _one_at_most(first, second) and is_ready(second), "the second takes over")
        link.mend()
        eventually(lambda: "picker-b_" in why_not(first), "the first learns who leads", 20)
        assert first.metric("epp_leader_changes_total") == 2
        assert lease_of(namespace)["leaseTransitions"] == 1


def _one_at_most(first: PickerProcess, second: PickerProcess) -> bool:
    """Fails when both are ready. The second is asked last: one that has just stepped down is not counted with its successor."""
    assert not (is_ready(first) and is_ready(second))
    return True


def test_without_the_right_to_the_lease_nobody_is_ready_and_it_is_said_why(namespace, pods, rig):
    namespace.pool(labels=pods.labels, ports=pods.ports)
    pod = pods.add()
    with rig.picker(namespace, flags=(ELECT,), ready=False) as alone:
        until_alive(alone)
        until_known(alone, pod)
        eventually(lambda: "cannot be had (Forbidden)" in why_not(alone), "it says what is missing")
        assert not is_ready(alone)
        assert alone.metric("epp_leader_errors_total") >= 1
