"""Several pickers, all of them asked: what they agree on, and that they can be replaced one after the other."""

import json
import signal
from collections import Counter
from contextlib import ExitStack

from tests.data_plane.clients import request
from tests.data_plane.rig import EXT_PROC, PickerProcess, eventually
from tests.kube.rig import EITHER_TRANSPORT, addresses, until_known
from tests.kube.traffic import traffic

# By the hash alone: with a load rule, what one picker's scrape saw running may outweigh a share that servers reported as small.
CONSISTENT = {"strategy": {"chain": ["consistent-hash"], "load": "none"}}
DRAIN_S = 2
PROMPTS, TIMES = 24, 4


def served(picker: PickerProcess) -> float:
    return picker.metric("llm_d_epp_request_total")


def ask(gateway, number: int) -> str:
    """Send a prompt of which the first half is nobody else's; return who answered."""
    prompt = f"question {number}. " * 200
    body = json.dumps({"model": "tiny", "prompt": prompt, "max_tokens": 1}).encode()
    answer = request(gateway, "POST", "/v1/completions", body, [("content-type", "application/json")])
    assert answer.status == 200
    return answer.header("x-served-by")


def test_a_prefix_goes_to_the_same_endpoint_whichever_picker_is_asked(namespace, pods, rig):
    namespace.pool(labels=pods.labels, ports=pods.ports)
    for _ in range(4):
        pods.add()
    with ExitStack() as stack:
        pickers = [stack.enter_context(rig.picker(namespace, config=CONSISTENT)) for _ in range(2)]
        for one in pickers:
            until_known(one, *pods.here)
        both = stack.enter_context(rig.gateway(*pickers))
        alone = [stack.enter_context(rig.gateway(one)) for one in pickers]
        homes = {number: {ask(gateway, number) for gateway in alone} for number in range(PROMPTS)}
        assert all(len(home) == 1 for home in homes.values()), homes
        assert set.union(*homes.values()) == addresses(*pods.here), "all endpoints are somebody's home"
        before = [served(one) for one in pickers]
        for _ in range(TIMES):
            for number in range(PROMPTS):
                assert ask(both, number) in homes[number]
        shares = [served(one) - had for one, had in zip(pickers, before, strict=True)]
        assert sum(shares) == PROMPTS * TIMES
        assert min(shares) > 0, "both were asked"


@EITHER_TRANSPORT
def test_pickers_are_replaced_one_by_one_under_traffic(namespace, pods, rig, record_property):
    namespace.pool(labels=pods.labels, ports=pods.ports)
    pods.add(), pods.add()
    flags = (f"--drain-timeout={DRAIN_S}s",)
    with ExitStack() as stack:
        pickers = [stack.enter_context(rig.picker(namespace, config=CONSISTENT, flags=flags)) for _ in range(2)]
        sent = stack.enter_context(traffic(stack.enter_context(rig.gateway(*pickers))))
        sent.wait_for(50)
        for one in pickers:
            one.child.signal(signal.SIGTERM)
            eventually(lambda one=one: one.health(EXT_PROC) == "NOT_SERVING", "it turns requests away")
            assert one.child.wait(10) == 0
            sent.wait_for(25)
            rig.restart(one)
            eventually(lambda one=one: served(one) > 0, "its successor is asked")
    assert not sent.failed, Counter(answer.status for answer in sent.failed)
    record_property("requests", len(sent.answers))
