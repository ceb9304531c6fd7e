"""Endpoints that did not answer are passed over, longer each time, and forgiven at the first answer."""

import math

import numpy as np
import pytest

from epp.model.decision import Outcome
from epp.pool.outliers import ERRORS_IN_A_ROW, LONGEST_S, REFUSALS_MORE, TRY_EVERY_S, Outliers, is_hung

POOL = np.array([0, 1, 2])
NO_PAGES = np.full(3, -math.inf)


def narrow(outliers, slots, now_s, scraped_s=NO_PAGES):
    return outliers.narrow(slots, now_s, scraped_s)


def test_a_failure_passes_an_endpoint_over_for_a_second():
    outliers = Outliers()
    outliers.failed(1, 10.0)
    assert narrow(outliers, POOL, 10.5).tolist() == [0, 2]
    assert narrow(outliers, POOL, 11.0).tolist() == [0, 1, 2]


def test_each_failure_in_a_row_doubles_the_wait_up_to_a_bound():
    outliers, now_s, waits = Outliers(), 0.0, []
    for _ in range(8):
        outliers.failed(1, now_s)
        end = now_s
        while narrow(outliers, POOL, end).tolist() != [0, 1, 2]:
            end += 0.5
        waits.append(end - now_s)
        now_s = end
    assert waits == [1, 2, 4, 8, 16, LONGEST_S, LONGEST_S, LONGEST_S]


def test_a_burst_of_failures_counts_once():
    outliers = Outliers()
    for _ in range(100):
        outliers.failed(1, 10.0)
    assert narrow(outliers, POOL, 11.0).tolist() == [0, 1, 2]


def test_whose_metrics_page_does_not_come_again_is_not_tried_for_half_a_minute():
    outliers = Outliers()
    outliers.failed(1, 10.0)
    silent, back = np.array([99.0, 9.9, 99.0]), np.array([99.0, 10.3, 99.0])
    assert narrow(outliers, POOL, 12.0, silent).tolist() == [0, 2]
    assert narrow(outliers, POOL, 10.0 + LONGEST_S - 0.1, silent).tolist() == [0, 2]
    assert narrow(outliers, POOL, 10.0 + LONGEST_S, silent).tolist() == [0, 1, 2]
    assert narrow(outliers, POOL, 10.5, back).tolist() == [0, 2], "a page alone is no answer"
    assert narrow(outliers, POOL, 11.0, back).tolist() == [0, 1, 2]


def test_one_try_a_second_until_it_is_answered():
    outliers = Outliers()
    outliers.tried(1, 9.0)
    outliers.failed(1, 10.0)
    outliers.tried(1, 11.0)
    outliers.tried(0, 11.0)
    assert narrow(outliers, POOL, 11.9).tolist() == [0, 2]
    assert narrow(outliers, POOL, 11.0 + TRY_EVERY_S).tolist() == [0, 1, 2]
    outliers.tried(1, 12.0)
    outliers.answered(1, 12.0)
    assert narrow(outliers, POOL, 12.1).tolist() == [0, 1, 2]


def test_an_answer_clears_it():
    outliers = Outliers()
    outliers.failed(1, 10.0)
    outliers.answered(1, 10.0)
    assert narrow(outliers, POOL, 10.1).tolist() == [0, 1, 2]
    assert len(outliers) == 0


def test_the_end_of_a_request_sent_before_it_failed_clears_nothing():
    outliers = Outliers()
    outliers.failed(1, 10.0)
    outliers.answered(1, 9.9)
    outliers.failed(1, 11.0)
    outliers.answered(1, 9.9)
    assert narrow(outliers, POOL, 12.9).tolist() == [0, 2], "and the wait goes on doubling"
    outliers.answered(1, 10.5)
    assert narrow(outliers, POOL, 12.9).tolist() == [0, 1, 2], "it answers some since: not all of it is gone"


def test_when_all_are_suspect_all_are_candidates():
    outliers = Outliers()
    for slot in range(3):
        outliers.failed(slot, 10.0)
    assert narrow(outliers, POOL, 10.1).tolist() == [0, 1, 2]
    assert narrow(outliers, np.array([2]), 10.1).tolist() == [2]


@pytest.mark.parametrize(
    ("outcome", "silent_s", "hung"),
    [
        (Outcome(end="client-gone"), 6.0, True),
        (Outcome(end="client-gone"), 0.1, False),
        (Outcome(end="client-gone"), math.inf, False),
        (Outcome(end="client-gone", status=200), 6.0, False),
        (Outcome(end="released"), 6.0, False),
        (Outcome(end="complete", status=200), 6.0, False),
    ],
)
def test_a_client_that_leaves_a_silent_endpoint_tells_of_it(outcome, silent_s, hung):
    assert is_hung(outcome, silent_s) is hung


def test_errors_in_a_row_pass_an_endpoint_over_and_one_good_answer_forgives():
    outliers = Outliers()
    for now_s in range(ERRORS_IN_A_ROW - 1):
        outliers.erred(1, now_s)
        assert len(narrow(outliers, POOL, now_s)) == 3
    outliers.answered(1, 0.0)
    for now_s in range(ERRORS_IN_A_ROW):
        assert len(narrow(outliers, POOL, now_s)) == 3
        outliers.erred(1, now_s)
    assert narrow(outliers, POOL, now_s).tolist() == [0, 2]
    assert len(narrow(outliers, POOL, now_s + 1.0)) == 3, "it is tried"
    outliers.erred(1, now_s + 1.0)
    assert narrow(outliers, POOL, now_s + 2.5).tolist() == [0, 2], "and passed over for longer at its first error"
    outliers.answered(1, now_s + 1.0)
    assert len(narrow(outliers, POOL, now_s + 2.5)) == 3


def hear(outliers, slot, status, times=1, now_s=10.0):
    for _ in range(times):
        outliers.heard(slot, status, sent_s=now_s, now_s=now_s)


@pytest.mark.parametrize(
    ("status", "times"),
    [(503, ERRORS_IN_A_ROW), (429, ERRORS_IN_A_ROW), (401, REFUSALS_MORE), (403, REFUSALS_MORE), (404, REFUSALS_MORE)],
)
def test_how_many_answers_of_a_status_pass_an_endpoint_over(status, times):
    outliers = Outliers()
    hear(outliers, 1, status, times=times - 1)
    assert len(outliers) == 0
    hear(outliers, 1, status)
    assert narrow(outliers, POOL, 10.5).tolist() == [0, 2]


@pytest.mark.parametrize("status", [0, 200, 302, 400, 413, 422])
def test_which_answers_tell_nothing_against_an_endpoint(status):
    outliers = Outliers()
    hear(outliers, 1, status, times=100)
    assert len(outliers) == 0


@pytest.mark.parametrize("status", [400, 401, 404, 0])
def test_only_a_good_answer_clears(status):
    outliers = Outliers()
    hear(outliers, 1, 503, times=2)
    hear(outliers, 1, status)
    hear(outliers, 1, 503)
    hear(outliers, 1, status, now_s=10.1)
    assert narrow(outliers, POOL, 10.5).tolist() == [0, 2]
    hear(outliers, 1, 200, now_s=10.1)
    assert narrow(outliers, POOL, 10.5).tolist() == [0, 1, 2]


def test_who_is_refused_everywhere_takes_nobody_out():
    outliers = Outliers()
    for _ in range(50):
        for slot in POOL:
            hear(outliers, slot, 404)
    assert len(outliers) == 0


def test_refusals_that_follow_a_suspect_to_the_next_endpoint_must_be_more_than_all_before():
    outliers, counts = Outliers(), []
    for slot in range(4):
        hear(outliers, slot, 200)
    for slot in range(4):
        count = 0
        while len(outliers) == slot:
            hear(outliers, slot, 404)
            count += 1
        counts.append(count / REFUSALS_MORE)
    assert counts == [1, 2, 4, 8]


def test_refusals_count_from_the_last_good_answer_and_go_with_their_endpoint():
    outliers = Outliers()
    hear(outliers, 0, 404, times=REFUSALS_MORE - 1)
    hear(outliers, 2, 404, times=REFUSALS_MORE - 1)
    hear(outliers, 0, 200)
    outliers.forget(2)
    for slot in (0, 2):
        hear(outliers, slot, 404)
    assert len(outliers) == 0
    hear(outliers, 1, 404, times=REFUSALS_MORE)
    assert narrow(outliers, POOL, 10.5).tolist() == [0, 2]
