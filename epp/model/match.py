"""What a prefix strategy knows about one request: how much of its prompt every slot holds."""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray

FloatColumn = NDArray[np.float64]
BoolColumn = NDArray[np.bool_]
IntColumn = NDArray[np.int64]


class Match(Struct, frozen=True, kw_only=True):
    """The answer to the one question all strategies are asked.

    `tokens` is a column over slots, as long as the snapshot's columns: prompt tokens that the slot is believed to hold, contiguous
    from the start of the prompt. `certainty` (0..1) says how far to trust it.
    """

    source: str
    """Name of the strategy that answered; empty when several were asked and none had an answer."""
    tokens: FloatColumn
    total: int
    """Tokens of the whole prompt."""
    certainty: float = 1.0
    reason: str = ""
    """Why this strategy answered, or why those before it did not."""
    passed_over: Sequence[str] = field(default_factory=tuple)
    """`strategy: reason` of each strategy of the chain that was asked before and had no answer."""

    @property
    def known(self) -> bool:
        """Whether any slot holds anything."""
        return bool(self.tokens.any())
