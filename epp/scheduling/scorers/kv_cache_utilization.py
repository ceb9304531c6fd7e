"""`kv-cache-utilization-scorer`: prefers the endpoint with the most free KV cache."""

from typing import Annotated

from msgspec import Meta

from epp.model.match import FloatColumn
from epp.model.request import InferenceRequest
from epp.scheduling.api import Scorer, View
from epp.scheduling.columns import fresh_or_worst


class KvCacheUtilizationScorer(Scorer, frozen=True):
    """Rates `1 - usage`, the share of the KV cache that is free.

    Source: the reference's scorer of this name; an endpoint whose metrics are stale counts as the fullest seen.
    """

    stale_s: Annotated[float, Meta(gt=0, description="Seconds after which a scraped value is not believed any more.")] = 5.0

    def score(self, request: InferenceRequest, view: View) -> FloatColumn:
        """Return the free share of the KV cache."""
        return 1.0 - fresh_or_worst(view.kv_usage, view.age_s, self.stale_s)
