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
    assert capsys.readouterr().err == f"epp: {tmp_path}/none.yaml: No such file or directory\n"


WITH_POOL = (
    "plugins: [{{type: file-discovery, parameters: {{path: {pool}}}}}]\ndataLayer: {{discovery: {{pluginRef: file-discovery}}}}\n"
)


@pytest.mark.parametrize(
    ("config", "flags", "says"),
    [
        ("strategy: {{chian: [accurate]}}\n", [], "strategy.chian: unknown field; did you mean 'chain'?"),
        (WITH_POOL, [], "cannot read {pool}: No such file or directory"),
        (
            WITH_POOL + "strategy: {{chain: [accurate], tokenizer: {{tokenizer: {pool}}}}}\n",
            [],
            "strategy.tokenizer: no tokenizer in {pool}: [Errno 2] No such file or directory: '{pool}'",
        ),
        (WITH_POOL, ["--bind", "192.0.2.1"], "cannot listen on 192.0.2.1:0: "),
        (WITH_POOL, ["--cert-path", "{pool}"], "cert-path: no usable tls.crt and tls.key in {pool}: "),
        (WITH_POOL, ["--config-text", "a: b"], "--config-file and --config-text exclude each other"),
    ],
)
def test_what_a_user_can_mend_ends_serving_with_one_line(tmp_path, capsys, config, flags, says):
    pool = str(tmp_path / "none")
    file = write(tmp_path, config.format(pool=pool))
    ports = ["--grpc-port=0", "--grpc-health-port=0", "--metrics-port=0", "-v=0"]
    assert main(["serve", "--config-file", file, *ports, *(flag.format(pool=pool) for flag in flags)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"epp: {says.format(pool=pool)}")
    assert error.count("\n") == 1


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
    assert "decode: 0.1" in effective
    assert main(["config", "check", write(tmp_path, effective)]) == 0


def test_the_schema_describes_every_plugin(capsys):
    assert main(["config", "schema"]) == 0
    text = capsys.readouterr().out
    assert json.loads(text)["title"]
    assert "marginal-cost-scorer" in text


@pytest.mark.parametrize("command", [["serve"], []])
def test_serving_without_a_pool_says_what_is_missing(tmp_path, capsys, command):
    """Without a command too: deployments of the reference picker have flags alone."""
    assert main([*command, "-v=0", "--config-file", write(tmp_path, "strategy: {}\n")]) == 2
    assert "epp: dataLayer.discovery: say in one way where the endpoints are" in capsys.readouterr().err


def test_help_reads_well(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for command in ("serve", "config", "demo", "standalone"):
        assert command in text
