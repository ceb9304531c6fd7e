"""`dynamo-cost-scorer`: prefill that is left to do plus decode that is going on, as the router of NVIDIA Dynamo weighs them."""

from typing import Annotated

import numpy as np
from msgspec import Meta

from epp.model.match import FloatColumn
from epp.model.request import InferenceRequest, prompt_tokens
from epp.scheduling.api import Scorer, View


class DynamoCostScorer(Scorer, frozen=True):
    """Rates `exp(-c / temperature)` with c the cost, scaled so that the cheapest candidate has 0 and the dearest 1.

        cost = overlapScoreWeight * (prefill ahead + own tokens that are not cached there) + tokens being decoded there

    With `weighted-random-picker`, which draws in proportion to scores, this is Dynamo's softmax over costs; with
    `max-score-picker` the cheapest always wins, as with its temperature 0. All terms are tokens; Dynamo counts blocks, but only the
    ratio matters. Tokens being decoded are the KV cache in use as scraped, or what our own ledger has there if that is more.
    Source: https://docs.nvidia.com/dynamo, KV cache routing, cost function.
    """

    overlap_score_weight: Annotated[
        float, Meta(ge=0, le=100, description="What a token of prefill counts beside one of decode.")
    ] = 1.0
    temperature: Annotated[float, Meta(gt=0, le=100, description="Small: the cheapest nearly always; large: nearly at random.")] = (
        0.1
    )
    prefix_match_info_producer_name: Annotated[str, Meta(description="Which prefix producer to believe; empty: the default.")] = ""

    def score(self, request: InferenceRequest, view: View) -> FloatColumn:
        """Return 1 for the cheapest candidate and `exp(-1 / temperature)` for the dearest."""
        own = prompt_tokens(request) - view.matched_tokens(self.prefix_match_info_producer_name)
        in_use = view.kv_usage * view.take(view.snapshot.columns.capacity_tokens)
        cost = self.overlap_score_weight * (view.backlog + np.maximum(own, 0.0)) + np.maximum(in_use, view.tokens)
        least = cost.min()
        spread = cost.max() - least
        return np.ones(len(view)) if spread <= 0 else np.exp((least - cost) / (spread * self.temperature))
