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
    A penalty of 0 is no bound: holders are kept however busy they are.
    Source: the reference's filter of this name, with its defaults (calibrated there on Qwen3-32B, two H100). Its exploration by
    chance is refused: a pick must follow from its score sheet. `maxTokensInFlightPenalty`, which it had before it knew a
    throughput, is the same bound in tokens.
    """

    affinity_threshold: Annotated[float, Meta(ge=0, le=1, description="Share of the prompt that makes an endpoint a holder.")] = 0.8
    exploration_probability: Annotated[float, Meta(ge=0, le=1, description="Must be 0: picks are explainable.")] = 0.0
    max_ttft_penalty_ms: Annotated[
        float, Meta(ge=0, description="Later than this, affinity no longer pays; 0: it always does.")
    ] = field(default=18_000.0, name="maxTTFTPenaltyMs")
    ttft_source: Annotated[Literal["prefillThroughput", "latencyPredictor"], Meta(description="How TTFT is estimated.")] = (
        "prefillThroughput"
    )
    peak_prefill_throughput: Annotated[
        float, Meta(ge=0, description="Prompt tokens per second that an endpoint prefills; 0 only where the penalty is 0.")
    ] = 15_928.0
    max_tokens_in_flight_penalty: Annotated[
        int, Meta(ge=0, description="The same in uncached tokens in flight, as older files have it; 0: no bound.")
    ] = 0
    prefix_match_info_producer_name: Annotated[str, Meta(description="Which prefix producer to believe; empty: the default.")] = ""
    in_flight_load_producer_name: Annotated[str, Meta(description="Accepted for compatibility; the ledger is the only source.")] = (
        ""
    )
    latency_prediction_info_producer_name: Annotated[
        str, Meta(description="Accepted for compatibility; there is no latency predictor.")
    ] = ""

    def check(self) -> None:
        """Refuse what this project does not do."""
        if self.exploration_probability:
            raise ConfigError("exploration by chance is not supported; use weighted-random-picker", "explorationProbability")
        if self.ttft_source != "prefillThroughput":
            raise ConfigError("there is no latency predictor; use prefillThroughput", "ttftSource")
        if self.max_ttft_penalty_ms and not self.peak_prefill_throughput:
            raise ConfigError("must be above 0, or maxTTFTPenaltyMs 0", "peakPrefillThroughput")

    def keep(self, request: InferenceRequest, view: View) -> BoolColumn:
        """Return the holders, or everybody."""
        everybody = np.ones(len(view), dtype=np.bool_)
        found = view.match(self.prefix_match_info_producer_name)
        if found is None:
            return everybody
        holders = view.take(found.tokens) >= self.affinity_threshold * max(found.total, 1)
        if holders.all() or not holders.any():
            return everybody
        more = view.tokens[holders].min() - view.tokens[~holders].min()
        return everybody if self._too_busy(float(more)) else holders

    def _too_busy(self, more: float) -> bool:
        """Whether affinity does not pay where a holder has so many more tokens in flight than another endpoint."""
        if self.max_ttft_penalty_ms and more / self.peak_prefill_throughput * 1000.0 > self.max_ttft_penalty_ms:
            return True
        return 0 < self.max_tokens_in_flight_penalty < more
