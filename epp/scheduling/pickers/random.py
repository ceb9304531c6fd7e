"""`random-picker`: chance alone, whatever the scores."""

from random import Random
from typing import Annotated

import numpy as np
from msgspec import Meta

from epp.model.match import FloatColumn, IntColumn
from epp.scheduling.api import Picker


class RandomPicker(Picker, frozen=True):
    """Draws without replacement, every endpoint alike. The baseline that everything else has to beat."""

    max_num_of_endpoints: Annotated[
        int, Meta(ge=1, le=16, description="The choice and its fallbacks. More than 1 needs a gateway that reads a list.")
    ] = 1

    def pick(self, totals: FloatColumn, random: Random) -> IntColumn:
        """Return the indexes drawn, in the order of drawing."""
        count = min(self.max_num_of_endpoints, len(totals))
        return np.array(random.sample(range(len(totals)), count), dtype=np.int64)
