"""What the README shows can be used as it stands: its YAML loads, its commands and files exist."""

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

from epp.cli import main
from epp.config import load
from epp.discovery.file import parse_endpoints
from epp.scheduling.build import build
from epp.scheduling.registry import Registry

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()


def blocks(first: str) -> list[str]:
    """The indented blocks of the README that begin like this."""
    found = [textwrap.dedent(block) for block in re.findall(r"(?:(?:^    .*|^)\n)+", TEXT, re.MULTILINE) if block.strip()]
    return [block.strip("\n") + "\n" for block in found if block.lstrip("\n").startswith(first)]


def test_the_configuration_loads():
    (text,) = blocks("apiVersion: ")
    plan = build(load(text), Registry())
    assert plan.warnings == ()
    assert list(plan.profiles) == ["default"]
    assert plan.discovery is not None
    assert plan.tokenizer is not None


def test_the_pool_loads():
    (text,) = blocks("# pool.yaml")
    text, _, command = text.partition("\n\n")
    assert [one.authority for one in parse_endpoints(text)] == ["10.0.0.1:8000", "[fd00::2]:8000"]
    assert command.startswith("epp standalone --pool-file pool.yaml")


def test_the_settings_in_prose_load():
    found = re.findall(r"`strategy\.(\w+): (\{.*\})`", TEXT)
    assert found
    for name, value in found:
        build(load(f"strategy: {{chain: [accurate], {name}: {value}}}\n"), Registry())


def test_the_scorer_works():
    (text,) = blocks("class ShortQueueScorer")
    names: dict[str, object] = {"np": np}
    imports = "from typing import Annotated\nfrom msgspec import Meta\nfrom epp.scheduling.api import Scorer\n"
    exec(imports + text, names)
    scorer = names["ShortQueueScorer"](depth_max=10)
    view = type("View", (), {"waiting": np.array([0.0, 5.0, 20.0])})
    assert scorer.score(None, view).tolist() == [1.0, 0.5, 0.0]


@pytest.mark.parametrize("command", sorted(set(re.findall(r"\bepp ((?:config )?[a-z]+)(?= [-\w`]|`)", TEXT))))
def test_commands_exist(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([*command.split(), "--help"])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: epp {command}")


def test_files_exist():
    for name in re.findall(r"`((?:epp|tests|manifests)/[\w/.-]+|[A-Z]+\.md)`", TEXT):
        assert (ROOT / name).exists(), name
    listed = set(re.findall(r"^\| `([\w-]+\.yaml)` \|", TEXT, re.MULTILINE))
    assert listed == {file.name for file in (ROOT / "manifests" / "strategies").iterdir()}
