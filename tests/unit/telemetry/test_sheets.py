import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.telemetry.sheets import DecisionRing, prompt_hash, record, render, runner_up, why
from epp.testing.builders import build_request
from tests.unit.telemetry.facts import SECRET, build_decision, build_outcome


def keep(ring: DecisionRing, **changes):
    decision = build_decision(**changes)
    ring.decided(decision, duration_s=0.0001, body_bytes=10)
    return decision


def test_a_sheet_shows_what_was_asked_of_the_request():
    decision = build_decision(priority=-3, request={"rewrite": "canary", "target_model": "tiny-v2"})
    shown = render(record(decision, at_s=0.0))
    assert (shown["model"], shown["target_model"], shown["rewrite"], shown["priority"]) == ("tiny", "tiny-v2", "canary", -3)


def test_a_sheet_shows_everything_that_led_to_the_pick():
    shown = render(record(build_decision(), at_s=0.0, duration_s=0.00012))
    assert shown["request_id"] == "r-1"
    assert shown["at"] == "1970-01-01T00:00:00.000+00:00"
    assert shown["endpoint"] == {"name": "default/server-1", "authority": "10.0.0.2:8000"}
    assert shown["fallbacks"] == [{"name": "default/server-0", "authority": "10.0.0.1:8000"}]
    assert shown["strategy"]["name"] == "approximate"
    assert shown["strategy"]["matched_tokens"] == 768
    assert shown["candidates"] == 4
    assert shown["filters"] == [{"name": "decode-filter", "removed": ["default/server-3"]}]
    assert shown["margin"] == pytest.approx(0.75 * 3 + 0.9 - 1.0)
    assert shown["second"] == "default/server-0"
    assert shown["duration_us"] == 120
    best, second, third = shown["rows"]
    assert (best["endpoint"], best["chosen"], best["matched_tokens"], best["age_ms"]) == ("default/server-1", True, 768, 50)
    assert best["scores"] == {
        "prefix-cache-scorer": {"value": 0.75, "weight": 3.0},
        "queue-scorer": {"value": 0.9, "weight": 1.0},
    }
    assert (second["endpoint"], second["total"], second["age_ms"]) == ("default/server-0", 1.0, None)
    assert third["endpoint"] == "default/server-2"
    assert shown["outcome"] is None
    json.dumps(shown, allow_nan=False)


def test_the_prompt_is_nowhere_but_as_a_hash():
    ring = DecisionRing(lambda: 0.0)
    keep(ring)
    kept = ring.recent(1)[0]
    text = json.dumps(render(kept)) + why(kept) + repr(kept)
    assert "helpful" not in text
    assert kept.prompt_hash == prompt_hash(build_request(SECRET))
    assert len(kept.prompt_hash) == 12
    assert prompt_hash(build_request(SECRET + b"!")) != kept.prompt_hash


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {},
            "holds 768 of its 1024 tokens there; +2.150 over default/server-0 among 3, most by prefix-cache-scorer (+2.250)",
        ),
        ({"match": False}, "nobody is known to hold any of its 1024 tokens; +2.150 over"),
        ({"chosen": 2}, "approximate holds 0 of its 1024 tokens there; -2.350 over default/server-1 among 3"),
        ({"endpoints": 2, "chosen": 0}, "the only one left of 2"),
    ],
)
def test_why_in_one_line(changes, expected):
    line = why(record(build_decision(**changes), at_s=0.0))
    assert expected in line
    assert "\n" not in line


def test_a_tie_is_called_one():
    decision = build_decision()
    decision.sheet.totals[:] = 1.0
    assert "tied with default/server-0 among 3" in why(record(decision, at_s=0.0))


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=8), st.data())
def test_the_margin_is_to_the_best_of_the_others(totals, data):
    sheet = build_decision().sheet
    sheet.slots, sheet.totals = np.arange(len(totals)) + 5, np.array(totals)
    index = data.draw(st.integers(0, len(totals) - 1))
    margin, second = runner_up(sheet, index + 5)
    others = totals[:index] + totals[index + 1 :]
    if not others:
        assert (margin, second) == (0.0, None)
    else:
        assert margin == pytest.approx(totals[index] - max(others))
        assert totals[second - 5] == max(others)
        assert second != index + 5


def test_long_sheets_are_cut_but_never_the_chosen_one():
    decision = build_decision(endpoints=100, chosen=98)
    shown = render(record(decision, at_s=0.0), rows_max=5)
    assert len(shown["rows"]) == 6
    assert [row["endpoint"] for row in shown["rows"] if row["chosen"]] == ["default/server-98"]
    assert len(render(record(decision, at_s=0.0), rows_max=None)["rows"]) == 99


def test_the_ring_finds_by_id_and_adds_the_end():
    ring = DecisionRing(lambda: 5.0)
    decision = keep(ring, request_id="a")
    ring.finished(decision, build_outcome(), ttft_s=0.1, duration_s=1.5)
    shown = render(ring.get("a"))
    assert shown["outcome"] == {
        "end": "complete",
        "status": 200,
        "served": "",
        "ttft_ms": 100.0,
        "duration_ms": 1500.0,
        "response_bytes": 5000,
        "prompt_tokens": 1000,
        "completion_tokens": 11,
        "cached_tokens": 700,
    }
    assert ring.get("b") is None


def test_a_repeated_id_is_the_later_decision_and_ends_do_not_cross():
    ring = DecisionRing(lambda: 0.0)
    first, second = keep(ring, request_id="a"), keep(ring, request_id="a", model="other")
    ring.finished(first, build_outcome(), ttft_s=None, duration_s=1.0)
    assert ring.get("a").model == "other"
    assert ring.get("a").outcome is None
    ring.finished(second, build_outcome(status=500), ttft_s=None, duration_s=1.0)
    assert ring.get("a").outcome.status == 500


def test_requests_without_an_id_are_kept_by_reservation():
    ring = DecisionRing(lambda: 0.0)
    decision = keep(ring, request_id="", reservation=42)
    ring.finished(decision, build_outcome(), ttft_s=None, duration_s=1.0)
    assert ring.get("reservation-42").outcome is not None


@given(st.lists(st.sampled_from("abcdefgh")), st.integers(1, 5))
def test_the_ring_is_bounded_and_its_index_exact(ids, records_max):
    ring = DecisionRing(lambda: 0.0, records_max=records_max)
    for one in ids:
        keep(ring, request_id=one)
    kept = ids[-records_max:]
    assert [found.id for found in ring.recent(100)] == kept[::-1]
    assert {one for one in "abcdefgh" if ring.get(one) is not None} == set(kept)
    assert ring._bytes == sum(found.array_bytes for found in ring.recent(100))


def test_the_ring_is_bounded_in_bytes_too():
    one = record(build_decision(), at_s=0.0).array_bytes
    assert one > 0
    ring = DecisionRing(lambda: 0.0, bytes_max=3 * one)
    for i in range(10):
        keep(ring, request_id=str(i))
    assert [found.id for found in ring.recent(100)] == ["9", "8", "7"]


def test_recent_can_be_narrowed():
    ring = DecisionRing(lambda: 0.0)
    for i in range(6):
        keep(ring, request_id=str(i), model=("a", "b")[i % 2], chosen=i % 3)
    assert [found.id for found in ring.recent(2)] == ["5", "4"]
    assert [found.id for found in ring.recent(9, model="a")] == ["4", "2", "0"]
    by_name, by_address = ring.recent(9, endpoint="default/server-1"), ring.recent(9, endpoint="10.0.0.2:8000")
    assert [found.id for found in by_name] == [found.id for found in by_address] == ["4", "1"]
    assert [found.id for found in ring.recent(9, model="b", endpoint="default/server-1")] == ["1"]


def test_the_ring_can_be_told_to_keep_fewer_or_more():
    ring = DecisionRing(lambda: 0.0, records_max=3)
    for number in range(3):
        ring.decided(build_decision(request_id=f"r{number}"), duration_s=0.0, body_bytes=0)
    ring.keep(2)
    ring.decided(build_decision(request_id="r3"), duration_s=0.0, body_bytes=0)
    assert [one.id for one in ring.recent(9)] == ["r3", "r2"]
    assert ring.get("r1") is None
