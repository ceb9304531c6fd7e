"""The in-flight ledger: what its columns say after each event."""

from dataclasses import fields

import numpy as np
import pytest

from epp.errors import Overloaded
from epp.model.snapshot import Columns
from epp.pool.load import RATE_DECAY, RATE_DEFAULT, RATE_PRIOR_TOKENS, RATE_SAFETY, UTILIZATION_MAX, Ledger

A, B = 0, 1


@pytest.fixture
def columns() -> Columns:
    return Columns(**{field.name: np.zeros(2) for field in fields(Columns)})


@pytest.fixture
def ledger(columns):
    ledger = Ledger(columns, requests_max=4)
    ledger.open(A, 0.0)
    ledger.open(B, 0.0)
    yield ledger
    ledger.check()


def ahead(columns: Columns, slot: int, now_s: float) -> float:
    """Prefill tokens ahead of a request sent to `slot` now, as a scorer computes it."""
    drained = min(columns.head_tokens[slot], columns.rate[slot] * (now_s - columns.head_since_s[slot]))
    return columns.backlog[slot] - drained


def test_requests_decided_in_one_instant_see_each_other(ledger, columns):
    for _ in range(3):
        ledger.reserve(A, 100.0, 1.0)
    assert (columns.requests[A], columns.tokens[A], columns.backlog[A], columns.backlog_count[A]) == (3, 300, 300, 3)
    assert columns.requests[B] == 0


def test_life_of_a_request(ledger, columns):
    handle = ledger.reserve(A, 100.0, 1.0)
    assert (columns.head_tokens[A], columns.head_since_s[A]) == (100, 1.0)
    ledger.first_token(handle, 1.5)
    assert (columns.requests[A], columns.tokens[A]) == (1, 100)
    assert (columns.backlog[A], columns.backlog_count[A], columns.head_tokens[A]) == (0, 0, 0)
    ledger.release(handle, 2.0)
    assert (columns.requests[A], columns.tokens[A]) == (0, 0)


def test_a_fully_cached_prompt_still_counts(ledger, columns):
    ledger.reserve(A, 0.0, 1.0)
    assert columns.backlog[A] == 1


def test_the_head_drains_at_the_rate_and_no_further(ledger, columns):
    ledger.reserve(A, 800.0, 1.0)
    ledger.reserve(A, 500.0, 1.0)
    assert ahead(columns, A, 1.05) == pytest.approx(1300 - 0.05 * RATE_DEFAULT)
    assert ahead(columns, A, 60.0) == 500


def test_the_next_head_starts_when_the_first_token_of_the_last_came(ledger, columns):
    first = ledger.reserve(A, 800.0, 1.0)
    ledger.reserve(A, 500.0, 1.1)
    ledger.first_token(first, 1.2)
    assert (columns.head_tokens[A], columns.head_since_s[A]) == (500, 1.2)


def test_rate_is_learned_from_heads(ledger, columns):
    first = ledger.reserve(A, 1000.0, 1.0)
    second = ledger.reserve(A, 1000.0, 1.0)
    ledger.first_token(first, 1.5)
    ledger.first_token(second, 2.0)
    prior_s = RATE_PRIOR_TOKENS * RATE_SAFETY / RATE_DEFAULT
    tokens = (RATE_PRIOR_TOKENS * RATE_DECAY + 1000) * RATE_DECAY + 1000
    seconds = (prior_s * RATE_DECAY + 0.5) * RATE_DECAY + 0.5
    assert columns.rate[A] == pytest.approx(RATE_SAFETY * tokens / seconds)
    assert columns.rate[B] == RATE_DEFAULT


def test_rate_comes_close_to_the_truth_and_stays_below(ledger, columns):
    now = 0.0
    for _ in range(200):
        handle = ledger.reserve(A, 2000.0, now)
        now += 2000.0 / 3000.0
        ledger.first_token(handle, now)
        ledger.release(handle, now)
    assert columns.rate[A] == pytest.approx(0.8 * 3000.0, rel=0.02)


def test_an_endpoint_that_was_asked_little_has_no_speed(ledger, columns):
    for number in range(9):
        assert columns.speed[A] == 0
        handle = ledger.reserve(A, 1000.0, float(number))
        ledger.first_token(handle, number + 0.1)
        ledger.release(handle, number + 0.1)
    assert columns.speed[A] == pytest.approx(0.8 * 1256 / 0.1, rel=0.01)
    assert columns.speed[B] == 0


def test_first_tokens_that_come_at_once_make_nobody_endlessly_fast(ledger, columns):
    for _ in range(50):
        handle = ledger.reserve(A, 100.0, 1.0)
        ledger.first_token(handle, 1.0)
        ledger.release(handle, 1.0)
    assert columns.rate[A] <= 100 / 0.001
    assert columns.speed[A] <= 356 / 0.001


def test_equal_endpoints_have_equal_speeds_whatever_is_asked_of_them(ledger, columns):
    """A serves cached prompts, B long ones; both take 10 ms for a request and a millisecond for 25 tokens."""
    now = 0.0
    for _ in range(300):
        for slot, own in ((A, 16.0), (B, 4000.0)):
            handle = ledger.reserve(slot, own, now)
            now += 0.010 + own / 25_000
            ledger.first_token(handle, now)
            ledger.release(handle, now)
    assert columns.rate[B] > 10 * columns.rate[A]
    assert columns.speed[B] == pytest.approx(columns.speed[A], rel=0.05)


def test_a_request_that_overtakes_the_head_teaches_nothing(ledger, columns):
    ledger.reserve(A, 800.0, 1.0)
    second = ledger.reserve(A, 500.0, 1.0)
    ledger.first_token(second, 1.01)
    assert columns.rate[A] == RATE_DEFAULT
    assert (columns.backlog[A], columns.head_tokens[A], columns.head_since_s[A]) == (800, 800, 1.0)


def test_a_request_that_ends_before_its_first_token_teaches_nothing(ledger, columns):
    first = ledger.reserve(A, 800.0, 1.0)
    ledger.reserve(A, 500.0, 1.0)
    ledger.release(first, 1.01)
    assert columns.rate[A] == RATE_DEFAULT
    assert (columns.backlog[A], columns.head_tokens[A], columns.head_since_s[A]) == (500, 500, 1.01)


def test_whatever_is_reported_twice_counts_once(ledger, columns):
    handle = ledger.reserve(A, 100.0, 1.0)
    other = ledger.reserve(A, 10.0, 1.0)
    for _ in range(2):
        ledger.first_token(handle, 1.5)
    for _ in range(2):
        ledger.release(handle, 2.0)
    ledger.released(handle, 2.0)
    ledger.first_token(handle, 2.0)
    assert (columns.requests[A], columns.tokens[A], columns.backlog[A]) == (1, 10, 10)
    ledger.release(other, 3.0)


def test_unknown_handles_are_ignored(ledger):
    ledger.first_token(99, 1.0)
    ledger.release(99, 1.0)
    ledger.released(0, 1.0)
    assert len(ledger) == 0


def test_the_bound(ledger):
    handles = [ledger.reserve(A, 1.0, 1.0) for _ in range(4)]
    assert ledger.full
    with pytest.raises(Overloaded):
        ledger.reserve(B, 1.0, 1.0)
    ledger.release(handles[0], 1.0)
    assert ledger.reserve(B, 1.0, 1.0) > handles[-1]


def test_the_next_owner_of_a_slot_inherits_nothing(ledger, columns):
    old = ledger.reserve(A, 700.0, 1.0)
    ledger.close(A, 1.1)
    assert (columns.requests[A], columns.backlog[A], columns.head_tokens[A], columns.rate[A]) == (0, 0, 0, RATE_DEFAULT)
    ledger.open(A, 1.2)
    new = ledger.reserve(A, 30.0, 1.3)
    ledger.first_token(old, 1.4)
    ledger.release(old, 1.5)
    assert (columns.requests[A], columns.tokens[A], columns.backlog[A]) == (1, 30, 30)
    assert len(ledger) == 1
    ledger.release(new, 1.6)


def test_lean_mode_keeps_the_prefill_until_it_has_drained(ledger, columns):
    for _ in range(3):
        ledger.released(ledger.reserve(A, 800.0, 1.0), 1.0)
    assert (columns.requests[A], columns.tokens[A], columns.backlog[A], len(ledger)) == (0, 0, 2400, 0)
    assert ahead(columns, A, 1.15) == pytest.approx(2400 - 0.15 * RATE_DEFAULT)
    ledger.advance(1.25)
    assert (columns.backlog[A], columns.backlog_count[A]) == (800, 1)
    assert ahead(columns, A, 1.25) == pytest.approx(2400 - 0.25 * RATE_DEFAULT)
    ledger.advance(9.0)
    assert (columns.backlog[A], columns.backlog_count[A], columns.head_tokens[A]) == (0, 0, 0)


def test_a_ghost_sent_to_an_idle_endpoint_starts_to_drain_when_it_was_sent(ledger, columns):
    ledger.released(ledger.reserve(A, 800.0, 1.0), 1.0)
    ledger.released(ledger.reserve(A, 800.0, 5.0), 5.0)
    assert columns.backlog[A] == 800
    assert ahead(columns, A, 5.05) == pytest.approx(800 - 0.05 * RATE_DEFAULT)


def test_a_ghost_does_not_drain_before_it_was_sent_when_the_rate_has_risen_meanwhile(ledger, columns):
    ledger.released(ledger.reserve(A, 10 * RATE_DEFAULT, 1.0), 1.0)
    ledger.first_token(ledger.reserve(A, 10_000.0, 1.0), 1.001)
    assert columns.rate[A] > 5 * RATE_DEFAULT
    ledger.released(ledger.reserve(A, 1000.0, 8.0), 8.0)
    assert (columns.backlog[A], columns.head_since_s[A]) == (1000, 8.0)


def test_ghosts_are_bounded(ledger, columns):
    for _ in range(9):
        ledger.released(ledger.reserve(A, 1000.0, 1.0), 1.0)
    assert columns.backlog_count[A] == 4


def test_ghosts_before_a_watched_request_drain_before_it(ledger, columns):
    ledger.released(ledger.reserve(A, 800.0, 1.0), 1.0)
    watched = ledger.reserve(A, 400.0, 1.0)
    assert columns.head_tokens[A] == 1200
    ledger.advance(1.1)
    assert (columns.backlog[A], columns.head_tokens[A], columns.head_since_s[A]) == (400, 400, pytest.approx(1.1))
    ledger.release(watched, 1.2)


def test_closing_takes_ghosts_along(ledger, columns):
    ledger.released(ledger.reserve(A, 800.0, 1.0), 1.0)
    ledger.close(A, 1.0)
    ledger.open(A, 1.0)
    ledger.advance(9.0)
    assert columns.backlog[A] == 0


def test_utilization_rises_and_falls_with_the_share_of_busy_endpoints(ledger):
    handle = ledger.reserve(A, 100.0, 10.0)
    assert ledger.utilization_ratio == 0.0
    ledger.advance(100.0)
    assert ledger.utilization_ratio == pytest.approx(0.5)
    ledger.first_token(handle, 100.0)
    ledger.advance(103.0)
    assert ledger.utilization_ratio == pytest.approx(0.5 / np.e)


def test_utilization_has_a_ceiling(ledger):
    for slot in (A, B):
        ledger.reserve(slot, 100.0, 10.0)
    ledger.advance(100.0)
    assert ledger.utilization_ratio == UTILIZATION_MAX


def test_a_ghost_counts_as_busy_until_it_has_drained_however_late_one_looks(ledger):
    ledger.released(ledger.reserve(A, 8.0 * RATE_DEFAULT, 10.0), 10.0)
    ledger.advance(18.0)
    assert ledger.utilization_ratio == pytest.approx(0.5 * (1 - np.exp(-8 / 3)))
    ledger.advance(21.0)
    assert ledger.utilization_ratio == pytest.approx(0.5 * (1 - np.exp(-8 / 3)) / np.e)


def test_average_own_starts_with_the_first_request_and_follows_slowly(ledger):
    ledger.reserve(A, 500.0, 1.0)
    assert ledger.average_own == 500
    ledger.reserve(A, 1500.0, 1.0)
    assert ledger.average_own == pytest.approx(520)
