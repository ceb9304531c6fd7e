"""`weighted-random-picker`: chance in proportion to the total."""

from random import Random
from typing import Annotated

import numpy as np
from msgspec import Meta

from epp.model.match import FloatColumn, IntColumn
from epp.scheduling.api import Picker


class WeightedRandomPicker(Picker, frozen=True):
    """Draws without replacement, each endpoint with a chance in proportion to its total; all zero means all alike."""

    max_num_of_endpoints: Annotated[
        int, Meta(ge=1, le=16, description="The choice and its fallbacks. More than 1 needs a gateway that reads a list.")
    ] = 1

    def pick(self, totals: FloatColumn, random: Random) -> IntColumn:
        """Return the indexes drawn, in the order of drawing."""
        weights = np.maximum(totals, 0.0)
        drawn: list[int] = []
        for _ in range(min(self.max_num_of_endpoints, len(totals))):
            if not weights.any():
                weights = np.ones_like(weights)
                weights[drawn] = 0.0
            heights = np.cumsum(weights)
            # min(): the product may round up to the very top, past the last weight that is not zero.
            index = min(
                int(np.searchsorted(heights, random.random() * heights[-1], side="right")), int(np.flatnonzero(weights)[-1])
            )
            drawn.append(index)
            weights[index] = 0.0
        return np.array(drawn, dtype=np.int64)
