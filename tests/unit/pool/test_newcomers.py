"""Endpoints that have just come are held back, ever less."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.config.sections import SlowStart
from epp.model.endpoint import Endpoint
from epp.pool.newcomers import WINDOW_S_MAX, Newcomers
from epp.pool.state import PoolState

RULE = SlowStart(window_ms=10_000, share_min=0.1)
POOL = np.array([0, 1, 2])


def narrowed(newcomers, now_s, draw, slots=POOL, rule=RULE):
    return newcomers.narrow(slots, now_s, rule, draw).tolist()


@pytest.mark.parametrize(
    ("age_s", "draw", "there"),
    [(0, 0.09, True), (0, 0.1, False), (1, 0.11, False), (5, 0.49, True), (5, 0.51, False), (9.9, 0.98, True), (10, 0.999, True)],
)
def test_the_share_grows_with_the_time_that_has_passed(age_s, draw, there):
    newcomers = Newcomers()
    newcomers.come([1], 100.0)
    assert narrowed(newcomers, 100.0 + age_s, draw) == ([0, 1, 2] if there else [0, 2])


def test_each_by_its_own_age():
    newcomers = Newcomers()
    newcomers.come([0], 100.0)
    newcomers.come([2], 104.0)
    assert narrowed(newcomers, 106.0, 0.5) == [0, 1]
    assert narrowed(newcomers, 106.0, 0.7) == [1]
    assert narrowed(newcomers, 106.0, 0.2) == [0, 1, 2]


def test_when_nobody_else_is_left_they_are_candidates():
    newcomers = Newcomers()
    newcomers.come([0, 2], 100.0)
    assert narrowed(newcomers, 100.0, 0.9, np.array([0, 2])) == [0, 2]


def test_who_goes_is_forgotten_and_who_has_long_been_there():
    newcomers = Newcomers()
    newcomers.come([0], 0.0)
    newcomers.come([1, 2], 1.0)
    newcomers.go(1)
    newcomers.go(7)
    assert newcomers.slots == (0, 2)
    newcomers.come([1], WINDOW_S_MAX + 0.5)
    assert newcomers.slots == (2, 1)


def endpoints(*names, generation=""):
    return [Endpoint(name=name, address=f"10.0.0.{ord(name)}", port=1, generation=generation) for name in names]


def test_who_comes_into_an_empty_pool_is_no_newcomer():
    pool = PoolState()
    pool.apply(endpoints("a", "b"), 1.0)
    assert pool.newcomers.slots == ()
    pool.apply(endpoints("a", "b", "c"), 2.0)
    assert pool.newcomers.slots == (2,)
    pool.apply(endpoints("x", "y"), 3.0)
    assert pool.newcomers.slots == ()


def test_who_starts_again_is_one():
    pool = PoolState()
    pool.apply(endpoints("a", "b"), 1.0)
    pool.apply([*endpoints("a"), *endpoints("b", generation="2")], 2.0)
    assert pool.newcomers.slots == (1,)


@given(st.lists(st.floats(0, 20), min_size=3, max_size=3), st.floats(0, 1, exclude_max=True), st.floats(0, 40))
def test_it_is_what_the_definition_says(ages, draw, now_s):
    newcomers = Newcomers()
    comings = sorted((now_s - age, slot) for slot, age in enumerate(ages))
    for since_s, slot in comings:
        newcomers.come([slot], since_s)
    expected = [slot for since_s, slot in comings if draw < RULE.share_min or since_s <= now_s - draw * RULE.window_s]
    assert narrowed(newcomers, now_s, draw) == (sorted(expected) or [0, 1, 2])
