"""`token-load-scorer`: prefers the endpoint with the fewest prompt tokens still to compute."""

from typing import Annotated

import numpy as np
from msgspec import Meta

from epp.model.match import FloatColumn
from epp.model.request import InferenceRequest, prompt_tokens
from epp.scheduling.api import Scorer, View


class TokenLoadScorer(Scorer, frozen=True):
    """Rates `1 - min(t, threshold) / threshold`, t = uncached tokens in flight there + tokens of this prompt that it does not hold.

    Source: the reference's scorer of this name. Its default threshold of 4 Mi tokens is kept; a value near what an endpoint really
    has in flight separates endpoints better.
    """

    queue_threshold_tokens: Annotated[int, Meta(ge=1, description="Tokens that rate 0.0.")] = 4_194_304
    prefix_match_info_producer_name: Annotated[str, Meta(description="Which prefix producer to believe; empty: the default.")] = ""
    in_flight_load_producer_name: Annotated[str, Meta(description="Accepted for compatibility; the ledger is the only source.")] = (
        ""
    )

    def score(self, request: InferenceRequest, view: View) -> FloatColumn:
        """Return 1 where nothing is to be computed, down to 0 at the threshold."""
        uncached = np.maximum(prompt_tokens(request) - view.matched_tokens(self.prefix_match_info_producer_name), 0.0)
        return 1.0 - np.minimum(view.tokens + uncached, self.queue_threshold_tokens) / self.queue_threshold_tokens
