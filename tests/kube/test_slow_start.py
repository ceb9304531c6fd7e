"""A pod that has just come is given its share little by little; who is alone gets everything."""

from tests.data_plane.rig import RANDOM
from tests.kube.rig import until_known
from tests.kube.traffic import traffic

HOUR = {**RANDOM, "slowStart": {"windowMs": 3_600_000, "shareMin": 0.0}}


def test_a_new_pod_is_held_back_unless_nobody_else_is_there(namespace, pods, rig):
    namespace.pool(labels=pods.labels, ports=pods.ports)
    old, other = pods.add(), pods.add()
    with rig.picker(namespace, config=HOUR) as picker, rig.gateway(picker) as gateway, traffic(gateway) as sent:
        sent.wait_for(20)
        new = pods.add()
        until_known(picker, old, other, new)
        before = len(sent.answers)
        sent.wait_for(100)
        served = [one.server for one in sent.answers[before:]]
        assert sum(server in new.addresses for server in served) <= 5, "of a hundred, in the first seconds of an hour"
        old.terminate()
        other.terminate()
        until_known(picker, new)
        before = len(sent.answers)
        sent.wait_for(20)
        assert {one.server for one in sent.answers[before + 5 :]} == new.addresses
    assert not sent.failed
