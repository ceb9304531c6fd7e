"""Mistakes in the flags of `epp standalone` are one line and exit code 2, before any process is started."""

import pytest

from epp.cli import main


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "no pool: give --pool-file"),
        (["--pool-file", "/nowhere/pool.yaml"], "/nowhere/pool.yaml"),
        (["--config-file", "/nowhere/picker.yaml"], "/nowhere/picker.yaml"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(flags, sentence, capsys):
    assert main(["standalone", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("epp: ")
    assert sentence in line
