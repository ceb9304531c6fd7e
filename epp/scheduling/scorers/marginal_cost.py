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

        cost = (backlog + own / (1 - utilization) + decode * prompt * decoding) / speed

    - `own`: prompt tokens this endpoint does not hold, at least 1.
    - `backlog`: prefill still ahead of a request sent there now. All of it comes from our own ledger: the `own` of every request
      whose first token has not come, less what the endpoint has drained of the one at the head since it got there. Requests that
      did not come through this picker show as waiting requests beyond the ledger's, and count as average prompts.
    - `1 / (1 - utilization)`: my prefill priced at what it costs those who come after. Utilization is the share of recent time in
      which the pool's endpoints had backlog, so affinity weighs more the busier the pool is.
    - `speed`: how fast the endpoint prefills, relative to the pool's mean, for pools of mixed hardware; learned from first tokens,
      and nothing is made of it before there were some.
      Speeds that differ by less than `speedTolerance` are one speed: they are estimates, and following noise costs more than it
      gains.
    - `decode * prompt * decoding`: every request that generates there slows me for the whole of my answer, and I slow it, by the
      time that reading one more context takes in each step. In tokens of prefill that is about 2 * answer * prompt * (time to read
      a token's KV / time to prefill a token): for 300 tokens of answer 0.8 of the prompt with an 8B model on an H100, 0.2 with 70B
      on four, 0.07 with latent attention. A tenth spreads decodes evenly in all of these, and a cached prompt still outweighs
      ten requests that generate (`tests/bench/virtual_routing.py`).

    Nothing has to be tuned to a model or a GPU: every term is tokens, and the rates are learned from first-token times.
    """

    decode: Annotated[
        float,
        Meta(
            ge=0,
            le=8,
            description="Price of every request that generates there, as a share of the prompt: 0 on prefill-only endpoints, "
            "1 where answers are long and token gaps matter most.",
        ),
    ] = 0.1
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
        prompt = prompt_tokens(request)
        own: FloatColumn = np.maximum(prompt - view.matched_tokens(self.prefix_match_info_producer_name), ONE)
        cost = view.backlog + own / (1.0 - view.snapshot.utilization_ratio) + self.decode * prompt * view.decoding
        speed = view.speed
        if highest(speed) > (1.0 + self.speed_tolerance) * lowest(speed):
            cost *= self._slowness(speed)
        return cost

    def _slowness(self, speed: FloatColumn) -> FloatColumn:
        """Return how much longer than the mean each takes; an endpoint whose speed is not known yet (0) is as fast as the mean."""
        known = speed[speed > 0]
        average = mean(known)
        if highest(known) <= (1.0 + self.speed_tolerance) * lowest(known):
            return np.ones_like(speed)
        return average / np.where(speed > 0, speed, average)
