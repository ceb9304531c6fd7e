"""`marginal-cost-scorer`: what this request would cost everybody, in tokens of prefill. The default load rule."""

from typing import Annotated

import numpy as np
from msgspec import Meta

from epp.model.match import FloatColumn
from epp.model.request import InferenceRequest, prompt_tokens
from epp.scheduling.api import Scorer, View
from epp.scheduling.columns import ONE, highest, lowest, mean


class MarginalCostScorer(Scorer, frozen=True):
    """Rates `least cost / cost`, so that the cheapest endpoint is 1.

        cost = (backlog + own / (1 - utilization)) / speed * (1 + stall * running / (mean running + 1))

    - `own`: prompt tokens this endpoint does not hold, at least 1.
    - `backlog`: prefill still ahead of a request sent there now. All of it comes from our own ledger: the `own` of every request
      whose first token has not come, less what the endpoint has drained of the one at the head since it got there. Requests that
      did not come through this picker show as waiting requests beyond the ledger's, and count as average prompts.
    - `1 / (1 - utilization)`: my prefill priced at what it costs those who come after. Utilization is the share of recent time in
      which the pool's endpoints had backlog, so affinity weighs more the busier the pool is.
    - `speed`: how fast the endpoint prefills, relative to the pool's mean, for pools of mixed hardware; learned from first tokens.
      Speeds that differ by less than `speedTolerance` are one speed: they are estimates, and following noise costs more than it
      gains.
    - the last factor: my prefill delays everybody who is decoding there; what counts is how many they are beside the pool's mean.

    Nothing has to be tuned to a model or a GPU: every term is tokens, and the rates are learned from first-token times.
    """

    stall: Annotated[
        float,
        Meta(ge=0, le=8, description="Price of delaying decodes: 0 on prefill-only endpoints, 1 where token gaps matter most."),
    ] = 0.5
    speed_tolerance: Annotated[
        float, Meta(ge=0, le=10, description="By how much (as a share) the fastest may beat the slowest and count as equally fast.")
    ] = 1.0
    prefix_match_info_producer_name: Annotated[str, Meta(description="Which prefix producer to believe; empty: the default.")] = ""

    def score(self, request: InferenceRequest, view: View) -> FloatColumn:
        """Return 1 for the cheapest endpoint and `least / cost` for the others."""
        cost = self.cost(request, view)
        return lowest(cost) / cost

    def cost(self, request: InferenceRequest, view: View) -> FloatColumn:
        """Return the marginal cost of each candidate, in tokens of prefill (always above 0)."""
        own: FloatColumn = np.maximum(prompt_tokens(request) - view.matched_tokens(self.prefix_match_info_producer_name), ONE)
        cost = view.backlog + own / (1.0 - view.snapshot.utilization_ratio)
        speed = view.speed
        if highest(speed) > (1.0 + self.speed_tolerance) * lowest(speed):
            cost *= mean(speed) / speed
        if self.stall and (average := mean(running := view.decoding)):
            cost *= 1.0 + self.stall / (average + 1.0) * running
        return cost
