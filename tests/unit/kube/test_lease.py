"""The rules of leader election, step by step; `tests/property/test_lease.py` has what must hold whatever happens."""

import msgspec
import pytest

from epp.kube.lease import Election, Lease, LeaseMetadata, LeaseSpec, micro_time

NOON = "2026-01-31T12:00:00.000000Z"
LATER = "2026-01-31T12:00:10.000000Z"


def _lease(
    holder: str | None, *, version: str = "1", renewed: str = NOON, duration: int | None = 15, transitions: int = 3
) -> Lease:
    spec = LeaseSpec(
        holder_identity=holder,
        lease_duration_seconds=duration,
        acquire_time=NOON,
        renew_time=renewed,
        lease_transitions=transitions,
    )
    return Lease(metadata=LeaseMetadata(name="lease", resource_version=version), spec=spec)


@pytest.fixture
def election() -> Election:
    return Election("lease", "us")


def _leader(election: Election, now_s: float) -> None:
    election.see(_lease("", version="1"), now_s)
    claim = election.claim(now_s, NOON)
    assert claim is not None
    election.granted(Lease(metadata=LeaseMetadata(name="lease", resource_version="2"), spec=claim.spec), now_s)


def test_where_there_is_none_one_is_made(election):
    election.see(None, 0.0)
    made = election.claim(0.0, NOON)
    assert made is not None
    assert msgspec.to_builtins(made) == {
        "metadata": {"name": "lease"},
        "spec": {
            "holderIdentity": "us",
            "leaseDurationSeconds": 15,
            "acquireTime": NOON,
            "renewTime": NOON,
            "leaseTransitions": 0,
        },
    }
    assert not election.leads(0.0), "not before it is granted"
    election.granted(made, 0.0)
    assert election.leads(0.0)
    assert election.holder == "us"


@pytest.mark.parametrize("nobody", [None, ""])
def test_one_that_was_given_up_is_taken_at_once(election, nobody):
    election.see(_lease(nobody, duration=1), 5.0)
    claim = election.claim(5.0, LATER)
    assert claim is not None
    assert claim.metadata.resource_version == "1"
    assert claim.spec.lease_transitions == 4
    assert claim.spec.acquire_time == LATER


def test_somebody_elses_is_left_alone_until_it_has_not_changed_for_its_time(election):
    election.see(_lease("them"), 0.0)
    assert election.claim(14.5, NOON) is None
    election.see(_lease("them", version="2", renewed=LATER), 14.5)
    assert election.claim(29.0, NOON) is None
    claim = election.claim(29.5, NOON)
    assert claim is not None
    assert claim.metadata.resource_version == "2"


def test_a_label_does_not_renew(election):
    election.see(_lease("them", version="1"), 0.0)
    election.see(_lease("them", version="2"), 14.0)
    claim = election.claim(15.0, NOON)
    assert claim is not None
    assert claim.metadata.resource_version == "2"


@pytest.mark.parametrize(("said", "seconds"), [(60, 60.0), (None, 15.0)])
def test_how_long_it_is_good_for_is_what_its_holder_said(election, said, seconds):
    election.see(_lease("them", duration=said), 0.0)
    assert election.claim(seconds - 0.1, NOON) is None
    assert election.claim(seconds, NOON) is not None


def test_a_leader_renews_and_stays_the_one_that_it_was(election):
    _leader(election, 0.0)
    claim = election.claim(2.0, LATER)
    assert claim is not None
    assert (claim.spec.acquire_time, claim.spec.renew_time, claim.spec.lease_transitions) == (NOON, LATER, 4)
    election.granted(claim, 2.0)
    assert election.until_s == 12.0


def test_a_leader_that_cannot_renew_leads_no_more_after_its_deadline(election):
    _leader(election, 0.0)
    assert election.leads(9.9)
    assert not election.leads(10.0)


def test_what_took_longer_than_the_deadline_to_be_granted_is_no_leadership(election):
    _leader(election, 0.0)
    election.granted(_lease("us", version="3"), 1.0)
    assert not election.leads(11.5)


def test_a_leader_that_sees_another_holder_leads_no_more(election):
    _leader(election, 0.0)
    election.see(_lease("them"), 1.0)
    assert not election.leads(1.0)
    assert election.claim(1.0, NOON) is None


def test_a_leader_whose_lease_is_gone_leads_no_more_and_may_make_it_again(election):
    _leader(election, 0.0)
    election.see(None, 1.0)
    assert not election.leads(1.0)
    assert election.claim(1.0, NOON) is not None


def test_one_that_lost_touch_and_finds_its_own_lease_takes_it_up_again(election):
    _leader(election, 0.0)
    election.see(_lease("us", version="7"), 60.0)
    assert not election.leads(60.0)
    claim = election.claim(60.0, LATER)
    assert claim is not None
    assert claim.metadata.resource_version == "7"


def test_resigning_leaves_the_lease_to_whoever_looks_next(election):
    _leader(election, 0.0)
    given_up = election.resign(LATER)
    assert given_up is not None
    assert not election.leads(0.0)
    assert (given_up.metadata.resource_version, given_up.spec.holder_identity) == ("2", "")
    other = Election("lease", "them")
    other.see(given_up, 100.0)
    assert other.claim(100.0, LATER) is not None


def test_who_does_not_hold_it_has_nothing_to_give_up(election):
    assert election.resign(NOON) is None
    election.see(_lease("them"), 0.0)
    assert election.resign(NOON) is None


def test_micro_time():
    assert micro_time(0.25) == "1970-01-01T00:00:00.250000Z"
