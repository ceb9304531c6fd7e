"""What a trial concludes, and what it does not."""

import pytest

from epp.config.sections import RevertOn
from epp.live.trial import REQUESTS_MIN, Outcome, Tally, Trial

QUIET = Tally(requests=1000, failed=1, decided=1000, prompt_tokens=1e6, believed_tokens=6e5)
REPORTED = Tally(requests=1000, reports=1000, reported_prompt_tokens=1e6, cached_tokens=5e5)


class Court:
    """A trial of 100 seconds that begins at 1000."""

    def __init__(self, baseline: Tally = QUIET, **revert_on) -> None:
        self.trial = Trial(100.0, RevertOn(**revert_on), baseline, 1000.0)
        self.now_s = 1000.0

    def run(self, seconds: float, requests: int, *, failed: int = 0, believed: float = 0.6, cached: float | None = None) -> None:
        """Let requests of 1000 tokens be decided now, and end; then time passes."""
        for number in range(requests):
            self.trial.decided(self.now_s, prompt_tokens=1000, believed_tokens=1000 * believed)
            if number < failed:
                self.trial.failed(self.now_s)
            elif cached is not None:
                self.trial.reported(self.now_s, prompt_tokens=1000, cached_tokens=1000 * cached)
        self.now_s += seconds

    @property
    def verdict(self):
        return self.trial.verdict(self.now_s)


def test_all_is_well():
    court = Court()
    court.run(50, 500)
    assert court.verdict.outcome is Outcome.RUNNING
    court.run(50, 500)
    assert court.verdict.outcome is Outcome.PASSED
    assert court.verdict.reason == "1000 requests, 0 failed"


def test_nobody_came():
    court = Court()
    court.run(100, REQUESTS_MIN - 1)
    assert court.verdict.outcome is Outcome.PASSED
    assert "too few" in court.verdict.reason


class TestErrors:
    def test_too_many_end_it_at_once(self):
        court = Court(error_ratio=0.05)
        court.run(1, 200, failed=11)
        assert court.verdict.outcome is Outcome.FAILED
        assert court.verdict.reason == "error ratio 0.055 over 0.05 in 200 requests (0.001 before)"

    def test_exactly_the_limit_is_allowed(self):
        court = Court(error_ratio=0.05)
        court.run(1, 200, failed=10)
        assert court.verdict.outcome is Outcome.RUNNING

    def test_requests_without_an_endpoint_are_errors(self):
        court = Court()
        for _ in range(REQUESTS_MIN):
            court.trial.refused()
        assert court.verdict.outcome is Outcome.FAILED

    def test_a_few_bad_ones_at_the_start_prove_nothing(self):
        court = Court()
        court.run(1, REQUESTS_MIN - 1, failed=REQUESTS_MIN - 1)
        assert court.verdict.outcome is Outcome.RUNNING

    def test_those_that_fail_quickly_are_held_against_all_that_are_under_way(self):
        court = Court(error_ratio=0.05)
        court.run(1, 5000, failed=100)
        assert court.verdict.outcome is Outcome.RUNNING

    def test_failures_of_requests_from_before_do_not_count(self):
        court = Court()
        court.run(1, 200)
        for _ in range(200):
            court.trial.failed(999.9)
        assert court.verdict.outcome is Outcome.RUNNING

    def test_an_outage_that_was_there_before_is_not_its_doing(self):
        court = Court(Tally(requests=1000, failed=300))
        court.run(1, 1000, failed=290)
        assert court.verdict.outcome is Outcome.RUNNING
        court.run(1, 1000, failed=900)
        assert court.verdict.outcome is Outcome.FAILED

    def test_they_can_be_disregarded(self):
        court = Court(error_ratio=None)
        court.run(100, 1000, failed=1000)
        assert court.verdict.outcome is Outcome.PASSED


class TestHits:
    def test_a_loss_beyond_the_limit_ends_it(self):
        court = Court(hit_ratio_drop=0.1)
        court.run(30, 200)
        court.run(1, 200, believed=0.49)
        assert court.verdict.outcome is Outcome.FAILED
        assert court.verdict.reason == "hit ratio 0.490 as believed, 0.600 before: lost more than 0.1"

    def test_a_loss_within_it_does_not(self):
        court = Court(hit_ratio_drop=0.1)
        court.run(30, 200)
        court.run(70, 200, believed=0.51)
        assert court.verdict.outcome is Outcome.PASSED

    def test_what_is_not_found_while_the_index_fills_is_not_held_against_it(self):
        court = Court()
        court.run(19, 500, believed=0.0)
        assert court.verdict.outcome is Outcome.RUNNING
        court.run(81, 0)
        assert court.verdict.outcome is Outcome.PASSED

    def test_reports_go_before_beliefs(self):
        both = Tally(requests=1000, decided=1000, prompt_tokens=1e6, believed_tokens=9e5, reports=1000, **_reports(5e5))
        court = Court(both)
        court.run(30, 200, cached=0.5)
        court.run(1, 200, believed=0.0, cached=0.5)
        assert court.verdict.outcome is Outcome.RUNNING
        court = Court(both)
        court.run(30, 200, cached=0.5)
        court.run(1, 200, believed=0.9, cached=0.3)
        assert court.verdict.outcome is Outcome.FAILED
        assert "as reported" in court.verdict.reason

    def test_reports_are_not_compared_with_beliefs(self):
        court = Court(REPORTED)
        court.run(30, 0)
        court.run(1, 500, believed=0.0)
        assert court.verdict.outcome is Outcome.RUNNING

    @pytest.mark.parametrize("baseline", [Tally(), Tally(requests=99, decided=99, prompt_tokens=1e5, believed_tokens=1e5)])
    def test_without_a_baseline_nothing_is_concluded(self, baseline):
        court = Court(baseline)
        court.run(30, 200)
        court.run(70, 200, believed=0.0)
        assert court.verdict.outcome is Outcome.PASSED

    def test_they_can_be_disregarded(self):
        court = Court(hit_ratio_drop=None)
        court.run(30, 200)
        court.run(70, 200, believed=0.0)
        assert court.verdict.outcome is Outcome.PASSED


def _reports(cached_tokens: float) -> dict[str, float]:
    return {"reported_prompt_tokens": 1e6, "cached_tokens": cached_tokens}
