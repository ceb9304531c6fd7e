"""Never two leaders at once, whatever clocks, network and API server do; and one as soon as they behave."""

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from epp.kube.lease import Election, Lease, LeaseMetadata, Timing, micro_time

TIMING = Timing()
CANDIDATES = 2
WHO = st.integers(0, CANDIDATES - 1)
SPEEDS = st.sampled_from([0.82, 1.0, 1.22])
"""Of clocks; the slowest and the fastest differ by just less than `duration_s` and `deadline_s` do."""


SECONDS = st.sampled_from([1.0, 4.0, 9.0, 13.0])


class Server:
    """An API server with one Lease: it takes a write only of the version that it has."""

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self._version = 0

    def write(self, lease: Lease) -> Lease | None:
        """The object as it is now; None for a conflict."""
        version = self.lease.metadata.resource_version if self.lease is not None else ""
        if lease.metadata.resource_version != version:
            return None
        self._version += 1
        self.lease = Lease(metadata=LeaseMetadata(name="lease", resource_version=str(self._version)), spec=lease.spec)
        return self.lease


@dataclass
class Candidate:
    """A process with a clock of its own, and the claim that it has not been answered yet."""

    election: Election
    speed: float
    offset: float
    asked_s: float = 0.0
    answer: Lease | None = None
    """Of the server to a claim, under way."""
    resigned: bool = False

    def clock(self, now: float) -> float:
        return self.offset + self.speed * now


class Elections(RuleBasedStateMachine):
    @initialize(speeds=st.tuples(*[SPEEDS] * CANDIDATES), offsets=st.tuples(*[st.sampled_from([-1e5, 0.0, 1e5])] * CANDIDATES))
    def begin(self, speeds, offsets):
        self.now = 0.0
        self.identities = 0
        self.server = Server()
        self.strays: list[Lease] = []
        """Writes that nobody waits for any more, and may arrive yet."""
        self.candidates = [
            Candidate(election=self._new(), speed=speed, offset=offset) for speed, offset in zip(speeds, offsets, strict=True)
        ]

    def _new(self) -> Election:
        self.identities += 1
        return Election("lease", f"process {self.identities}", TIMING)

    @rule(seconds=SECONDS)
    def time_passes(self, seconds):
        self.now += seconds

    @rule(who=WHO, fate=st.sampled_from(["granted", "granted", "slow", "lost", "lost answer"]), seconds=SECONDS)
    def attempt(self, who, fate, seconds):
        """Look, unless we lead, and claim if that can be, before the eyes of the other; what was under way is not waited for."""
        one = self.candidates[who]
        now_s = one.clock(self.now)
        one.answer, one.asked_s = None, now_s
        if not one.election.leads(now_s):
            one.election.see(self.server.lease, now_s)
        wanted = None if one.resigned else one.election.claim(now_s, micro_time(self.now))
        if wanted is None:
            return
        if fate == "lost":
            self.strays.append(wanted)
            return
        one.answer = self.server.write(wanted)
        if fate == "granted":
            self.answers_arrive()
        elif fate == "lost answer":
            one.answer = None
        self.at_most_one_leads()
        for other in self.candidates:
            if other is not one and other.answer is None:
                other.election.see(self.server.lease, other.clock(self.now))
        if fate == "slow":
            self.now += seconds

    @rule()
    def answers_arrive(self):
        for one in self.candidates:
            if one.answer is not None:
                one.election.granted(one.answer, one.asked_s)
                one.answer = None

    @rule()
    def strays_arrive(self):
        while self.strays:
            self.server.write(self.strays.pop(0))

    @rule(who=WHO, arrives=st.booleans())
    def resign(self, who, arrives):
        one = self.candidates[who]
        given_up = one.election.resign(micro_time(self.now))
        one.resigned, one.answer = True, None
        if given_up is not None and arrives:
            self.server.write(given_up)
        elif given_up is not None:
            self.strays.append(given_up)

    @rule(who=WHO)
    def start_anew(self, who):
        one = self.candidates[who]
        self.candidates[who] = Candidate(election=self._new(), speed=one.speed, offset=one.offset)

    def leaders(self) -> list[str]:
        return [one.election.identity for one in self.candidates if one.election.leads(one.clock(self.now))]

    @invariant()
    def at_most_one_leads(self):
        assert len(self.leaders()) <= 1

    def teardown(self):
        """As soon as the network behaves, somebody leads, and goes on."""
        if not hasattr(self, "candidates") or all(one.resigned for one in self.candidates):
            return
        then = []
        for _ in range(30):
            self.now += TIMING.retry_s
            for who in range(CANDIDATES):
                self.attempt(who, "granted", 0.0)
                self.at_most_one_leads()
            then.append(self.leaders())
        assert len(then[-1]) == 1
        assert then[-1] == then[-5]


TestElections = Elections.TestCase
TestElections.settings = settings(max_examples=500, stateful_step_count=30, deadline=None)
