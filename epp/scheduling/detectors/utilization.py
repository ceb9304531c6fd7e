"""`utilization-detector`: how full the endpoints say they are."""

from typing import Annotated

import numpy as np
from msgspec import Meta

from epp.config.durations import duration_s
from epp.errors import ConfigError
from epp.scheduling.api import Detector, View
from epp.scheduling.columns import mean


class UtilizationDetector(Detector, frozen=True):
    """Mean over the endpoints of `max(queue / queueDepthThreshold, kv / kvCacheUtilThreshold)`; 1 for one that does not report.

    The queue is what the endpoint reports, and what we have sent there that its report cannot hold yet: or a burst that comes
    between two readings would be let in whole. An endpoint that reports no running requests seems to queue all that it works on.

    Source: the reference's detector of this name. There a report is old after 200 ms; here an idle endpoint is read once a second.
    """

    queue_depth_threshold: Annotated[int, Meta(ge=1, description="Waiting requests at which an endpoint is full.")] = 5
    kv_cache_util_threshold: Annotated[
        float, Meta(gt=0, le=1, description="Share of the KV cache in use at which an endpoint is full.")
    ] = 0.8
    metrics_staleness_threshold: Annotated[
        str, Meta(description="Age from which on a report does not count and the endpoint is taken to be full, such as `5s`.")
    ] = "5s"
    headroom: Annotated[float, Meta(ge=0, description="Accepted for compatibility, without effect: no endpoint is left out.")] = 0.0

    def check(self) -> None:
        """Raise ConfigError for a threshold that is no time."""
        if not duration_s(self.metrics_staleness_threshold):
            raise ConfigError("a duration above 0, such as 5s", "metricsStalenessThreshold")

    def saturation(self, view: View) -> float:
        """Return how full the pool is. Cost: about 10 us."""
        sent = np.maximum(view.requests, view.take(view.snapshot.columns.backlog_count))
        unseen = np.maximum(sent - view.waiting - view.running, 0.0)
        load = np.maximum((view.waiting + unseen) / self.queue_depth_threshold, view.kv_usage / self.kv_cache_util_threshold)
        return mean(np.where(view.age_s > duration_s(self.metrics_staleness_threshold), 1.0, load))
