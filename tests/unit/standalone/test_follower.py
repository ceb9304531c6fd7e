"""Envoy's list follows the pool file: new endpoints at once, old ones a little longer, nonsense never."""

import json
from pathlib import Path

import pytest

from epp.errors import ConfigError
from epp.model.endpoint import Endpoint
from epp.standalone.endpoints import write
from epp.standalone.follower import LINGER_S, Follower


def read_pool(path: Path) -> list[Endpoint]:
    """One port a line."""
    try:
        return [Endpoint(name=line, address="10.0.0.1", port=int(line)) for line in path.read_text().split()]
    except ValueError as error:
        raise ConfigError("not a port") from error


class Bench:
    def __init__(self, directory: Path) -> None:
        self.pool_file, self._endpoints_file = directory / "pool", directory / "endpoints.json"
        self.follower = Follower(self.pool_file, self._endpoints_file, read_pool)

    def enter(self, *ports: object) -> None:
        write(self.pool_file, "\n".join(map(str, ports)))

    @property
    def ports(self) -> list[int]:
        """What Envoy is told."""
        (pool,) = json.loads(self._endpoints_file.read_text())["resources"]
        members = pool["endpoints"][0].get("lbEndpoints", [])
        return [member["endpoint"]["address"]["socketAddress"]["portValue"] for member in members]

    @property
    def written(self) -> int:
        return self._endpoints_file.stat().st_ino


@pytest.fixture
def bench(tmp_path) -> Bench:
    bench = Bench(tmp_path)
    bench.enter(1, 2)
    assert bench.follower.start(0.0) == 2
    return bench


def test_starts_with_what_is_listed(bench):
    assert bench.ports == [1, 2]


def test_an_endpoint_listed_twice_is_told_once(bench):
    bench.enter(1, 1)
    bench.follower.poll(1.0)
    assert bench.ports[0] == 1
    assert bench.ports.count(1) == 1


def test_a_new_endpoint_is_told_at_once(bench):
    bench.enter(1, 2, 3)
    assert bench.follower.poll(1.0) == ""
    assert bench.ports == [1, 2, 3]


def test_an_endpoint_that_is_gone_lingers(bench):
    bench.enter(2)
    bench.follower.poll(1.0)
    assert bench.ports == [2, 1]
    bench.follower.poll(1.0 + LINGER_S - 0.1)
    assert bench.ports == [2, 1]
    bench.follower.poll(1.0 + LINGER_S)
    assert bench.ports == [2]


def test_an_endpoint_that_comes_back_stays(bench):
    bench.enter(2)
    bench.follower.poll(1.0)
    bench.enter(1, 2)
    bench.follower.poll(2.0)
    assert bench.ports == [1, 2]
    bench.follower.poll(2.0 + 2 * LINGER_S)
    assert bench.ports == [1, 2]


def test_without_a_change_nothing_is_written(bench):
    before = bench.written
    for now_s in range(20):
        bench.follower.poll(float(now_s))
    assert bench.written == before


def test_a_broken_file_changes_nothing_and_is_told_once(bench):
    bench.enter("nonsense")
    assert bench.follower.poll(1.0) == f"{bench.pool_file}: not a port"
    assert bench.follower.poll(2.0) == ""
    assert bench.ports == [1, 2]
    bench.enter(3)
    assert bench.follower.poll(3.0) == ""
    assert bench.ports == [3, 1, 2]


def test_a_file_that_vanishes_changes_nothing(bench):
    bench.pool_file.unlink()
    assert "No such file" in bench.follower.poll(1.0)
    assert bench.follower.poll(2.0) == ""
    assert bench.ports == [1, 2]


def test_the_first_file_must_be_good(tmp_path):
    bench = Bench(tmp_path)
    with pytest.raises(FileNotFoundError):
        bench.follower.start(0.0)
    bench.enter("nonsense")
    with pytest.raises(ConfigError):
        bench.follower.start(0.0)
