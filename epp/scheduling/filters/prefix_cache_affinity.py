"""`prefix-cache-affinity-filter`: keeps the endpoints that hold the prompt, unless they are too busy for it to pay."""

from typing import Annotated, Literal

import numpy as np
from msgspec import Meta, field

from epp.errors import ConfigError
from epp.model.match import BoolColumn
from epp.model.request import InferenceRequest
from epp.scheduling.api import Filter, View


class PrefixCacheAffinityFilter(Filter, frozen=True):
    """Keeps candidates that hold at least `affinityThreshold` of the prompt.

    Keeps all of them when nobody does, or when the least loaded holder would answer more than `maxTTFTPenaltyMs` later than the
    least loaded of the others; the time to first token is estimated as uncached tokens in flight / `peakPrefillThroughput`.
    Source: the reference's filter of this name, with its defaults (calibrated there on Qwen3-32B, two H100). Its exploration by
    chance is refused: a pick must follow from its score sheet.
    """

    affinity_threshold: Annotated[float, Meta(ge=0, le=1, description="Share of the prompt that makes an endpoint a holder.")] = 0.8
    exploration_probability: Annotated[float, Meta(ge=0, le=1, description="Must be 0: picks are explainable.")] = 0.0
    max_ttft_penalty_ms: Annotated[float, Meta(ge=0, description="Later than this, affinity no longer pays.")] = field(
        default=18_000.0, name="maxTTFTPenaltyMs"
    )
    ttft_source: Annotated[Literal["prefillThroughput", "latencyPredictor"], Meta(description="How TTFT is estimated.")] = (
        "prefillThroughput"
    )
    peak_prefill_throughput: Annotated[float, Meta(gt=0, description="Prompt tokens per second that an endpoint prefills.")] = (
        15_928.0
    )
    prefix_match_info_producer_name: Annotated[str, Meta(description="Which prefix producer to believe; empty: the default.")] = ""

    def check(self) -> None:
        """Refuse what this project does not do."""
        if self.exploration_probability:
            raise ConfigError("exploration by chance is not supported; use weighted-random-picker", "explorationProbability")
        if self.ttft_source != "prefillThroughput":
            raise ConfigError("there is no latency predictor; use prefillThroughput", "ttftSource")

    def keep(self, request: InferenceRequest, view: View) -> BoolColumn:
        """Return the holders, or everybody."""
        everybody = np.ones(len(view), dtype=np.bool_)
        found = view.match(self.prefix_match_info_producer_name)
        if found is None:
            return everybody
        holders = view.take(found.tokens) >= self.affinity_threshold * max(found.total, 1)
        if holders.all() or not holders.any():
            return everybody
        ttft_ms = view.tokens / self.peak_prefill_throughput * 1000.0
        penalty_ms = ttft_ms[holders].min() - ttft_ms[~holders].min()
        return everybody if penalty_ms > self.max_ttft_penalty_ms else holders
