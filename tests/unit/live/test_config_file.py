"""A configuration in a file, look by look."""

import asyncio
import os

import pytest

from epp.errors import ConfigError
from epp.live.config_file import ConfigFile


class Notes:
    """Takes what comes."""

    def __init__(self) -> None:
        self.offered: list[str] = []
        self.lost_for: list[str] = []

    async def offer(self, text: str, source: str) -> None:
        self.offered.append(text)

    def lost(self, error: ConfigError, source: str) -> None:
        self.lost_for.append(error.message)


class Desk:
    """A file that is followed, and looked at by hand."""

    def __init__(self, path, **options) -> None:
        self.path, self.notes = path, Notes()
        self.file = ConfigFile(path, **options)
        assert self.file.read() == path.read_text()

    def look(self, times: int = 2) -> None:
        for _ in range(times):
            asyncio.run(self.file.look(self.notes))


@pytest.fixture
def mounted(tmp_path):
    """A directory as a kubelet mounts a ConfigMap, and how it updates it."""
    count = iter(range(100))

    def update(text: str) -> None:
        version = tmp_path / f"..{next(count)}"
        version.mkdir()
        (version / "config.yaml").write_text(text)
        (tmp_path / "..data_tmp").symlink_to(version.name)
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")

    update("one")
    (tmp_path / "config.yaml").symlink_to("..data/config.yaml")
    return Desk(tmp_path / "config.yaml"), update


def test_a_mounted_config_map(mounted):
    desk, update = mounted
    desk.look()
    assert desk.notes.offered == []
    for text in ("two", "three"):
        update(text)
        desk.look()
    desk.look()
    assert desk.notes.offered == ["two", "three"]


def test_an_update_that_says_the_same_is_none(mounted):
    desk, update = mounted
    update("one")
    desk.look()
    assert desk.notes.offered == []


def test_replaced_and_written_in_place(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("one")
    desk = Desk(path)
    path.write_text("two")
    desk.look()
    (tmp_path / "new").write_text("six")
    (tmp_path / "new").rename(path)
    desk.look()
    os.utime(path)
    desk.look()
    assert desk.notes.offered == ["two", "six"]


def test_half_a_file_is_not_offered(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("one")
    desk = Desk(path)
    for text in ("strategy:", "strategy: {chain:", "strategy: {chain: []}"):
        path.write_text(text)
        desk.look(1)
    assert desk.notes.offered == []
    desk.look(1)
    assert desk.notes.offered == ["strategy: {chain: []}"]


def test_a_file_that_goes_is_said_and_offered_when_it_comes_back(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("one")
    desk = Desk(path)
    path.unlink()
    desk.look(3)
    assert desk.notes.lost_for == [f"cannot read {path}: No such file or directory"]
    path.write_text("one")
    desk.look()
    assert desk.notes.offered == ["one"]


def test_what_knows_better_is_listened_to_instead(tmp_path):
    path, better = tmp_path / "config.yaml", [True]
    path.write_text("one")
    desk = Desk(path, overruled=lambda: better[0])
    path.write_text("two")
    desk.look(3)
    assert desk.notes.offered == []
    better[0] = False
    path.write_text("three")
    desk.look()
    assert desk.notes.offered == ["three"]


def test_a_file_that_is_not_there_at_the_start(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        ConfigFile(tmp_path / "none").read()
