import os
import time

import pytest

from epp.config import load
from epp.errors import LaunchError
from epp.standalone.process import Child
from epp.testing.stack import Fleet, cpu_s, with_pool


def test_cpu_time_of_a_process_is_what_it_says_itself():
    deadline = time.process_time() + 0.05
    while time.process_time() < deadline:
        pass
    assert cpu_s(os.getpid()) == pytest.approx(time.process_time(), abs=0.05)


def test_a_pool_joins_the_plugins_of_a_configuration(tmp_path):
    import yaml

    config = with_pool({"plugins": [{"type": "random-picker"}]}, tmp_path / "pool.yaml")
    loaded = load(yaml.safe_dump(config))
    assert [plugin.type for plugin in loaded.plugins] == ["random-picker", "file-discovery"]
    assert loaded.data_layer.discovery.plugin_ref == "file-discovery"


def test_a_fleet_is_listed_reset_and_stopped(tmp_path):
    with Fleet(tmp_path, 2, ["--kv-events"]) as fleet:
        assert len({server.port for server in fleet.servers}) == 2
        assert all(server.kv_port and server.kv_replay_port for server in fleet.servers)
        for server in fleet.servers:
            assert f"'{server.port}'" in fleet.pool_file.read_text()
            assert str(server.port) in fleet.endpoints_file.read_text()
        fleet.reset()
        children = [server.child for server in fleet.servers]
        assert all(child.exit_code is None for child in children)
    assert [child.exit_code for child in children] == [0, 0]


def test_a_fleet_that_does_not_come_up_stops_what_did(tmp_path, monkeypatch):
    started = []

    def child(name, command):
        broken = ["--no-such-flag"] if name == "server-1" else []
        started.append(Child(name, [*command, *broken]))
        return started[-1]

    monkeypatch.setattr("epp.testing.stack.Child", child)
    with pytest.raises(LaunchError, match=r"server-1 ended with code 2.*\n(?s:.*)--no-such-flag"), Fleet(tmp_path, 3):
        pytest.fail("it came up")
    assert [one.exit_code is None for one in started] == [False] * 3
