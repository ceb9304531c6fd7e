"""Which prefixes are too common to be a key."""

from random import Random

import pytest

from epp.prefix.hot_prefixes import COUNT_MIN, FRESH_MAX, WINDOW_MIN, HotPrefixes

SHARED = list(range(1, 41))
SHARE_MAX = 1.25 / 8


def prompt(random: Random, shared: int) -> list[int]:
    return SHARED[:shared] + [random.getrandbits(64) for _ in range(10)]


@pytest.fixture
def hot() -> HotPrefixes:
    return HotPrefixes()


def test_nothing_is_hot_at_first(hot):
    for _ in range(COUNT_MIN):
        assert hot.depth(SHARED, SHARE_MAX) == 0
        hot.count(SHARED, 8)
    hot.count(SHARED, 8)
    assert hot.depth(SHARED, SHARE_MAX) > 0


def test_a_prefix_that_everybody_shares_is_seen_whole_and_no_further(hot):
    random = Random(1)
    for _ in range(60):
        hot.count(prompt(random, 40), 8)
    assert hot.depth(prompt(random, 40), SHARE_MAX) == 40


def test_only_what_is_over_the_share_is_hot(hot):
    """Three groups with 50, 30 and 2 of a hundred requests, the others for themselves; the limit is 16 of a hundred."""
    random = Random(2)
    groups = {50: [1, 2, 3], 80: [4, 5, 6], 82: [7, 8, 9]}
    for _ in range(1000):
        draw = random.randrange(100)
        head = next((head for below, head in groups.items() if draw < below), [])
        hot.count([*head, *prompt(random, 0)], 8)
    assert [hot.depth([*head, 77], SHARE_MAX) for head in groups.values()] == [3, 3, 0]
    assert hot.depth(prompt(random, 0), SHARE_MAX) == 0


def test_what_is_no_longer_asked_for_cools_down(hot):
    random = Random(3)
    for _ in range(WINDOW_MIN):
        hot.count(SHARED, 8)
    assert hot.depth(SHARED, SHARE_MAX) == 40
    for _ in range(2 * WINDOW_MIN):
        hot.count(prompt(random, 0), 8)
    assert hot.depth(SHARED, SHARE_MAX) == 0


def test_a_prefix_stays_hot_when_a_window_ends(hot):
    random = Random(4)
    for step in range(3 * WINDOW_MIN):
        hot.count(prompt(random, 40), 8)
        assert step < 100 or hot.depth(SHARED, SHARE_MAX) == 40


def test_memory_is_bounded_by_the_window(hot):
    random = Random(5)
    for _ in range(5 * WINDOW_MIN):
        hot.count(prompt(random, 0), 8)
    assert len(hot) <= 2 * FRESH_MAX * WINDOW_MIN


def test_more_endpoints_need_a_longer_window(hot):
    for _ in range(3 * WINDOW_MIN):
        hot.count(SHARED[:1], 1000)
    assert hot._seen_now == 3 * WINDOW_MIN
