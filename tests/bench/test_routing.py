"""The routing bench runs, small, and its figures hang together."""

import math
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from epp.testing.load_client import Result
from epp.testing.summary import summarize
from epp.testing.tokenizer import encode, render_chat
from epp.testing.workload import Conversation, Turn, paced, size, words
from tests.bench import routing
from tests.bench.routing_workloads import Hardware, capacity_rps, ideal_cached, workloads


def test_a_tiny_cell(tmp_path):
    cells = routing.quick(tmp_path)
    assert [cell.strategy for cell in cells] == ["random", "approximate"]
    for cell in cells:
        summary = cell.summary
        assert summary.errors == 0
        assert summary.requests >= 8
        assert 0 <= summary.cached_ratio <= cell.ideal_ratio + 1e-9
        assert summary.ttft_p50_s <= summary.ttft_p95_s <= summary.ttft_p99_s <= summary.e2e_mean_s * summary.requests
        assert 1 <= summary.busiest_ratio <= 2
        assert cell.picker_cpu_ms > 0
        assert len(routing.line(cell)) == len(routing.HEADING)


@pytest.mark.parametrize("name", [name for name in workloads() if name != "mooncake"])
def test_every_workload_can_be_made_and_has_a_capacity(name):
    made = workloads()[name](Random(1), 60)
    assert size(made) == 60
    hardware = Hardware(servers=4, time_scale=2.0)
    capacity = capacity_rps(made, hardware)
    assert capacity > 0
    slower = capacity_rps(made, replace(hardware, time_scale=4.0))
    assert slower == pytest.approx(capacity / 2, rel=0.1)


def test_capacity_is_what_an_engine_can_prefill():
    """Prompts of 1,024 engine tokens that share nothing, one token each: a step of 2,048 holds two."""
    made = [Conversation(kind="x", turns=(Turn(at_s=0.0, text=words(Random(n), 58), max_tokens=1),)) for n in range(400)]
    prompt = len(encode(render_chat([{"role": "user", "content": made[0].turns[0].text}])))
    hardware = Hardware(servers=2, time_scale=1.0)
    rate = hardware.pace.budget / hardware.pace.step_s(prefill=hardware.pace.budget, decodes=0, context=0, past=0)
    assert capacity_rps(paced(made, 1.0), hardware) == pytest.approx(2 * rate / prompt, rel=0.15)


def test_the_ideal_is_one_endless_cache():
    def result(*texts, answer=""):
        return Result(kind="x", messages=tuple({"role": "user", "content": text} for text in texts), answer=answer)

    first, other = words(Random(1), 100), words(Random(2), 100)
    whole = len(encode(render_chat(result(first).messages)))
    assert list(ideal_cached([result(first), result(other), result(first), result(first, other)])) == [
        0,
        0,
        (whole - 1) // 16 * 16,
        (100 + 5) // 16 * 16,
    ]


def test_the_ideal_has_the_answers_too():
    question, answer = words(Random(1), 100), " " + words(Random(2), 60)
    turns = [("user", question), ("assistant", answer), ("user", "more")]
    messages = tuple({"role": role, "content": text} for role, text in turns)
    first = Result(kind="x", messages=messages[:1], answer=answer)
    computed = len(encode(render_chat(first.messages))) + 60 - 1
    assert list(ideal_cached([first, Result(kind="x", messages=messages)])) == [0, computed // 16 * 16]


def test_verdicts_compare_with_the_reference_and_the_best():
    def cell(strategy, ttft_s, cached):
        result = Result(kind="x", messages=(), prompt_tokens=100, cached_tokens=cached, ttft_s=ttft_s, served_by="a")
        summary = summarize([result], 1)
        return routing.Cell(
            workload="hot",
            load=0.5,
            strategy=strategy,
            rps=1.0,
            ideal_ratio=1.0,
            summary=summary,
            machine_ratio=0.9,
            picker_cpu_ms=1.0,
        )

    reference = cell("llm-d", 0.2, 50)
    assert routing.verdicts([reference, cell("approximate", 0.1, 49)])[0].endswith("met")
    assert routing.verdicts([reference, cell("approximate", 0.3, 50)])[0].endswith("MISSED")
    assert routing.verdicts([reference, cell("approximate", 0.1, 40)])[0].endswith("MISSED")
    assert "90%!" in routing.line(reference)


def test_a_trace_is_used_where_there_is_one(monkeypatch, tmp_path):
    monkeypatch.setenv("EPP_TRACES", str(tmp_path))
    assert "mooncake" not in workloads()
    Path(tmp_path, "mooncake").mkdir()
    row = '{"timestamp": 0, "input_length": 700, "output_length": 50, "hash_ids": [0, 1]}\n'
    Path(tmp_path, "mooncake", "conversation_trace.jsonl").write_text(row * 5)
    (one, *_) = workloads()["mooncake"](Random(1), 5)
    assert math.isclose(len(one.turns[0].text.split()), 700 // 16)
