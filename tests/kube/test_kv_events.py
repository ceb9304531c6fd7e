"""The accurate strategy on Kubernetes: each engine's events are followed at its pod's address, through restarts too."""

import json

import pytest

from epp.testing.kv_publisher import KvEventOptions
from epp.testing.server_options import ServerOptions
from epp.testing.tokenizer import write_tokenizer
from tests.data_plane.clients import new_id, request
from tests.data_plane.rig import eventually, free_port
from tests.kube.pods import Pods
from tests.kube.rig import until_known

RANKS = 2
EVENTS_PORT, REPLAY_PORT = 5557, 6557


def publishing(ip: str, port: int, rank: int) -> ServerOptions:
    """As vLLM does: each data-parallel rank at the configured port plus its rank."""
    events = KvEventOptions(
        endpoint=f"tcp://{ip}:{EVENTS_PORT + rank}", replay_endpoint=f"tcp://{ip}:{REPLAY_PORT + rank}", rank=rank
    )
    return ServerOptions(host=ip, port=port, kv_events=events)


@pytest.fixture
def engines(namespace, servers):
    """Pods of two data-parallel ranks that publish."""
    ports = [free_port() for _ in range(RANKS)]
    with Pods(namespace, servers, labels={"app": "server"}, ports=ports, engine=publishing) as pods:
        yield pods


def test_what_is_predicted_is_what_the_engines_have(namespace, engines, rig, tmp_path):
    write_tokenizer(tmp_path / "tokenizer")
    where = {"podDiscovery": {"socketPort": EVENTS_PORT, "replaySocketPort": REPLAY_PORT}}
    config = {
        "strategy": {
            "chain": ["accurate", "approximate"],
            "accurate": {"kvEventsConfig": where},
            "tokenizer": {"tokenizer": str(tmp_path / "tokenizer")},
        }
    }
    namespace.pool(labels=engines.labels, ports=engines.ports)
    first, second = engines.add(), engines.add()
    with rig.picker(namespace, config=config) as picker, rig.gateway(picker) as gateway:
        _until_exact(picker, first, second)
        assert _prompts_that_hit(picker, gateway) == 6
        first.restart_container()
        eventually(lambda: _blocks(picker, first) == 0, "the restarted engines hold nothing")
        _until_exact(picker, first, second)
        assert _prompts_that_hit(picker, gateway) == 6
        third = engines.replace(second)
        until_known(picker, first, third)
        _until_exact(picker, first, third)
        assert _prompts_that_hit(picker, gateway) == 6


def _streams(picker) -> list[dict]:
    return next(one["streams"] for one in picker.page("/strategies")["strategies"] if one["name"] == "accurate")


def _until_exact(picker, *pods) -> None:
    """Return when the events of each engine of these pods, and of no others, are followed."""
    wanted = sorted(f"{pod.name}-rank-{rank}" for pod in pods for rank in range(RANKS))

    def followed() -> bool:
        exact = [one["endpoint"].rpartition("/")[2] for one in _streams(picker) if one["standing"] == "exact"]
        return sorted(exact) == wanted == sorted(one["endpoint"].rpartition("/")[2] for one in _streams(picker))

    eventually(followed, f"the events of {wanted} are followed")


def _blocks(picker, pod) -> int:
    return sum(one["blocks"] for one in _streams(picker) if f"/{pod.name}-rank-" in one["endpoint"])


def _prompts_that_hit(picker, gateway) -> int:
    """Send some prompts twice; return how often the second was predicted to the token, by the accurate strategy."""
    right = 0
    for number in range(6):
        content = f"{new_id()} prompt {number} " + "of many words " * 100
        body = json.dumps({"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": content}]}).encode()
        for _ in range(2):
            identity = new_id()
            answer = request(gateway, "POST", "/v1/chat/completions", body, [("x-request-id", identity)])
            assert answer.status == 200, answer.body
            cached = json.loads(answer.body)["usage"]["prompt_tokens_details"]["cached_tokens"]
            eventually(lambda: sum(one["blocks"] for one in _streams(picker)) > 0, "the blocks are reported")
        decided = picker.page(f"/decisions/{identity}")["strategy"]
        right += decided["name"] == "accurate" and round(decided["matched_tokens"]) == cached > 0
    return right
