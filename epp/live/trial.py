"""A configuration on trial: what became of its requests, beside what became of those before it, and the verdict.

Errors count from the first request, and against all requests that were sent on their way since, ended or not: what fails fails
quickly, and would be all there is in the first seconds of requests that take minutes. Hits count from `WARM_UP_RATIO` of the time
on, since a strategy that starts with an empty index is expected to find little at first. What servers report as cached counts where
they report it; else what the strategies believed. Both need `REQUESTS_MIN` requests, before the change and since, or nothing is
concluded from them; a trial that ends without having seen so many is passed, and says so.

Pure: time is an argument, of the director's clock.
"""

from dataclasses import dataclass
from enum import Enum

from epp.config.sections import RevertOn

REQUESTS_MIN = 100
"""Requests from which on something is concluded: one error among them is a ratio of 0.01."""
WARM_UP_RATIO = 0.2


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became of requests. Sums, so that two of them can be subtracted."""

    requests: int = 0
    failed: int = 0
    """Of those, with a 5xx, or without an answer or an endpoint."""
    decided: int = 0
    """Requests whose beliefs are known."""
    prompt_tokens: float = 0.0
    """Of those."""
    believed_tokens: float = 0.0
    """Of those tokens, believed cached where the request was sent."""
    reports: int = 0
    reported_prompt_tokens: float = 0.0
    """Of requests whose server reported what it had cached."""
    cached_tokens: float = 0.0
    """Of those tokens, reported cached."""

    @property
    def error_ratio(self) -> float:
        """Share of requests that failed; 0 before the first."""
        return self.failed / max(1, self.requests)

    def hit_ratio(self, *, reported: bool) -> float | None:
        """Return the share of prompt tokens found cached, as reported or as believed; None when that rests on too little."""
        count, tokens, total = (
            (self.reports, self.cached_tokens, self.reported_prompt_tokens)
            if reported
            else (self.decided, self.believed_tokens, self.prompt_tokens)
        )
        return tokens / total if count >= REQUESTS_MIN and total else None


class Outcome(Enum):
    """How a trial stands."""

    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How a trial stands and what that rests on, a sentence."""

    outcome: Outcome
    reason: str = ""


RUNNING = Verdict(outcome=Outcome.RUNNING)


class Trial:
    """One trial, from the swap to the verdict, which is final.

    Args:
        for_s: how long it takes.
        revert_on: what ends it badly.
        baseline: what became of requests under the configuration before.
        started_s: now.
    """

    def __init__(self, for_s: float, revert_on: RevertOn, baseline: Tally, started_s: float) -> None:
        self.for_s = for_s
        self.started_s = started_s
        self.baseline = baseline
        self.errors = Tally()
        """From the start."""
        self.hits = Tally()
        """From the end of the warm-up."""
        self._revert_on = revert_on
        self._warm_s = started_s + WARM_UP_RATIO * for_s
        self._verdict = RUNNING

    def decided(self, at_s: float, *, prompt_tokens: float, believed_tokens: float) -> None:
        """A request was given an endpoint."""
        self.errors.requests += 1
        if at_s >= self._warm_s:
            self.hits.decided += 1
            self.hits.prompt_tokens += prompt_tokens
            self.hits.believed_tokens += believed_tokens

    def refused(self) -> None:
        """A request was given none, and failed by that."""
        self.errors.requests += 1
        self.errors.failed += 1

    def failed(self, at_s: float) -> None:
        """A request that was decided at `at_s` has failed. One from before the swap does not count."""
        if at_s >= self.started_s:
            self.errors.failed += 1

    def reported(self, at_s: float, *, prompt_tokens: float, cached_tokens: float) -> None:
        """The server of a request that was decided at `at_s` says what it had cached."""
        if at_s >= self._warm_s:
            self.hits.reports += 1
            self.hits.reported_prompt_tokens += prompt_tokens
            self.hits.cached_tokens += cached_tokens

    def verdict(self, now_s: float) -> Verdict:
        """Return how it stands."""
        if self._verdict.outcome is Outcome.RUNNING:
            self._verdict = self._judge(now_s)
        return self._verdict

    def _judge(self, now_s: float) -> Verdict:
        reason = self._too_many_errors() or self._too_few_hits()
        if reason:
            return Verdict(outcome=Outcome.FAILED, reason=reason)
        if now_s < self.started_s + self.for_s:
            return RUNNING
        seen = f"{self.errors.requests} requests, {self.errors.failed} failed"
        enough = self.errors.requests >= REQUESTS_MIN
        return Verdict(outcome=Outcome.PASSED, reason=seen if enough else f"only {seen}: too few to judge")

    def _too_many_errors(self) -> str:
        limit, seen, before = self._revert_on.error_ratio, self.errors, self.baseline
        if limit is None or seen.requests < REQUESTS_MIN or seen.error_ratio <= limit:
            return ""
        if before.requests >= REQUESTS_MIN and seen.error_ratio <= before.error_ratio:
            return ""  # it was as bad before: to go back would mend nothing
        was = f"{before.error_ratio:.3f} before" if before.requests else "nothing known of before"
        return f"error ratio {seen.error_ratio:.3f} over {limit:g} in {seen.requests} requests ({was})"

    def _too_few_hits(self) -> str:
        drop = self._revert_on.hit_ratio_drop
        if drop is None:
            return ""
        for reported, word in ((True, "reported"), (False, "believed")):
            before, now = self.baseline.hit_ratio(reported=reported), self.hits.hit_ratio(reported=reported)
            if before is not None and now is not None:
                lost = f"hit ratio {now:.3f} as {word}, {before:.3f} before: lost more than {drop:g}"
                return lost if before - now > drop else ""
        return ""
