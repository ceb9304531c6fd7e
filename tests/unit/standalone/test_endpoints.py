"""The endpoint file lists the pool and is never seen half written."""

import json
import threading

import pytest

from epp.standalone.endpoints import endpoints_json, write
from epp.standalone.options import SocketAddress


def listed(text: str) -> list[tuple[str, int]]:
    (resource,) = json.loads(text)["resources"]
    members = resource["endpoints"][0].get("lbEndpoints", [])
    addresses = [member["endpoint"]["address"]["socketAddress"] for member in members]
    return [(address["address"], address["portValue"]) for address in addresses]


def test_lists_addresses_in_order():
    text = endpoints_json([SocketAddress(host="10.0.0.2", port=8000), SocketAddress(host="fd00::1", port=8001)])
    assert listed(text) == [("10.0.0.2", 8000), ("fd00::1", 8001)]


def test_an_empty_pool_is_a_pool():
    assert listed(endpoints_json([])) == []


def test_replaces_and_leaves_nothing_behind(tmp_path):
    file = tmp_path / "endpoints.json"
    write(file, "one")
    write(file, "two")
    assert file.read_text() == "two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["endpoints.json"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "taken"
    (target / "by-a-directory").mkdir(parents=True)
    with pytest.raises(OSError, match="taken"):
        write(target, "text")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


def test_a_reader_sees_the_old_or_the_new_text_never_a_part(tmp_path):
    file = tmp_path / "endpoints.json"
    texts = {"a" * 200_000, "b" * 300_000}
    write(file, "a" * 200_000)
    seen: set[str] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(file.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(50):
        for text in sorted(texts):
            write(file, text)
    done.set()
    reader.join()
    assert seen
    assert seen <= texts
