"""Every bench runs, small, and says something sane. No time is asserted: the machine that runs the tests is shared."""

import math
from pathlib import Path

import pytest

from tests.bench.__main__ import main, names, run
from tests.bench.frame import Row, show


def test_every_bench_is_listed():
    here = Path(__file__).parent.glob("*.py")
    benches = {path.stem for path in here if path.stem != "routing" and "\ndef measure(" in path.read_text()}
    assert benches == set(names())


@pytest.mark.parametrize("name", names())
def test_bench_runs(name: str):
    rows = run(name, quick=True)
    assert rows
    assert all(row.name for row in rows)
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        assert row.unit
        assert math.isfinite(row.value)
        assert row.value > 0, row.name
        assert row.floor is None or (row.floor > 0 and row.floor_name), row.name
        assert row.ratio_target is None or row.floor, row.name
        assert row.name in show(name, rows)


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (Row(name="a", value=2.0), None),
        (Row(name="a", value=2.0, target=2.0), True),
        (Row(name="a", value=2.0, target=1.9), False),
        (Row(name="a", value=2.0, floor=1.0, ratio_target=2.0), True),
        (Row(name="a", value=2.0, floor=1.0, ratio_target=1.5), False),
        (Row(name="a", value=2.0, target=3.0, floor=1.0, ratio_target=1.5), False),
    ],
)
def test_a_row_knows_whether_it_is_met(row: Row, met: bool | None):
    assert row.met is met
    assert ("MISSED" in show("t", [row])) is (met is False)


def test_a_missed_target_is_an_exit_code(monkeypatch, capsys):
    rows = [Row(name="too much", value=2.0, target=1.0)]
    monkeypatch.setattr("tests.bench.__main__.run", lambda name, quick: rows)
    assert main(["wire"]) == 1
    assert "missed:\n  wire: too much" in capsys.readouterr().out
    rows[:] = [Row(name="enough", value=1.0, target=1.0)]
    assert main(["wire"]) == 0


def test_an_unknown_bench_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["nonesuch"])
    assert "nonesuch" in capsys.readouterr().err
