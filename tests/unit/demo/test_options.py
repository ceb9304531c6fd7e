import argparse

import pytest

from epp.config import load
from epp.demo.options import DemoOptions, add_demo_flags, read_demo_flags
from epp.demo.strategies import STRATEGIES, config
from epp.errors import ConfigError
from epp.scheduling.build import build
from epp.scheduling.registry import Registry
from epp.testing.stack import with_pool
from epp.testing.tokenizer import write_tokenizer


def read(*arguments: str) -> DemoOptions:
    parser = argparse.ArgumentParser()
    add_demo_flags(parser)
    return read_demo_flags(parser.parse_args(arguments))


def test_without_flags_every_strategy_is_shown():
    assert read() == DemoOptions()
    assert read().strategies == ("random", "consistent-hash", "approximate", "accurate")


def test_flags_are_read():
    options = read("--strategies", "accurate,random", "--endpoints", "5", "--seconds", "2", "--keep")
    assert options == DemoOptions(strategies=("accurate", "random"), endpoints=5, seconds=2.0, keep=True)


@pytest.mark.parametrize(
    "arguments", [("--strategies", "best"), ("--strategies", ","), ("--endpoints", "0"), ("--seconds", "0"), ("--rate", "1e9")]
)
def test_what_makes_no_sense_is_refused(arguments):
    with pytest.raises(ConfigError):
        read(*arguments)


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr("epp.demo.options.NEEDED", ("rich", "no_such_package"))
    with pytest.raises(ConfigError, match=r"^no_such_package not installed.*epp\[standalone\]"):
        read()


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_is_a_configuration_that_the_picker_takes_without_a_doubt(name, tmp_path):
    import yaml

    write_tokenizer(tmp_path)
    text = yaml.safe_dump(with_pool(config(name, tmp_path), tmp_path / "pool.yaml"))
    plan = build(load(text), Registry())
    assert not plan.warnings
    assert len(plan.producers) == (name != "random")
