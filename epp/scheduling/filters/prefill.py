"""`prefill-filter`: keeps endpoints whose role label lets them prefill."""

import numpy as np

from epp.model.endpoint import Role
from epp.model.match import BoolColumn
from epp.model.request import InferenceRequest
from epp.scheduling.api import Filter, View


class PrefillFilter(Filter, frozen=True):
    """Keeps endpoints that prefill, by the label `llm-d.ai/role` (see `model.endpoint.ROLES` for its values and for none)."""

    def keep(self, request: InferenceRequest, view: View) -> BoolColumn:
        """Return which candidates prefill."""
        return (view.role & Role.PREFILL).astype(np.bool_)
