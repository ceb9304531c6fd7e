"""Who leads, by a Lease: the rules alone, without any input or output.

Several pickers agree through one object of the API server which of them leads. The leader renews it, the others look at it; one
that has not changed for as long as it says it is good for has run out, and whoever sees that first takes it. `elector` asks and
writes; these rules say what. Why there are never two leaders at once:

- Time is what passes on our own clock since we *saw* a change. The times written in the object are for people; clocks may be
  wrong by hours, and may even run at different speeds, up to `duration_s` against `deadline_s`.
- A leader counts from when it *asked* for the renewal that was granted, and leads no longer than `deadline_s` from then, which is
  sooner than anybody can take over.
- Every write names the version that it changes, and the API server refuses it (409) if that is not the newest any more.

What it does not protect from: somebody who deletes or edits the object by hand while a picker leads, and a process that is stopped
for seconds in the middle of an answer.

Source: the leader election of Kubernetes' Go client, whose names and times these are.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime

from msgspec import field

from epp.kube.objects import Object


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long things take, in seconds. The defaults are those of controllers everywhere."""

    duration_s: float = 15.0
    """A lease that has not changed for this long has run out."""
    deadline_s: float = 10.0
    """A leader that has not renewed for this long leads no more. Less than `duration_s`, by what clocks may differ in speed."""
    retry_s: float = 2.0
    """Between two renewals, or two looks."""


class LeaseMetadata(Object, frozen=True, omit_defaults=True):
    """Which object, in which version."""

    name: str = ""
    resource_version: str = ""


class LeaseSpec(Object, frozen=True, omit_defaults=True):
    """Who holds a lease, and for how long."""

    holder_identity: str | None = None
    """None or empty: nobody."""
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None
    """How often it has changed hands."""


class Lease(Object, frozen=True):
    """A lease, as `coordination.k8s.io/v1`."""

    metadata: LeaseMetadata = LeaseMetadata()
    spec: LeaseSpec = field(default_factory=LeaseSpec)


class Election:
    """What one candidate knows, and what follows from it. One request at a time: what was asked is told before the next.

    Args:
        name: of the Lease.
        identity: ours, told apart from every other process that ever was.
        timing: how long things take.
    """

    def __init__(self, name: str, identity: str, timing: Timing | None = None) -> None:
        self.timing = timing or Timing()
        assert self.timing.retry_s < self.timing.deadline_s < self.timing.duration_s
        self.identity = identity
        self._name = name
        self._lease: Lease | None = None
        """As last seen; None: there is none."""
        self._changed_s = -math.inf
        """When we saw that its spec had changed."""
        self._asked_s = -math.inf
        """When we asked for what was last granted; -inf while we have given up."""

    @property
    def holder(self) -> str:
        """Who holds it, as far as we have seen; empty: nobody."""
        return (self._lease.spec.holder_identity or "") if self._lease is not None else ""

    @property
    def until_s(self) -> float:
        """Until when we lead unless we renew; -inf when we do not lead."""
        return self._asked_s + self.timing.deadline_s

    def leads(self, now_s: float) -> bool:
        """Return whether we lead."""
        return now_s < self.until_s

    def see(self, lease: Lease | None, now_s: float) -> None:
        """Take note of the object as it is; None: it does not exist."""
        if lease is None or self._lease is None or lease.spec != self._lease.spec:
            self._changed_s = now_s
        self._lease = lease
        if self.holder != self.identity:
            self._asked_s = -math.inf

    def claim(self, now_s: float, time: str) -> Lease | None:
        """Return what to write to lead from now on; None while it is somebody else's.

        A version is in it when an object is to be changed, none when it is to be made.

        Args:
            now_s: monotonic seconds.
            time: of day (`micro_time`), for people.
        """
        if self._lease is None:
            return self._ours(acquired=time, renewed=time, transitions=0)
        spec = self._lease.spec
        transitions = spec.lease_transitions or 0
        if self.holder == self.identity:
            return self._ours(acquired=spec.acquire_time or time, renewed=time, transitions=transitions)
        if self.holder and not self._has_run_out(spec, now_s):
            return None
        return self._ours(acquired=time, renewed=time, transitions=transitions + 1)

    def granted(self, lease: Lease, asked_s: float) -> None:
        """Take note that a claim was written: the object as it is now, and when we asked."""
        self.see(lease, asked_s)
        if self.holder == self.identity:
            self._asked_s = asked_s

    def resign(self, time: str) -> Lease | None:
        """Lead no more, at once. Returns what to write so that another can take over at once; None if it is not ours."""
        self._asked_s = -math.inf
        if self._lease is None or self.holder != self.identity:
            return None
        spec = LeaseSpec(
            holder_identity="",
            lease_duration_seconds=1,
            acquire_time=time,
            renew_time=time,
            lease_transitions=self._lease.spec.lease_transitions,
        )
        return Lease(metadata=self._lease.metadata, spec=spec)

    def _has_run_out(self, spec: LeaseSpec, now_s: float) -> bool:
        """Return whether the holder has had its time. A lease that does not say how long it is good for is good for ours."""
        duration_s = self.timing.duration_s if spec.lease_duration_seconds is None else spec.lease_duration_seconds
        return now_s - self._changed_s >= duration_s

    def _ours(self, *, acquired: str, renewed: str, transitions: int) -> Lease:
        """Return the object as it should be if it is to be ours."""
        spec = LeaseSpec(
            holder_identity=self.identity,
            lease_duration_seconds=math.ceil(self.timing.duration_s),
            acquire_time=acquired,
            renew_time=renewed,
            lease_transitions=transitions,
        )
        version = "" if self._lease is None else self._lease.metadata.resource_version
        return Lease(metadata=LeaseMetadata(name=self._name, resource_version=version), spec=spec)


def micro_time(seconds: float) -> str:
    """Return seconds since the epoch as the API server writes them down: `2026-01-31T12:00:00.000000Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
