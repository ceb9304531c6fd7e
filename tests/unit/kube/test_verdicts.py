"""What is remembered of who may read, and for how long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.kube.verdicts import UNKNOWN, Outcome, Verdict, Verdicts, key_of

ALLOWED, FORBIDDEN = Verdict(Outcome.ALLOWED, "reader"), Verdict(Outcome.FORBIDDEN, "stranger")
KEY = key_of("token", "/metrics")


def test_each_kind_is_believed_for_its_own_time():
    verdicts = Verdicts(allowed_s=60, denied_s=10)
    for verdict, lasts_s in ((ALLOWED, 60), (FORBIDDEN, 10), (UNKNOWN, 10)):
        verdicts.put(KEY, verdict, 100.0)
        assert verdicts.get(KEY, 100.0) == verdict
        assert verdicts.get(KEY, 100.0 + lasts_s - 0.1) == verdict
        assert verdicts.get(KEY, 100.0 + lasts_s) is None


def test_one_token_at_two_pages_and_two_tokens_at_one_are_told_apart():
    verdicts = Verdicts()
    verdicts.put(KEY, ALLOWED, 0.0)
    for key in (key_of("token", "/pool"), key_of("other", "/metrics"), key_of("token/metrics", ""), key_of("", "/metrics")):
        assert verdicts.get(key, 1.0) is None


@pytest.mark.parametrize(("before", "after"), [(ALLOWED, UNKNOWN), (UNKNOWN, ALLOWED), (ALLOWED, FORBIDDEN), (FORBIDDEN, UNKNOWN)])
def test_what_was_asked_last_counts_even_when_it_is_answered_first(before, after):
    verdicts = Verdicts()
    verdicts.put(KEY, before, 0.0)
    verdicts.put(KEY, after, 1.0)
    verdicts.put(KEY, before, 0.5)
    assert verdicts.get(KEY, 2.0) == after
    assert len(verdicts) == 1


def test_any_number_of_refusals_puts_out_no_reader():
    verdicts = Verdicts(denied_max=4)
    verdicts.put(KEY, ALLOWED, 0.0)
    for i in range(100):
        verdicts.put(key_of(f"made up {i}", "/metrics"), UNKNOWN, 1.0)
    assert verdicts.get(KEY, 2.0) == ALLOWED
    assert len(verdicts) == 5


def test_no_token_is_kept():
    key, page = key_of("secret-token", "/metrics")
    assert (len(key), page) == (32, "/metrics")
    assert b"secret" not in key


said = st.lists(
    st.tuples(st.integers(0, 7), st.sampled_from([ALLOWED, FORBIDDEN, UNKNOWN]), st.floats(0, 20), st.booleans()), max_size=60
)
"""Who, what, how long after the one before, and whether it was asked five seconds earlier."""


@given(steps=said)
def test_with_room_it_is_as_a_list_of_everything_that_was_said(steps):
    verdicts = Verdicts(allowed_max=8, denied_max=8, allowed_s=60, denied_s=10)
    last: dict[int, tuple[Verdict, float]] = {}
    now_s = 0.0
    for name, verdict, passed_s, late in steps:
        now_s += passed_s
        asked_s = now_s - 5.0 if late else now_s
        verdicts.put(key_of(str(name), "/"), verdict, asked_s)
        if name not in last or asked_s >= last[name][1]:
            last[name] = verdict, asked_s
        for one, (newest, since_s) in last.items():
            good = now_s < since_s + (60 if newest is ALLOWED else 10)
            assert verdicts.get(key_of(str(one), "/"), now_s) == (newest if good else None)


@given(steps=said, allowed_max=st.integers(1, 4), denied_max=st.integers(1, 4))
def test_without_room_the_longest_ago_are_asked_about_again(steps, allowed_max, denied_max):
    verdicts = Verdicts(allowed_max=allowed_max, denied_max=denied_max, allowed_s=60, denied_s=10)
    now_s, newest = 0.0, {}
    for name, verdict, passed_s, _ in steps:
        now_s += passed_s
        verdicts.put(key_of(str(name), "/"), verdict, now_s)
        newest.pop(name, None)
        newest[name] = verdict, now_s
        for allowed, room, lasts_s in ((True, allowed_max, 60), (False, denied_max, 10)):
            of_kind = [(one, *what) for one, what in newest.items() if (what[0] is ALLOWED) is allowed]
            for back, (one, what, since_s) in enumerate(reversed(of_kind)):
                kept = back < room and now_s < since_s + lasts_s
                found = verdicts.get(key_of(str(one), "/"), now_s)
                assert found == what if kept else found is None
                if back >= room:  # put out for good, even if there is room again
                    del newest[one]
        assert len(verdicts) <= allowed_max + denied_max
