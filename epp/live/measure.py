"""How requests have fared: lately, as the baseline of a trial, and since it began, for the trial itself.

The baseline costs the request path nothing: it is the difference between what the metrics count now and what they counted a while
ago, and what the latest decisions believed. Only while a trial runs is there one more observer.
"""

from collections import deque

from epp.errors import RequestError
from epp.live.trial import REQUESTS_MIN, Tally, Trial
from epp.model.decision import Decision, Outcome
from epp.model.request import InferenceRequest
from epp.telemetry.metrics import Metrics, Totals, is_failure
from epp.telemetry.sheets import DecisionRing

SAMPLE_S = 15.0
"""Between two samples of the counters."""
SAMPLES_MAX = 40
"""The baseline is the last ten minutes, or less when the configuration is younger."""
DECISIONS_MAX = 10 * REQUESTS_MIN
"""Latest decisions whose beliefs are looked at."""


class Baseline:
    """What became of requests under the configuration in force.

    Args:
        metrics: counts them.
        ring: keeps the latest decisions.
    """

    def __init__(self, metrics: Metrics, ring: DecisionRing) -> None:
        self._metrics = metrics
        self._ring = ring
        self._samples: deque[Totals] = deque([metrics.totals()], maxlen=SAMPLES_MAX)
        self._sampled_s = 0.0
        self._since_s = 0.0

    def sample(self, now_s: float) -> None:
        """Take note of the counters, if it is time to; `now_s` is monotonic."""
        if now_s - self._sampled_s >= SAMPLE_S:
            self._sampled_s = now_s
            self._samples.append(self._metrics.totals())

    def restart(self, at_s: float) -> None:
        """Another configuration is in force: what was before is not its doing. `at_s` is wall time."""
        self._samples.clear()
        self._samples.append(self._metrics.totals())
        self._since_s = at_s

    def tally(self) -> Tally:
        """Return what became of requests since the oldest sample, and what the latest decisions believed."""
        now, then = self._metrics.totals(), self._samples[0]
        decisions = [one for one in self._ring.recent(DECISIONS_MAX) if one.at_s >= self._since_s]
        return Tally(
            requests=now.requests - then.requests,
            failed=now.failed - then.failed,
            decided=len(decisions),
            prompt_tokens=sum(one.prompt_tokens for one in decisions),
            believed_tokens=sum(one.matched_tokens for one in decisions),
            reports=now.reports - then.reports,
            reported_prompt_tokens=now.prompt_tokens - then.prompt_tokens,
            cached_tokens=now.cached_tokens - then.cached_tokens,
        )


class Witness:
    """Tells a trial of every request. An `Observer` of the director.

    Args:
        trial: who is told.
    """

    def __init__(self, trial: Trial) -> None:
        self._trial = trial

    def decided(self, decision: Decision, *, duration_s: float, body_bytes: int) -> None:  # noqa: ARG002
        """A request was given an endpoint."""
        tokens, believed = decision.prompt_tokens, decision.matched_tokens
        self._trial.decided(decision.at_s, prompt_tokens=tokens, believed_tokens=believed)

    def rejected(self, request: InferenceRequest, error: RequestError) -> None:
        """A request was answered by the picker: by what is in force now. To shed what may be shed is no failure."""
        if request.priority >= 0 and is_failure(error):
            self._trial.refused()

    def finished(self, decision: Decision, outcome: Outcome, *, ttft_s: float | None, duration_s: float) -> None:  # noqa: ARG002
        """A request is over."""
        if is_failure(outcome):
            self._trial.failed(decision.at_s)
        if outcome.usage is not None and outcome.usage.cached_tokens is not None:
            prompt_tokens = outcome.usage.prompt_tokens or decision.prompt_tokens
            self._trial.reported(decision.at_s, prompt_tokens=prompt_tokens, cached_tokens=outcome.usage.cached_tokens)
