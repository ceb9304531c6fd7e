"""Generations against any order of offers, pins, rollbacks and failed trials; trials against any order of requests."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from epp.config import load
from epp.config.sections import RevertOn
from epp.errors import ConfigError
from epp.live.generations import HISTORY_MAX, Answer, Candidate, Generations
from epp.live.trial import REQUESTS_MIN, Outcome, Tally, Trial

CONFIG = load("")
NAMES = st.sampled_from("abcd")


def candidate(name: str) -> Candidate:
    return Candidate(config=CONFIG, text="", hash=name, source=name)


class History(RuleBasedStateMachine):
    """What a controller does to generations, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.history = Generations(candidate("a"), 0.0)
        self.entered = ["a"]
        """Every configuration that was ever in force, in order."""
        self.newest = "a"
        self.failed = ""
        """The one that may not come back, until another one was offered."""

    @rule(name=NAMES)
    def offer(self, name: str) -> None:
        if name != self.failed:
            self.failed = ""
        self.newest = name
        answer = self.history.offer(candidate(name))
        if name == self.entered[-1]:
            assert answer is Answer.IN_FORCE
        elif self.history.pinned:
            assert answer is Answer.PINNED
        elif name == self.failed:
            assert answer is Answer.CONDEMNED
        else:
            assert answer is Answer.APPLY
            self.enter(name)

    @rule()
    def pin(self) -> None:
        self.history.pin()

    @rule()
    def unpin(self) -> None:
        follows = self.history.unpin()
        if follows is None:
            assert self.newest in {self.entered[-1], self.failed}
        else:
            assert follows.hash == self.newest
            self.enter(follows.hash)

    @rule(back=st.integers(min_value=1, max_value=2 * HISTORY_MAX))
    def roll_back_to(self, back: int) -> None:
        number = len(self.entered) - back
        if number < 1 or back > HISTORY_MAX:
            with pytest.raises(ConfigError):
                self.history.find(number)
            return
        found = self.history.find(number)
        assert found.candidate.hash == self.entered[number - 1]
        self.enter(found.candidate.hash)
        self.history.pardon()
        self.failed = ""
        self.history.pin()

    @precondition(lambda self: len(set(self.entered[-HISTORY_MAX - 1 :])) > 1)
    @rule()
    def roll_back(self) -> None:
        back = self.history.before()
        others = [name for name in self.entered if name != self.entered[-1]]
        assert back.candidate.hash == others[-1]
        self.enter(back.candidate.hash)

    @precondition(lambda self: len(self.entered) > 1 and self.entered[-1] != self.entered[-2])
    @rule()
    def fail_the_trial(self) -> None:
        failed = self.history.current.candidate
        self.enter(self.entered[-2])
        self.history.condemn(failed)
        self.failed = failed.hash

    def enter(self, name: str) -> None:
        self.history.enter(candidate(name), "", 0.0)
        self.entered.append(name)

    @invariant()
    def the_history_is_what_happened(self) -> None:
        assert self.history.current.number == len(self.entered)
        assert self.history.current.candidate.hash == self.entered[-1]
        kept = [one.candidate.hash for one in self.history.previous]
        assert kept == self.entered[-2 : -2 - HISTORY_MAX : -1]

    @invariant()
    def what_waits_has_a_reason(self) -> None:
        waiting = self.history.waiting
        assert (waiting is None) == (self.newest == self.entered[-1])
        if waiting is Answer.CONDEMNED:
            assert self.newest == self.failed
        if waiting is Answer.PINNED:
            assert self.history.pinned


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)

COUNTS = st.integers(min_value=0, max_value=3000)
RATIOS = st.floats(min_value=0, max_value=1)
LIMITS = st.none() | RATIOS


@st.composite
def tallies(draw) -> Tally:
    requests, decided, reports = draw(COUNTS), draw(COUNTS), draw(COUNTS)
    return Tally(
        requests=requests,
        failed=draw(st.integers(min_value=0, max_value=requests)),
        decided=decided,
        prompt_tokens=100.0 * decided,
        believed_tokens=100.0 * decided * draw(RATIOS),
        reports=reports,
        reported_prompt_tokens=100.0 * reports,
        cached_tokens=100.0 * reports * draw(RATIOS),
    )


STEP = st.tuples(st.floats(min_value=0, max_value=40), st.integers(min_value=0, max_value=120), RATIOS, RATIOS, st.booleans())
"""Seconds, requests, share that fails, hit ratio, whether servers report it."""


@given(LIMITS, LIMITS, tallies(), st.lists(STEP, max_size=30))
def test_a_trial_ends_once_and_for_a_reason(error_ratio, hit_ratio_drop, baseline, steps):
    if error_ratio is None and hit_ratio_drop is None:
        error_ratio = 0.5
    trial = Trial(100.0, RevertOn(error_ratio=error_ratio, hit_ratio_drop=hit_ratio_drop), baseline, 0.0)
    now_s, first = 0.0, None
    for seconds, requests, failing, hit, reports in steps:
        for number in range(requests):
            trial.decided(now_s, prompt_tokens=100, believed_tokens=100 * hit)
            if number < requests * failing:
                trial.failed(now_s)
            elif reports:
                trial.reported(now_s, prompt_tokens=100, cached_tokens=100 * hit)
        now_s += seconds
        verdict = trial.verdict(now_s)
        if first is not None:
            assert verdict is first, "final"
            continue
        seen = trial.errors
        if verdict.outcome is Outcome.RUNNING:
            assert now_s < 100.0
            continue
        first = verdict
        assert verdict.reason
        if verdict.outcome is Outcome.PASSED:
            assert now_s >= 100.0
        else:
            assert max(seen.requests, trial.hits.decided) >= REQUESTS_MIN
            errors = error_ratio is not None and seen.error_ratio > error_ratio
            assert errors or (hit_ratio_drop is not None and now_s >= 20.0)
    assert trial.errors.failed <= trial.errors.requests
