"""`running-requests-size-scorer`: prefers the endpoint that works on the fewest requests."""

from typing import Annotated

from msgspec import Meta

from epp.model.match import FloatColumn
from epp.model.request import InferenceRequest
from epp.scheduling.api import Scorer, View
from epp.scheduling.columns import fresh_or_worst, least_is_best


class RunningRequestsSizeScorer(Scorer, frozen=True):
    """Rates `(max - r) / (max - min)` over the candidates' running requests.

    Source: the reference's scorer of this name; an endpoint whose metrics are stale counts as the busiest seen.
    """

    stale_s: Annotated[float, Meta(gt=0, description="Seconds after which a scraped value is not believed any more.")] = 5.0

    def score(self, request: InferenceRequest, view: View) -> FloatColumn:
        """Return 1 for the fewest running requests down to 0 for the most."""
        return least_is_best(fresh_or_worst(view.running, view.age_s, self.stale_s))
