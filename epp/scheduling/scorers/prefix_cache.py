"""`prefix-cache-scorer`: prefers the endpoint that holds most of the prompt."""

from typing import Annotated

import numpy as np
from msgspec import Meta

from epp.model.match import FloatColumn
from epp.model.request import InferenceRequest
from epp.scheduling.api import Scorer, View


class PrefixCacheScorer(Scorer, frozen=True):
    """Rates `w * min(1, matched / scale)^2 + (1 - w) * matched / total` in prompt tokens; 0 everywhere when nothing is known.

    Source: the reference's scorer of this name (there in blocks).
    """

    prefix_match_info_producer_name: Annotated[str, Meta(description="Which prefix producer to believe; empty: the default.")] = ""
    match_length_weight: Annotated[float, Meta(ge=0, le=1, description="w: how much the length of a match counts by itself.")] = 0.0
    match_length_scale_tokens: Annotated[int, Meta(ge=1, description="Matched tokens at which the length term is 1.")] = 8192

    def score(self, request: InferenceRequest, view: View) -> FloatColumn:
        """Return the share of the prompt that each candidate holds, lifted by its length if so configured."""
        found = view.match(self.prefix_match_info_producer_name)
        if found is None:
            return np.zeros(len(view))
        matched = view.take(found.tokens)
        share = matched / max(found.total, 1)
        if not self.match_length_weight:
            return share
        length = np.minimum(matched / self.match_length_scale_tokens, 1.0) ** 2
        return self.match_length_weight * length + (1.0 - self.match_length_weight) * share
