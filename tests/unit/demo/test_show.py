import io

import pytest
from rich.console import Console

from epp.demo.run import _telling
from epp.demo.show import Run, Screen
from epp.testing.load_client import Result
from epp.testing.summary import summarize


def screen(*, terminal: bool, width: int = 80) -> tuple[Screen, io.StringIO]:
    out = io.StringIO()
    return Screen(Console(file=out, force_terminal=terminal, width=width, highlight=False)), out


def a_run(strategy: str) -> Run:
    result = Result(kind="x", messages=(), prompt_tokens=200, cached_tokens=50, ttft_s=0.25, served_by="a")
    decision = {"why": "prompt 0123456789ab -> demo/server-0: because"}
    return Run(strategy=strategy, summary=summarize([result], 1), picker_cpu_s=0.003, decisions=[decision])


def test_the_table_fits_eighty_columns_and_holds_the_figures():
    shown, out = screen(terminal=False)
    shown.table([a_run("random"), a_run("consistent-hash")])
    (row,) = [line for line in out.getvalue().splitlines() if "consistent-hash" in line]
    assert row.split() == ["consistent-hash", "1", "25.0%", "250", "ms", "250", "ms", "1.00", "3.00", "ms"]
    assert "…" not in out.getvalue()


def test_reasons_are_one_line_each_however_narrow_the_terminal():
    shown, out = screen(terminal=False, width=20)
    shown.reasons([a_run("random")])
    assert out.getvalue().splitlines() == ["random", "  prompt 0123456789ab -> demo/server-0: because"]


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_a_bar_on_a_terminal_and_a_line_elsewhere(terminal):
    shown, out = screen(terminal=terminal)
    with shown.counting("random", 2) as counting:
        counting.one_more()
        counting.one_more()
    assert ("2/2" in out.getvalue()) == terminal
    assert ("2 requests" in out.getvalue()) != terminal


def test_the_decisions_shown_are_of_different_servers_and_know_most():
    decisions = [
        {"endpoint": {"name": name}, "strategy": {"matched_tokens": tokens}, "why": f"{name} {tokens}"}
        for name, tokens in [("a", 0), ("a", 90), ("b", 10), ("b", 50), ("c", 0), ("d", 1)]
    ]
    assert [one["why"] for one in _telling(decisions)] == ["a 90", "b 50", "d 1"]
