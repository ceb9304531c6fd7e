"""`decode-filter`: keeps endpoints whose role label lets them decode."""

import numpy as np

from epp.model.endpoint import Role
from epp.model.match import BoolColumn
from epp.model.request import InferenceRequest
from epp.scheduling.api import Filter, View


class DecodeFilter(Filter, frozen=True):
    """Keeps endpoints that decode, by the label `llm-d.ai/role` (see `model.endpoint.ROLES` for its values and for none)."""

    def keep(self, request: InferenceRequest, view: View) -> BoolColumn:
        """Return which candidates decode."""
        return (view.role & Role.DECODE).astype(np.bool_)
