"""`header-based-testing-filter`: lets a test say which endpoints may be picked. For tests alone: any client can send it."""

import numpy as np

from epp.model.match import BoolColumn
from epp.model.request import InferenceRequest
from epp.scheduling.api import Filter, View

TEST_HEADER = "test-epp-endpoint-selection"


class HeaderBasedTestingFilter(Filter, frozen=True):
    """Keeps the endpoints named in the header `test-epp-endpoint-selection`: a comma list of `ip`, `ip:port` or `[ip]:port`.

    A bare address stands for all its ports, which are the ranks of a pod. What is not in the pool is ignored: a test of two pools
    names the pods of both. If nothing else is named nobody stays, and the request is refused rather than answered by a pod that it
    did not ask for. Without the header, or with a blank one, everybody stays, so that a gateway can be warmed up.
    Source: the conformance suite of the Gateway API Inference Extension.
    """

    def keep(self, request: InferenceRequest, view: View) -> BoolColumn:
        """Return the candidates the header names."""
        wanted = request.head.headers.get(TEST_HEADER, "").strip()
        if not wanted:
            return np.ones(len(view), dtype=np.bool_)
        return np.isin(view.slots, view.snapshot.named(item.strip() for item in wanted.split(",")))
