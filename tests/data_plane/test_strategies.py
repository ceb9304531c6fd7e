"""The ready-made strategy files, each in the demo's traffic through a real Envoy: all is answered, and caches are used for it."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from epp.testing.load_client import LoadClient
from epp.testing.stack import MODEL, Fleet, Gateway
from epp.testing.summary import Summary, summarize
from epp.testing.workload import example, paced
from tests.data_plane.rig import RANDOM, eventually

FILES = Path(__file__).parents[2] / "manifests" / "strategies"
SERVERS = 3
REQUESTS = 70
RATE = 35.0
"""Requests per second; the servers run ten times as fast as they say, so this is what 3.5 are to them."""
SERVER_FLAGS = ("--kv-events", "--blocks", "180", "--prompt-scale", "16", "--time-scale", "0.1")

KNOWS = {
    "accurate": "accurate",
    "approximate": "approximate",
    "consistent-hash": "consistent-hash",
    "dynamo": "accurate",
    "llm-d": "approximate",
    "sglang": "approximate",
}
"""Whom most sheets of a file name as the source of what was matched."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("fleet"), SERVERS, SERVER_FLAGS) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def by_chance(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Summary:
    """What the same traffic comes to without any strategy."""
    with running(fleet, RANDOM, tmp_path_factory.mktemp("random")) as gateway:
        return measure(fleet, gateway)


@contextmanager
def running(fleet: Fleet, config: dict[str, Any], directory: Path) -> Iterator[Gateway]:
    """A picker and an Envoy before empty caches, when all that the picker follows is followed."""
    fleet.reset()
    with Gateway(fleet, config, directory) as gateway:
        eventually(gateway.knows_every_cache, "it follows every cache")
        yield gateway


def measure(fleet: Fleet, gateway: Gateway) -> Summary:
    """Send the traffic; every request must go well, and nothing may be left in flight."""
    traffic = paced(example(seed=5, count=REQUESTS), RATE)
    summary = summarize(asyncio.run(LoadClient(gateway.base, MODEL).run(traffic)), len(fleet.servers))
    assert summary.requests > REQUESTS * 0.8
    assert summary.errors == 0
    eventually(lambda: all(one["requests"] == 0 for one in gateway.admin("/pool")["endpoints"]), "nothing in flight")
    return summary


def with_tokenizer(config: dict[str, Any], tokenizer: Path) -> dict[str, Any]:
    """The file with the model's tokenizer named, where its header says that it may be."""
    settings = {"tokenizer": str(tokenizer)}
    if "accurate" in config.get("strategy", {}).get("chain", ()):
        return {**config, "strategy": {**config["strategy"], "tokenizer": settings}}
    if any(one["type"] == "precise-prefix-cache-producer" for one in config.get("plugins", ())):
        return {**config, "plugins": [*config["plugins"], {"type": "token-producer", "parameters": settings}]}
    return config


def test_every_file_is_here():
    assert {file.stem for file in FILES.glob("*.yaml")} == set(KNOWS)


@pytest.mark.parametrize("name", KNOWS)
def test_finds_more_in_the_caches_than_chance(fleet, by_chance, tmp_path, name):
    config = yaml.safe_load((FILES / f"{name}.yaml").read_text())
    with running(fleet, with_tokenizer(config, fleet.tokenizer), tmp_path) as gateway:
        summary = measure(fleet, gateway)
        decisions = gateway.admin("/decisions?limit=200")["decisions"]
    assert summary.cached_ratio > by_chance.cached_ratio
    matched = [one for one in decisions if one["strategy"]["matched_tokens"]]
    assert len(matched) > len(decisions) / 3
    assert Counter(one["strategy"]["name"] for one in matched).most_common(1)[0][0] == KNOWS[name]
