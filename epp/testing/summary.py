"""What a run of a workload comes to: percentiles, cached share, spread. Pure."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from epp.testing.load_client import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The figures of one run. Times in seconds; failed requests count in `requests` and `errors` alone."""

    requests: int
    errors: int
    cached_ratio: float
    """Prompt tokens that the servers had cached, as they report in `usage`."""
    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p95_s: float
    ttft_p99_s: float
    gap_mean_s: float
    gap_p99_s: float
    e2e_mean_s: float
    busiest_ratio: float
    """Prompt tokens sent to the busiest server over the mean of all."""
    late_p99_s: float
    """How late requests left: what the client added."""


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of all do not exceed; NaN for none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def mean(values: Sequence[float]) -> float:
    """Return the mean; NaN for none."""
    return sum(values) / len(values) if values else math.nan


def summarize(results: Sequence[Result], servers: int) -> Summary:
    """Return the figures of a run against `servers` servers."""
    good = [result for result in results if not result.error]
    sent: Counter[str] = Counter()
    for result in good:
        sent[result.served_by] += result.prompt_tokens
    total = sum(sent.values())
    ttfts = [result.ttft_s for result in good]
    gaps = [gap for result in good for gap in result.gaps_s]
    return Summary(
        requests=len(results),
        errors=len(results) - len(good),
        cached_ratio=sum(result.cached_tokens for result in good) / total if total else 0.0,
        ttft_mean_s=mean(ttfts),
        ttft_p50_s=percentile(ttfts, 0.5),
        ttft_p95_s=percentile(ttfts, 0.95),
        ttft_p99_s=percentile(ttfts, 0.99),
        gap_mean_s=mean(gaps),
        gap_p99_s=percentile(gaps, 0.99),
        e2e_mean_s=mean([result.e2e_s for result in good]),
        busiest_ratio=max(sent.values()) * servers / total if total else math.nan,
        late_p99_s=percentile([result.late_s for result in results], 0.99),
    )
