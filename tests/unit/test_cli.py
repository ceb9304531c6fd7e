"""The command line: what it prints, and the exit code of what a user can mend."""

import json
from pathlib import Path

import pytest

from epp.cli import main

STRATEGIES = Path(__file__).parents[2] / "manifests" / "strategies"


def write(tmp_path, text):
    file = tmp_path / "picker.yaml"
    file.write_text(text)
    return str(file)


@pytest.mark.parametrize("file", sorted(STRATEGIES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_ready_made_strategy_is_good(file, capsys):
    assert main(["config", "check", str(file)]) == 0
    assert f"{file}: good" in capsys.readouterr().out


def test_a_wrong_file_is_one_line_with_the_path_of_what_is_wrong(tmp_path, capsys):
    file = write(tmp_path, "plugins:\n- type: queue-scorer\n  parameters: {staleS: 0}\n")
    assert main(["config", "check", file]) == 2
    error = capsys.readouterr().err
    assert error.startswith("epp: plugins[0].parameters.staleS: ")
    assert error.count("\n") == 1


def test_a_file_that_is_not_there(tmp_path, capsys):
    assert main(["config", "check", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err


def test_a_file_that_is_no_text(tmp_path, capsys):
    (tmp_path / "picker.yaml").write_bytes(b"strategy: \xff\xfe")
    assert main(["config", "check", str(tmp_path / "picker.yaml")]) == 2
    assert "is not UTF-8" in capsys.readouterr().err


def test_a_doubt_is_said_and_does_not_refuse(tmp_path, capsys):
    assert main(["config", "check", write(tmp_path, "strategy: {chain: [accurate, approximate]}\n")]) == 0
    assert "warning: " in capsys.readouterr().out


def test_effective_shows_what_the_short_form_expands_to(tmp_path, capsys):
    file = write(tmp_path, "strategy: {chain: [approximate]}\n")
    assert main(["config", "show", file]) == 0
    assert "strategy:" in capsys.readouterr().out
    assert main(["config", "show", "--effective", file]) == 0
    effective = capsys.readouterr().out
    assert "marginal-cost-scorer" in effective
    assert "stall: 0.5" in effective
    assert main(["config", "check", write(tmp_path, effective)]) == 0


def test_the_schema_describes_every_plugin(capsys):
    assert main(["config", "schema"]) == 0
    text = capsys.readouterr().out
    assert json.loads(text)["title"]
    assert "marginal-cost-scorer" in text


def test_serving_without_a_pool_says_what_is_missing(tmp_path, capsys):
    assert main(["serve", "--config-file", write(tmp_path, "strategy: {}\n"), "-v=0"]) == 2
    assert "epp: dataLayer.discovery: no pool" in capsys.readouterr().err


def test_help_reads_well(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for command in ("serve", "config", "demo", "standalone"):
        assert command in text
