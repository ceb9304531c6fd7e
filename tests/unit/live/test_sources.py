"""Where the flags say that the configuration comes from."""

import argparse
import asyncio

import pytest

from epp.errors import ConfigError
from epp.flags import ServeOptions, add_serve_flags, parse_config_map, read_serve_flags
from epp.live.sources import ConfigSources
from tests.unit.live.world import World


def options(*arguments: str) -> ServeOptions:
    parser = argparse.ArgumentParser()
    add_serve_flags(parser)
    return read_serve_flags(parser.parse_args(arguments))


def begun_with(*arguments: str) -> tuple[str, str, set[str]]:
    """The first text, the name of its source, and the jobs that look for the next."""

    async def begin() -> tuple[str, str, set[str]]:
        async with ConfigSources(options(*arguments)) as sources:
            text = await sources.first()
            jobs = sources.jobs(World().controller)
            for job in jobs.values():
                job.close()
            return text, sources.began_with, set(jobs)

    return asyncio.run(begin())


def test_nothing_and_a_text_do_not_change():
    assert begun_with() == ("", "flags", set())
    assert begun_with("--config-text", "strategy: {}") == ("strategy: {}", "flags", set())


def test_a_file_is_followed_unless_told_otherwise(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("strategy: {}")
    assert begun_with("--config-file", str(file)) == ("strategy: {}", f"file {file}", {"configuration file"})
    assert begun_with("--config-file", str(file), "--watch-config=false")[2] == set()


@pytest.mark.parametrize("text", ["epp", "epp-config/config.yaml", "a.b/c_d-E.yaml"])
def test_a_config_map_and_its_entry(text):
    assert options("--config-map", text).config_map == text


@pytest.mark.parametrize("text", ["", "/x", "epp/", "Epp", "a/b/c", "a b", "epp/ä"])
def test_what_is_none(text):
    with pytest.raises(argparse.ArgumentTypeError):
        parse_config_map(text)


def test_one_source_too_many():
    with pytest.raises(ConfigError, match="exclude each other"):
        options("--config-map", "epp", "--config-text", "strategy: {}")
