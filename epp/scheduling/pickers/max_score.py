"""`max-score-picker`: the highest total wins, equals by chance."""

from random import Random
from typing import Annotated

import numpy as np
from msgspec import Meta

from epp.model.match import FloatColumn, IntColumn
from epp.scheduling.api import Picker
from epp.scheduling.columns import highest

EQUAL = 1e-9
"""Totals closer than this are equal; they differ only by rounding."""


class MaxScorePicker(Picker, frozen=True):
    """Takes the `maxNumOfEndpoints` highest totals; among equals the order is random, so that a burst spreads."""

    max_num_of_endpoints: Annotated[
        int, Meta(ge=1, le=16, description="The choice and its fallbacks. More than 1 needs a gateway that reads a list.")
    ] = 1

    def pick(self, totals: FloatColumn, random: Random) -> IntColumn:
        """Return the indexes of the best totals, best first."""
        if self.max_num_of_endpoints == 1:
            best: IntColumn = (totals >= highest(totals) - EQUAL).nonzero()[0]
            return best if len(best) == 1 else best[[random.randrange(len(best))]]
        shuffled = np.random.default_rng(random.getrandbits(64)).permutation(len(totals))
        order = shuffled[np.argsort(-np.round(totals[shuffled], 9), kind="stable")]
        return order[: self.max_num_of_endpoints]
