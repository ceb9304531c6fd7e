"""The list of endpoints: what it may say, and how it is followed."""

import asyncio
import json
import logging
import os

import pytest

from epp.config.reading import FILE_BYTES_MAX
from epp.discovery.file import FileDiscovery, parse_endpoints, read_endpoints
from epp.errors import ConfigError
from epp.model.endpoint import Endpoint

GOOD = """
endpoints:
- name: a
  address: 10.0.0.1
  port: "8000"
  labels:
- name: a
  namespace: other
  address: fd00:0::2
  port: 8001
  labels: {llm-d.ai/role: decode}
"""
A = Endpoint(name="default/a", address="10.0.0.1", port=8000)
OTHER_A = Endpoint(name="other/a", address="fd00::2", port=8001, labels={"llm-d.ai/role": "decode"})
ONE = "endpoints: [{name: a, address: 10.0.0.1, port: 8000}]"


def test_yaml():
    assert parse_endpoints(GOOD) == (A, OTHER_A)


def test_json():
    document = {"endpoints": [{"name": "a", "namespace": "default", "address": "10.0.0.1", "port": "8000", "labels": {}}]}
    assert parse_endpoints(json.dumps(document)) == (A,)


def test_an_empty_list_is_an_empty_pool():
    assert parse_endpoints("endpoints: []") == ()


@pytest.mark.parametrize(
    ("entry", "path"),
    [
        ("{address: 10.0.0.1, port: 1}", "endpoints[0].name"),
        ("{name: '', address: 10.0.0.1, port: 1}", "endpoints[0].name"),
        ("{name: a, port: 1}", "endpoints[0].address"),
        ("{name: a, address: example.com, port: 1}", "endpoints[0].address"),
        ("{name: a, address: 10.0.0.1}", "endpoints[0].port"),
        ("{name: a, address: 10.0.0.1, port: 0}", "endpoints[0].port"),
        ("{name: a, address: 10.0.0.1, port: 65536}", "endpoints[0].port"),
        ("{name: a, address: 10.0.0.1, port: '65536'}", "endpoints[0].port"),
        ("{name: a, address: 10.0.0.1, port: http}", "endpoints[0].port"),
        ("{name: a, address: 10.0.0.1, port: 1, weight: 2}", "endpoints[0].weight"),
        ("{name: a, address: 10.0.0.1, port: 1, labels: {x: 1}}", "endpoints[0].labels[...]"),
        ("7", "endpoints[0]"),
    ],
)
def test_mistakes_are_told_with_their_path(entry, path):
    with pytest.raises(ConfigError) as caught:
        parse_endpoints(f"endpoints: [{entry}]")
    assert caught.value.path == path


@pytest.mark.parametrize("text", ["", "# nothing", "[]", "endpoints", "endpoints: {}", "endpoints: [", "pods: []", "\x00"])
def test_what_is_no_list(text):
    with pytest.raises(ConfigError):
        parse_endpoints(text)


def test_a_name_twice_names_both():
    with pytest.raises(ConfigError, match=r"^endpoints\[1\]\.name: .*'default/a'.* endpoints\[0\]"):
        parse_endpoints(f"{ONE[:-1]}, {{name: a, address: 10.0.0.2, port: 8000}}]")


def test_an_address_twice_names_both_however_it_is_spelled():
    text = "endpoints: [{name: a, address: 'fd00::1', port: 8000}, {name: b, address: '[fd00:0::1]', port: '08000'}]"
    with pytest.raises(
        ConfigError, match=r"^endpoints\[1\]\.address: 'default/b' .*\[fd00::1\]:8000.*'default/a' \(endpoints\[0\]\)"
    ):
        parse_endpoints(text)


def test_a_file_that_is_too_long_missing_or_no_text(tmp_path):
    path = tmp_path / "endpoints.yaml"
    with pytest.raises(ConfigError, match="cannot read"):
        read_endpoints(path)
    path.write_text(ONE + "\n" + "#" * FILE_BYTES_MAX)
    with pytest.raises(ConfigError, match="longer than"):
        read_endpoints(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_endpoints(path)


@pytest.mark.parametrize("bad", ["endpoints: [", "endpoints: [{name: a, address: here, port: 1}]"])
def test_a_mistake_names_the_file(tmp_path, bad):
    path = tmp_path / "endpoints.yaml"
    path.write_text(bad)
    with pytest.raises(ConfigError, match=f"^{path}: "):
        read_endpoints(path)


class Follower:
    """A discovery whose looks are taken by hand."""

    def __init__(self, path) -> None:
        self.path = path
        self.found: list[list[str]] = []
        self.discovery = FileDiscovery(
            path, watch=False, found=lambda endpoints: self.found.append([one.name.removeprefix("default/") for one in endpoints])
        )
        asyncio.run(self.discovery.run())

    def look(self) -> None:
        asyncio.run(self.discovery.look_again())

    def look_twice(self) -> None:
        self.look()
        self.look()


def listing(*names: str) -> str:
    return json.dumps({"endpoints": [{"name": name, "address": f"10.0.0.{ord(name)}", "port": 8000} for name in names]})


@pytest.fixture
def follower(tmp_path):
    path = tmp_path / "endpoints.yaml"
    path.write_text(listing("a"))
    return Follower(path)


def test_a_change_is_reported_once(follower):
    follower.look_twice()
    assert follower.found == [["a"]]
    follower.path.write_text(listing("a", "b"))
    follower.look_twice()
    follower.look_twice()
    assert follower.found == [["a"], ["a", "b"]]


def test_a_file_that_is_still_being_written_is_left_alone(follower):
    for text in (listing("a", "b"), listing("a", "b", "c")):
        follower.path.write_text(text)
        follower.look()
    assert follower.found == [["a"]]
    follower.look()
    assert follower.found == [["a"], ["a", "b", "c"]]


def test_a_rename_into_place(follower):
    new = follower.path.with_suffix(".new")
    new.write_text(listing("z"))
    stat = follower.path.stat()
    os.utime(new, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same size, same time: another file all the same
    new.rename(follower.path)
    follower.look_twice()
    assert follower.found[-1] == ["z"]


def test_the_swap_of_links_of_a_mounted_config_map(tmp_path):
    for version, names in (("v1", "a"), ("v2", "ab")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "endpoints.yaml").write_text(listing(*names))
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "endpoints.yaml").symlink_to("..data/endpoints.yaml")
    follower = Follower(tmp_path / "endpoints.yaml")
    (tmp_path / "..new").symlink_to("v2")
    (tmp_path / "..new").rename(tmp_path / "..data")
    follower.look_twice()
    assert follower.found == [["a"], ["a", "b"]]


@pytest.mark.parametrize("bad", ["", "endpoints: [", "endpoints: [{}]", None])
def test_a_bad_file_keeps_the_last_good_list_and_is_told_of_once(follower, caplog, bad):
    caplog.set_level(logging.INFO)
    if bad is None:
        follower.path.unlink()
    for _ in range(2):
        if bad is not None:
            follower.path.write_text(bad)
        follower.look_twice()
    assert follower.found == [["a"]]
    assert [record.message for record in caplog.records] == ["the list of endpoints is bad, the last good one stays"]
    follower.path.write_text(listing("b"))
    follower.look_twice()
    assert follower.found == [["a"], ["b"]]


def test_a_bad_file_at_the_start_is_the_end(tmp_path):
    with pytest.raises(ConfigError):
        Follower(tmp_path / "missing.yaml")


def test_watching(tmp_path):
    path = tmp_path / "endpoints.yaml"
    path.write_text(listing("a"))

    async def script() -> list[int]:
        counts: list[int] = []
        two = asyncio.Event()

        def found(endpoints) -> None:
            counts.append(len(endpoints))
            if len(counts) == 1:
                path.write_text(listing("a", "b"))
            else:
                two.set()

        task = asyncio.get_running_loop().create_task(FileDiscovery(path, watch=True, found=found).run())
        await asyncio.wait_for(two.wait(), 10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return counts

    assert asyncio.run(script()) == [1, 2]
