import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.telemetry.health import EXT_PROC, INFERENCE_EXTENSION, LIVENESS, READINESS, SERVICES, Fact, HealthState, Serving

READY_NAMES = ["", READINESS, EXT_PROC, INFERENCE_EXTENSION]


def synced() -> HealthState:
    state = HealthState()
    state.set(Fact.POOL_SYNCED, True)
    return state


@pytest.mark.parametrize("name", READY_NAMES)
def test_ready_from_the_first_sync_until_draining(name):
    state = HealthState()
    assert state.answer(name) is Serving.NOT_SERVING
    state.set(Fact.POOL_SYNCED, True)
    assert state.answer(name) is Serving.SERVING
    state.set(Fact.DRAINING, True)
    assert state.answer(name) is Serving.NOT_SERVING


def test_alive_before_sync_and_while_draining():
    state = HealthState()
    assert state.answer(LIVENESS) is Serving.SERVING
    state.set(Fact.DRAINING, True)
    assert state.answer(LIVENESS) is Serving.SERVING


def test_only_the_leader_is_ready_where_there_is_an_election():
    state = HealthState(elected=True)
    state.set(Fact.POOL_SYNCED, True)
    assert not state.ready
    state.set(Fact.LEADER, True)
    assert state.ready


def test_a_standby_is_well_and_not_ready_and_is_asked_by_two_names():
    state = HealthState(elected=True)
    state.set(Fact.POOL_SYNCED, True)
    assert state.answer(LIVENESS) is Serving.SERVING
    assert {state.answer(name) for name in ("", READINESS, EXT_PROC)} == {Serving.NOT_SERVING}
    assert state.answer(INFERENCE_EXTENSION) is Serving.SERVICE_UNKNOWN
    assert INFERENCE_EXTENSION not in state.services


@pytest.mark.parametrize("name", ["nobody", "Readiness", " "])
def test_other_names_are_unknown(name):
    assert synced().answer(name) is Serving.SERVICE_UNKNOWN


def test_who_leads_is_told():
    state = HealthState(elected=True)
    state.set(Fact.POOL_SYNCED, True)
    state.set(Fact.LEADER, False, reason="picker-1 leads")
    assert state.reasons() == ("not the leader: picker-1 leads",)


def test_every_reason_is_told():
    state = HealthState()
    state.set(Fact.POOL_SYNCED, False, reason="pool.yaml is missing")
    state.set(Fact.DRAINING, True)
    assert state.reasons() == ("the endpoints of the pool are not known yet: pool.yaml is missing", "draining")
    assert synced().reasons() == ()


def test_watchers_hear_of_changes_and_nothing_else():
    state, heard = HealthState(), []
    unwatch = state.watch(lambda: heard.append(state.ready))
    state.set(Fact.POOL_SYNCED, True)
    state.set(Fact.POOL_SYNCED, True)
    state.set(Fact.DRAINING, True)
    unwatch()
    state.set(Fact.DRAINING, False)
    assert heard == [True, False]


@given(st.lists(st.tuples(st.sampled_from(Fact), st.booleans())))
def test_a_watcher_that_copies_is_never_wrong(changes):
    state = HealthState()
    copy = [state.ready]
    state.watch(lambda: copy.append(state.ready))
    for fact, value in changes:
        state.set(fact, value)
        assert copy[-1] is state.ready is (state.answer("") is Serving.SERVING) is (not state.reasons())
    assert {state.answer(name) for name in SERVICES} <= {Serving.SERVING, Serving.NOT_SERVING}
