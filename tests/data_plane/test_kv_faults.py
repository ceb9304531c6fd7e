"""Events of a model server that are lost, swapped, or those of another life: the picker knows soon, and says so until it does."""

import http.client
import json
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
import yaml

from epp.prefix.kv_sources import REPLAY_PORT_LABEL
from epp.standalone import launcher
from epp.testing.stack import MODEL, Fleet, Gateway
from tests.data_plane.rig import eventually

RIGHT_AGAIN_S = 5.0
"""From the next event after a fault to an exact index: a replay at once, or, if it fails, after 0.1 s, 0.2 s, ..."""
SERVER_FLAGS = ("--kv-events", "--time-scale", "0.05")
PROMPTS = count()


class Stack(Gateway):
    """One model server behind the accurate strategy alone, with what a test asks of either."""

    def __init__(self, fleet: Fleet, directory) -> None:
        settings = {"tokenizer": str(fleet.tokenizer)}
        super().__init__(fleet, {"strategy": {"chain": ["accurate", "approximate"], "tokenizer": settings}}, directory)
        self.server = fleet.servers[0]

    def chat(self, text: str) -> dict[str, Any]:
        """Send a prompt; return the decision with its outcome."""
        body = {"model": MODEL, "max_tokens": 2, "messages": [{"role": "user", "content": text}]}
        post(self.envoy.host, self.envoy.port, "/v1/chat/completions", body)
        return eventually(self._settled, "the outcome is kept")

    def _settled(self) -> dict[str, Any] | None:
        latest = self.admin("/decisions?limit=1")["decisions"][0]
        return latest if latest["outcome"] else None

    def fault(self, **order: object) -> None:
        post("127.0.0.1", self.server.port, "/fault", order)

    def stream(self) -> dict[str, Any]:
        """What the picker says of the server's events."""
        return self.strategy()["streams"][0]

    def strategy(self) -> dict[str, Any]:
        return next(one for one in self.admin("/strategies")["strategies"] if one["name"] == "accurate")

    def standing_metric(self) -> str:
        """The standing that Prometheus is told."""
        lines = launcher.fetch("127.0.0.1", self.admin_port, "/metrics")[1].splitlines()
        (line,) = [line for line in lines if line.startswith("epp_kv_standing{") and line.endswith(" 1.0")]
        return line.partition('standing="')[2].partition('"')[0]

    def is_right(self, text: str) -> bool:
        """Whether what is predicted of a prompt is what the server then says, and the accurate strategy says it."""
        seen = self.chat(text)
        return (
            seen["strategy"]["name"] == "accurate" and round(seen["strategy"]["matched_tokens"]) == seen["outcome"]["cached_tokens"]
        )


def post(host: str, port: int, path: str, body: object) -> None:
    connection = http.client.HTTPConnection(host, port, timeout=10)
    connection.request("POST", path, json.dumps(body))
    answer = connection.getresponse()
    assert answer.status == http.client.OK, answer.read()
    answer.read()
    connection.close()


def prompt() -> str:
    """A prompt of some hundred tokens that was never sent before."""
    return f"prompt {next(PROMPTS)} of its own" + " river stone" * 100


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("fleet"), 1, SERVER_FLAGS) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def stack(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(fleet, tmp_path_factory.mktemp("picker")) as stack:
        eventually(stack.knows_every_cache, "it follows the events")
        yield stack


FAULTS: dict[str, tuple[Callable[[Stack], None], str]] = {
    "lost": (lambda stack: stack.fault(drop_event_batches=2), "gaps"),
    "swapped": (lambda stack: stack.fault(swap_event_batches=1), "gaps"),
    "restarted": (lambda stack: stack.fault(restart=True), "restarts"),
    "cleared": (lambda stack: post("127.0.0.1", stack.server.port, "/reset_prefix_cache", {}), "cleared"),
}


@pytest.mark.parametrize(("fault", "counted"), FAULTS.values(), ids=list(FAULTS))
def test_with_replay_it_is_right_again_soon(stack, fault, counted):
    kept = prompt()
    stack.chat(kept)
    eventually(lambda: stack.is_right(kept), "it is right before")
    before = stack.stream()["counts"][counted]
    fault(stack)
    for _ in range(4):
        stack.chat(prompt())
    eventually(lambda: stack.is_right(kept), "it is right again", RIGHT_AGAIN_S)
    eventually(lambda: stack.stream()["standing"] == stack.standing_metric() == "exact", "and says so", RIGHT_AGAIN_S)
    assert stack.stream()["counts"][counted] > before


def test_without_replay_it_says_that_it_does_not_know_everything(fleet, tmp_path):
    pool = yaml.safe_load(fleet.pool_file.read_text())
    del pool["endpoints"][0]["labels"][REPLAY_PORT_LABEL]
    with_replay = fleet.pool_file.read_text()
    fleet.pool_file.write_text(yaml.safe_dump(pool))
    try:
        with Stack(fleet, tmp_path) as stack:
            sent = prompt()
            stack.chat(sent)
            eventually(lambda: stack.stream()["standing"] == stack.standing_metric() == "degraded", "it began in the middle")
            assert stack.strategy()["health"]["condition"] != "healthy"
            instead = stack.chat(sent)["strategy"]
            assert instead["name"] == "approximate"
            assert instead["passed_over"][0].startswith("accurate: ")
            post("127.0.0.1", stack.server.port, "/reset_prefix_cache", {})
            kept = prompt()
            eventually(lambda: stack.is_right(kept), "an empty cache is known", RIGHT_AGAIN_S)
            assert stack.stream()["standing"] == stack.standing_metric() == "exact"
    finally:
        fleet.pool_file.write_text(with_replay)
