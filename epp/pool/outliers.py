"""Endpoints that did not answer: passed over for a while, and tried again.

An engine that died looks idle: nothing in flight, nothing waiting, and the longest match of all it ever held. Until discovery
notices, every request with that prefix would be sent to its death. So when the gateway reports no answer, the endpoint is
passed over for a second, then two, then four, as long as tries keep failing; one answer clears it. When all candidates are
suspect, all are candidates: a guess is better than a refusal.

One that hangs looks idle, too, and the gateway reports nothing of it: its requests end when their clients have had enough. A client
that leaves proves nothing, nor does a late metrics page; both at once do (`is_hung`).
"""

import math

import numpy as np

from epp.model.decision import Outcome
from epp.model.match import IntColumn

FIRST_S = 1.0
"""How long an endpoint is passed over after its first failure in a row."""
LONGEST_S = 30.0
"""How long at most, however often it failed."""
SILENT_S = 5.0
"""Without a metrics page for so long, an endpoint that used to give them is taken for hung when a client gives it up."""


def is_hung(outcome: Outcome, silent_s: float) -> bool:
    """Return whether a request tells that its endpoint hangs.

    Args:
        outcome: how the request ended.
        silent_s: seconds since the endpoint's last metrics page; infinite when there never was one, which tells nothing.
    """
    return outcome.end == "client-gone" and not outcome.status and SILENT_S < silent_s < math.inf


class Outliers:
    """Which slots are under suspicion, and until when. Bounded by the pool: one entry per slot."""

    def __init__(self) -> None:
        self._until: dict[int, tuple[float, float]] = {}
        """Slot -> (passed over until, for how long)."""

    def __len__(self) -> int:
        return len(self._until)

    def failed(self, slot: int, now_s: float) -> None:
        """Note that a request sent to `slot` got no answer from there. Failures of one burst count once."""
        until, last = self._until.get(slot, (0.0, FIRST_S / 2))
        if now_s >= until:
            wait = min(2 * last, LONGEST_S)
            self._until[slot] = (now_s + wait, wait)

    def answered(self, slot: int) -> None:
        """Note that the endpoint in `slot` answered, or is another one now."""
        self._until.pop(slot, None)

    def narrow(self, slots: IntColumn, now_s: float) -> IntColumn:
        """Return the slots without those under suspicion, or all of them when nobody else is left. Free when all is well."""
        if not self._until:
            return slots
        suspects = [slot for slot, (until, _) in self._until.items() if now_s < until]
        if not suspects:
            return slots
        trusted = slots[~np.isin(slots, suspects)]
        return trusted if len(trusted) else slots
