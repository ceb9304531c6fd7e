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


def test_a_file_that_is_no_text_is_one_line_and_code_2(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_bytes(b"strategy: \xff\xfe")
    for flag in ("--config-file", "--pool-file"):
        assert main(["standalone", flag, str(file), "--metrics-port", "0"]) == 2
        assert capsys.readouterr().err == f"epp: {file} is not UTF-8: invalid start byte at byte 10\n"
