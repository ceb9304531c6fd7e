"""Load rules on virtual time: what the default makes of answers of real length, beside the other rules on the same traffic."""

import pytest

from tests.bench.virtual_routing import CONFIGS, Cell, Setting, main, run

SECONDS = 12.0


def cell(config: str, workload: str, rps: float, **how) -> Cell:
    return run(CONFIGS[config], workload, rps=rps, seconds=SECONDS, **how)


@pytest.mark.parametrize(("workload", "rps"), [("assistant", 25), ("agent", 15)])
def test_one_system_prompt_does_not_gather_all_decodes_in_one_place(workload, rps):
    default, random = cell("default", workload, rps), cell("random", workload, rps)
    assert default.busiest < 0.3
    assert default.end_s.mean() < 1.1 * random.end_s.mean()


@pytest.mark.parametrize("reports", [True, False])
@pytest.mark.parametrize(("workload", "rps"), [("chat", 25), ("groups", 20), ("summaries", 14)])
def test_the_default_is_no_worse_than_the_reference_weights(workload, rps, reports):
    default, reference = (
        cell("default", workload, rps, setting=Setting(reports=reports)),
        cell("llm-d", workload, rps, setting=Setting(reports=reports)),
    )
    assert default.first_s.mean() < 1.02 * reference.first_s.mean()
    assert default.end_s.mean() < 1.05 * reference.end_s.mean()


def test_decodes_count_where_the_picker_sees_no_answers():
    assert cell("default", "assistant", 25, setting=Setting(lean=True)).busiest < 0.3


def test_what_no_server_reports_is_not_believed_cached_for_ever():
    """Prompts that share nothing go where there is least to do, as if there were no hash behind `approximate`."""
    default, alone = (cell(config, "summaries", 14, setting=Setting(reports=False)) for config in ("default", "approximate"))
    assert default.first_s.mean() < 1.05 * alone.first_s.mean()


def test_the_command(capsys, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("{plugins: [{type: queue-scorer}]}")
    flags = ["--workload", "stories", "--config", "random", "--config", str(own), "--rps", "5", "--seconds", "4"]
    assert main(flags) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[:4] == ["stories", "5", "rps", "random"]
    assert str(own) in second
