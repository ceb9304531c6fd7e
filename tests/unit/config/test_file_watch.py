"""A file that may change, looked at again and again."""

import os

import pytest

from epp.config.file_watch import UNSETTLED_MAX, FileWatch, read_text
from epp.errors import ConfigError


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_text("one")
    return path


def looks(watch, count):
    return [watch.changed() for _ in range(count)]


def test_a_change_is_seen_once_when_it_has_settled(path):
    watch = FileWatch(path)
    assert looks(watch, 2) == [False, False]
    path.write_text("other")
    assert looks(watch, 4) == [False, True, False, False]


def test_while_it_is_being_written_nothing_is_said(path):
    watch = FileWatch(path)
    for text in ("a", "ab", "abc"):
        path.write_text(text)
        assert not watch.changed()
    assert watch.changed()


def test_what_was_undone_before_it_settled_is_no_change(path):
    watch = FileWatch(path)
    before = path.stat()
    path.write_text("two")
    assert not watch.changed()
    path.write_text("one")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert looks(watch, 2) == [False, False]


def test_a_file_that_goes_and_comes_back(path):
    watch = FileWatch(path)
    path.unlink()
    assert looks(watch, 3) == [False, True, False]
    path.write_text("one")
    assert looks(watch, 3) == [False, True, False]


def test_another_file_of_the_same_size_and_time(path):
    watch = FileWatch(path)
    stat, new = path.stat(), path.with_suffix(".new")
    new.write_text("two")
    os.utime(new, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    new.rename(path)
    assert looks(watch, 2) == [False, True]


def test_a_link_to_another_directory(tmp_path):
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "file").write_text(version)
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "file").symlink_to("..data/file")
    watch = FileWatch(tmp_path / "file")
    (tmp_path / "..new").symlink_to("v2")
    (tmp_path / "..new").rename(tmp_path / "..data")
    assert looks(watch, 2) == [False, True]
    assert read_text(watch.path) == "v2"


def test_reading_has_bounds(path):
    assert read_text(path, 3) == "one"
    with pytest.raises(ConfigError, match="longer than 2 bytes"):
        read_text(path, 2)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_text(path)
    with pytest.raises(ConfigError, match=r"cannot read .*: No such file"):
        read_text(path.with_name("none"))
    with pytest.raises(ConfigError, match="Is a directory"):
        read_text(path.parent)


def test_a_file_that_is_written_all_the_time_is_taken_now_and_then(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    watch, taken = FileWatch(path), 0
    for number in range(3 * UNSETTLED_MAX):
        path.write_text("x" * (number + 1))
        taken += watch.changed()
    assert taken == 3
