"""`active-request-scorer`: prefers the endpoint to which we sent the fewest requests that are not over."""

from typing import Annotated

import numpy as np
from msgspec import Meta

from epp.model.match import FloatColumn
from epp.model.request import InferenceRequest
from epp.scheduling.api import Scorer, View


class ActiveRequestScorer(Scorer, frozen=True):
    """Rates 1 for an endpoint with at most `idleThreshold` requests in flight, else `(max - n) / max * maxBusyScore`.

    Source: the reference's scorer of this name. The count is our own ledger's, so it is never stale.
    """

    idle_threshold: Annotated[int, Meta(ge=0, description="Requests in flight up to which an endpoint counts as idle.")] = 0
    max_busy_score: Annotated[float, Meta(ge=0, le=1, description="The most that a busy endpoint can score.")] = 1.0
    in_flight_load_producer_name: Annotated[str, Meta(description="Accepted for compatibility; the ledger is the only source.")] = (
        ""
    )
    request_timeout: Annotated[str, Meta(description="Accepted for compatibility; the ledger knows when a request is over.")] = ""

    def score(self, request: InferenceRequest, view: View) -> FloatColumn:
        """Return 1 for idle endpoints, and less the more is in flight."""
        active = view.requests
        most = max(active.max(), 1)
        return np.where(active <= self.idle_threshold, 1.0, (most - active) / most * self.max_busy_score)
