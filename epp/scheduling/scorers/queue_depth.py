"""`queue-scorer`: prefers the endpoint with the shortest queue."""

from typing import Annotated

from msgspec import Meta

from epp.model.match import FloatColumn
from epp.model.request import InferenceRequest
from epp.scheduling.api import Scorer, View
from epp.scheduling.columns import fresh_or_worst, least_is_best


class QueueScorer(Scorer, frozen=True):
    """Rates `(max - q) / (max - min)` over the candidates' waiting requests; all 1 if they are equal.

    Source: the reference's scorer of this name; an endpoint whose metrics are stale counts as the longest queue seen, not as idle.
    """

    stale_s: Annotated[float, Meta(gt=0, description="Seconds after which a scraped value is not believed any more.")] = 5.0

    def score(self, request: InferenceRequest, view: View) -> FloatColumn:
        """Return 1 for the shortest queue down to 0 for the longest."""
        return least_is_best(fresh_or_worst(view.waiting, view.age_s, self.stale_s))
