"""`header-based-testing-filter`: lets a test say which endpoints may be picked. For tests alone: any client can send it."""

import numpy as np

from epp.model.match import BoolColumn
from epp.model.request import InferenceRequest
from epp.scheduling.api import Filter, View

TEST_HEADER = "test-epp-endpoint-selection"


class HeaderBasedTestingFilter(Filter, frozen=True):
    """Keeps the endpoints named in the header `test-epp-endpoint-selection`: a comma list of `ip`, `ip:port` or `[ip]:port`.

    A bare address keeps all its ports; what is not in the pool is ignored; without the header everybody stays.
    Source: the conformance suite of the Gateway API Inference Extension.
    """

    def keep(self, request: InferenceRequest, view: View) -> BoolColumn:
        """Return the candidates the header names."""
        wanted = request.head.headers.get(TEST_HEADER, "").strip()
        if not wanted:
            return np.ones(len(view), dtype=np.bool_)
        named: list[int] = []
        for item in map(str.strip, wanted.split(",")):
            if item in view.snapshot.by_authority:
                named.append(view.snapshot.by_authority[item])
            named.extend(view.snapshot.by_address.get(item.strip("[]"), ()))
        return np.isin(view.slots, named)
