"""What filters on labels have in common: the labels are read once per change of membership, not once per request."""

from collections.abc import Mapping

import numpy as np

from epp.model.match import BoolColumn
from epp.model.request import InferenceRequest
from epp.scheduling.api import Filter, View


class LabelFilter(Filter, frozen=True):
    """Base of the filters that keep an endpoint for its labels."""

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Return whether an endpoint with these labels stays."""
        raise NotImplementedError

    def keep(self, request: InferenceRequest, view: View) -> BoolColumn:
        """Return which candidates stay. Cost: one gather."""
        known = view.snapshot.memo.get(id(self))
        if known is None:
            column = np.array([one is not None and self.selects(one.labels) for one in view.snapshot.endpoints], dtype=np.bool_)
            # Holding on to the filter keeps its id from being given to another as long as the memo lives.
            known = view.snapshot.memo[id(self)] = (self, column)
        return view.take(known[1])
