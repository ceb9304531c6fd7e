"""Waits after a watch has ended."""

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.errors import ApiError
from epp.kube.backoff import CLOSED, Backoff, Pace

AWAY = ApiError(0, "Unreachable", "")
END = ApiError(0, CLOSED, "")
EXPIRED = ApiError(410, "Expired", "")
ABSENT = ApiError(404, "NotFound", "")
PACE = Pace()


class Longest(Random):
    """Shortens nothing."""

    def random(self):
        return 0.0


def waits(*errors, lasted_s=0.0, random=None):
    backoff = Backoff(PACE, random or Longest())
    return [backoff.after(error, lasted_s=lasted_s) for error in errors]


def test_each_failure_in_a_row_doubles_the_wait_up_to_the_longest():
    assert waits(*[AWAY] * 9) == pytest.approx([0.2, 0.4, 0.8, 1.6, 3, 3, 3, 3, 3])


def test_a_watch_that_lasted_makes_the_next_failure_the_first():
    assert waits(AWAY, AWAY, AWAY, lasted_s=PACE.settled_s) == [0.2, 0.2, 0.2]


def test_a_watch_that_ended_in_good_order_goes_on_at_once_but_not_again_and_again():
    assert waits(*[END] * 6) == pytest.approx([0, 0.4, 0.8, 1, 1, 1])
    assert waits(*[END] * 3, lasted_s=PACE.settled_s) == [0, 0, 0]


def test_an_expired_version_is_listed_at_once_but_not_again_and_again():
    assert waits(EXPIRED, EXPIRED, EXPIRED) == pytest.approx([0, 0.4, 0.8])
    assert waits(*[AWAY] * 6, EXPIRED)[-1] == 0, "after an outage too: the server answers"


def test_what_does_not_exist_is_looked_for_ever_more_slowly():
    assert waits(*[ABSENT] * 9)[-1] == PACE.absent_s


def test_the_server_can_ask_for_more_but_not_for_ever():
    assert waits(ApiError(429, "TooManyRequests", "", retry_after_s=5)) == [5]
    assert waits(ApiError(503, "Unavailable", "", retry_after_s=9999)) == [PACE.asked_s_max]


@given(st.lists(st.sampled_from([AWAY, END, EXPIRED, ABSENT]), min_size=2, max_size=40), st.randoms(use_true_random=False))
def test_never_a_busy_loop(errors, random):
    """Of any two waits in a row at least one is a real one, however it ended."""
    found = waits(*errors, random=random)
    assert all(max(pair) >= PACE.retry_s / 2 for pair in pairwise(found))
    assert max(found) <= PACE.asked_s_max


def test_replicas_spread():
    random = Random(3)
    found = {waits(AWAY, random=random)[0] for _ in range(50)}
    assert len(found) > 40
    assert PACE.retry_s / 2 <= min(found) <= max(found) <= PACE.retry_s
    lasts = {Backoff(PACE, random).watch_s() for _ in range(50)}
    assert PACE.watch_s / 2 <= min(lasts) < max(lasts) <= PACE.watch_s
