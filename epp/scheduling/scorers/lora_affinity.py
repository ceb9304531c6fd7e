"""`lora-affinity-scorer`: prefers the endpoint that already has the adapter."""

import numpy as np

from epp.model.match import FloatColumn
from epp.model.request import InferenceRequest
from epp.scheduling.api import Scorer, View
from epp.scheduling.columns import bits


class LoraAffinityScorer(Scorer, frozen=True):
    """Rates 1.0 where the adapter is active, 0.8 where there is room for it, 0.6 where it waits to be loaded, else 0.

    An adapter is asked for by model name, so a base model rates by room alone: the same on every endpoint of an even pool.
    Source: the reference's scorer of this name.
    """

    def score(self, request: InferenceRequest, view: View) -> FloatColumn:
        """Return the rating of each candidate for the request's adapter."""
        length = len(view.snapshot.columns.live)
        active, waiting = view.snapshot.adapters.get(request.lora, (0, 0))
        ratings = np.zeros(length)
        ratings[bits(waiting, length)] = 0.6
        ratings[bits(view.snapshot.adapter_room, length)] = 0.8
        ratings[bits(active, length)] = 1.0
        return view.take(ratings)
