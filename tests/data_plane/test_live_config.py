"""Configurations that change under traffic, through a real Envoy: nothing fails, nothing is lost, the new one is at work at once.

The file is swapped as a kubelet does it: a link to another directory.
"""

import asyncio
import http.client
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from epp.cli import main
from epp.config import load
from epp.scheduling.build import build
from epp.scheduling.registry import Registry
from epp.testing.load_client import LoadClient, Result
from epp.testing.stack import HOST, MODEL, Fleet, Gateway, with_pool
from epp.testing.workload import groups, paced
from tests.data_plane.rig import Lab, eventually

FILES = Path(__file__).parents[2] / "manifests" / "strategies"
NAMES = ("approximate", "consistent-hash", "llm-d", "accurate", "sglang", "dynamo")
RATE = 50.0
SERVER_FLAGS = ("--kv-events", "--blocks", "300", "--time-scale", "0.02")
"""Caches of some nine documents each; three of them hold all twelve with room to spare, one does not."""
PREFIX_TOKENS = 500
PICKER = (sys.executable, "-m", "epp", "serve", "--transport", "native")
TAKEN_S = 2.0
"""A change must be at work by then."""


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Lab:
    """Once is enough here: what carries the streams has no part in it."""
    return Lab(tmp_path_factory.mktemp("live"), transport="native")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("fleet"), 3, SERVER_FLAGS) as fleet:
        yield fleet


class Mount:
    """The picker's configuration file, in a directory as a ConfigMap is mounted."""

    def __init__(self, directory: Path, fleet: Fleet) -> None:
        self._directory, self._fleet, self._versions = directory, fleet, 0
        self.swap_text("")
        (directory / "picker.yaml").symlink_to("..data/picker.yaml")

    def swap(self, config: dict[str, Any]) -> None:
        """Have another configuration there, at once."""
        self.swap_text(yaml.safe_dump(with_pool(config, self._fleet.pool_file), sort_keys=False))

    def swap_text(self, text: str) -> None:
        self._versions += 1
        version = self._directory / f"..v{self._versions}"
        version.mkdir()
        (version / "picker.yaml").write_text(text)
        (self._directory / "..new").symlink_to(version.name)
        (self._directory / "..new").rename(self._directory / "..data")


class Scene:
    """A gateway with a mounted configuration, and traffic."""

    def __init__(self, fleet: Fleet, gateway: Gateway, mount: Mount) -> None:
        self.fleet, self.gateway, self.mount = fleet, gateway, mount
        self.results: list[Result] = []

    @property
    def admin_url(self) -> str:
        return f"http://{HOST}:{self.gateway.admin_port}"

    def config(self) -> dict[str, Any]:
        return self.gateway.admin("/config")

    def post(self, path: str) -> int:
        connection = http.client.HTTPConnection(HOST, self.gateway.admin_port, timeout=10)
        try:
            connection.request("POST", path)
            return connection.getresponse().status
        finally:
            connection.close()

    def resident_kb(self) -> int:
        lines = Path(f"/proc/{self.gateway.picker.pid}/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmRSS")))

    def under_traffic(self, seconds: float, script: Callable[[], Awaitable[None]], rate: float = RATE) -> list[Result]:
        """Play a script while requests flow; return what became of them."""
        count = int(seconds * rate)
        workload = paced(groups(Random(1), count, groups=12, prefix=PREFIX_TOKENS, question=20, answer=4), rate)

        async def play() -> list[Result]:
            self.results.clear()
            traffic = asyncio.create_task(LoadClient(self.gateway.base, MODEL, self.results.append).run(workload))
            await script()
            return await traffic

        return asyncio.run(play())

    async def until(self, condition: Callable[[], Any], what: str, timeout_s: float = TAKEN_S) -> float:
        """Wait for something; return how long it took."""
        start_s = time.monotonic()
        await asyncio.to_thread(eventually, condition, what, timeout_s)
        return time.monotonic() - start_s

    def hit_ratio(self, results: list[Result]) -> float:
        return sum(one.cached_tokens for one in results) / sum(one.prompt_tokens for one in results)


@pytest.fixture
def scene(fleet: Fleet, tmp_path: Path) -> Iterator[Scene]:
    with opened(fleet, tmp_path, strategy("approximate", fleet)) as scene:
        yield scene


@contextmanager
def opened(fleet: Fleet, directory: Path, config: dict[str, Any]) -> Iterator[Scene]:
    mount = Mount(directory, fleet)
    fleet.reset()
    with Gateway(fleet, config, directory, command=PICKER) as gateway:
        yield Scene(fleet, gateway, mount)
        eventually(lambda: all(one["requests"] == 0 for one in gateway.admin("/pool")["endpoints"]), "nothing in flight")


def strategy(name: str, fleet: Fleet) -> dict[str, Any]:
    """A ready-made file, with the tokenizer where one is wanted."""
    config = yaml.safe_load((FILES / f"{name}.yaml").read_text())
    settings = {"tokenizer": str(fleet.tokenizer)}
    if name == "accurate":
        config["strategy"]["tokenizer"] = settings
    elif name == "dynamo":
        config["plugins"].append({"type": "token-producer", "parameters": settings})
    return config


def plugins_of(config: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The filters and scorers by which decisions of a configuration are known."""
    profile = build(load(yaml.safe_dump(config)), Registry()).profiles["default"]
    return [name for name, _ in profile.filters], [name for name, _, _ in profile.scorers]


def decided_by(scene: Scene, config: dict[str, Any]) -> bool:
    """Whether the latest decision is of a configuration."""
    latest = scene.gateway.admin("/decisions?limit=1")["decisions"][0]
    return ([one["name"] for one in latest["filters"]], list(latest["rows"][0]["scores"])) == plugins_of(config)


def errors(results: list[Result]) -> list[str]:
    return [one.error for one in results if one.error]


def test_every_strategy_after_every_other(fleet, scene):
    took: dict[str, float] = {}

    async def script() -> None:
        await asyncio.sleep(1.0)
        for name in (*NAMES[1:], NAMES[0]):
            config = strategy(name, fleet)
            scene.mount.swap(config)
            took[name] = await scene.until(lambda config=config: decided_by(scene, config), f"{name} decides")
            await asyncio.sleep(0.4)

    results = scene.under_traffic(10.0, script)
    assert errors(results) == []
    assert max(took.values()) < TAKEN_S
    assert scene.config()["generation"] == len(NAMES) + 1


def test_there_and_back_keeps_what_is_cached_where(fleet, scene):
    marks: list[float] = []

    async def script() -> None:
        await asyncio.sleep(5.0)
        for name in ("consistent-hash", "approximate"):
            marks.append(time.monotonic() - start_s)
            config = strategy(name, fleet)
            scene.mount.swap(config)
            await scene.until(lambda config=config: decided_by(scene, config), f"{name} decides")
            marks.append(time.monotonic() - start_s)
            if name == "consistent-hash":
                await asyncio.sleep(2.0)

    start_s = time.monotonic()
    results = scene.under_traffic(12.0, script)
    assert errors(results) == []
    before = [one for one in results if 2.0 < one.sent_s < marks[0]]
    after = [one for one in results if one.sent_s > marks[3] + 0.2]
    assert min(len(before), len(after)) > 100
    assert scene.hit_ratio(after) > scene.hit_ratio(before) - 0.02
    since = scene.config()["since"]
    first = [one for one in scene.gateway.admin("/decisions?limit=1000")["decisions"] if one["at"] > since][-60:]
    assert len(first) == 60
    assert sum(one["strategy"]["matched_tokens"] > PREFIX_TOKENS for one in first) >= 58, "an empty index would not know twelve"


def test_a_broken_file_changes_nothing_but_the_status(fleet, scene, capsys):
    async def script() -> None:
        await asyncio.sleep(0.5)
        for text in ("strategy: {chain: [aproximate]}", "strategy: [", "limits: {endpointsMax: 1}"):
            failures = scene.gateway.admin("/config")["status"]["failures"]
            scene.mount.swap_text(text)
            await scene.until(lambda seen=failures: scene.config()["status"]["failures"] > seen, "it is refused")

    results = scene.under_traffic(3.0, script)
    assert errors(results) == []
    assert decided_by(scene, strategy("approximate", fleet))
    config = scene.config()
    assert config["generation"] == 1
    assert config["status"]["error"]["path"] == "dataLayer.discovery"
    assert main(["config", "status", "--admin", scene.admin_url]) == 0
    assert "refused at" in capsys.readouterr().out
    scene.mount.swap(strategy("consistent-hash", fleet))
    eventually(lambda: scene.config()["generation"] == 2, "a good one is taken")
    assert scene.config()["status"]["error"] is None


def test_a_trial_that_goes_wrong_is_taken_back(fleet, scene):
    config = {**strategy("consistent-hash", fleet), "trial": {"for": "60s", "revertOn": {"errorRatio": 0.1}}}

    async def script() -> None:
        await asyncio.sleep(3.0)
        scene.mount.swap(config)
        await scene.until(lambda: scene.config()["status"]["trial"], "it is tried")
        order(fleet, {"status": 500})
        try:
            await scene.until(lambda: scene.config()["generation"] == 3, "it is taken back", 10.0)
        finally:
            order(fleet, {})

    results = scene.under_traffic(8.0, script)
    report = scene.config()
    assert "generation 2 failed its trial: error ratio" in report["cause"]
    assert report["hash"] == report["previous"][1]["hash"]
    assert report["status"]["newest"]["held"].startswith("it failed its trial")
    assert set(errors(results)) == {"status 500"}
    assert errors(results[-30:]) == []
    assert decided_by(scene, strategy("approximate", fleet))


def test_memory_stays_as_it_is_over_hundreds_of_swaps(fleet, scene):
    sizes: list[int] = []

    async def script() -> None:
        await asyncio.sleep(1.0)
        scene.mount.swap(strategy("accurate", fleet))
        await scene.until(lambda: scene.config()["generation"] == 2, "two to swap between")
        for number in range(1, 241):
            assert await asyncio.to_thread(scene.post, "/config/rollback") == http.client.OK
            if number in {40, 240}:
                sizes.append(scene.resident_kb())

    results = scene.under_traffic(6.0, script)
    assert errors(results) == []
    assert scene.config()["generation"] == 242
    assert sizes[1] - sizes[0] < 4096, "kB"


def order(fleet: Fleet, fault: dict[str, Any]) -> None:
    """Have something go wrong with all requests, or nothing."""
    for server in fleet.servers:
        connection = http.client.HTTPConnection(HOST, server.port, timeout=5)
        connection.request("POST", "/fault", json.dumps(fault))
        assert connection.getresponse().status == http.client.OK
        connection.close()
