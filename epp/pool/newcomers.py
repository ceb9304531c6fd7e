"""Endpoints that have just come: given a growing share of the requests, until they have been there for a while.

An engine's first requests find nothing compiled, no memory warm and no prefix cached, and to every load rule an empty engine looks
like the best of all. So a request draws a number between 0 and 1, and a newcomer is a candidate for it if the share of the window
that has passed is larger. When nobody else is left, newcomers are candidates like others.

Who comes into an empty pool is no newcomer: there is nobody to take its share. Off unless configured; a decision then pays for one
comparison.
"""

from bisect import bisect_right
from collections.abc import Iterable

import numpy as np

from epp.config.sections import SlowStart
from epp.model.match import IntColumn

WINDOW_S_MAX = 3600.0
"""Longest window, as the configuration has it; who came before that is remembered no more."""


class Newcomers:
    """Which slots have come when, the latest last. Bounded by the pool: one entry per slot."""

    def __init__(self) -> None:
        self._slots: list[int] = []
        self._since_s: list[float] = []

    @property
    def slots(self) -> tuple[int, ...]:
        """The slots, in the order of their owners' coming."""
        return tuple(self._slots)

    def come(self, slots: Iterable[int], now_s: float) -> None:
        """Note that these slots have new owners, and forget who has long been there."""
        old = bisect_right(self._since_s, now_s - WINDOW_S_MAX)
        new = list(slots)
        self._slots = self._slots[old:] + new
        self._since_s = self._since_s[old:] + [now_s] * len(new)

    def go(self, slot: int) -> None:
        """Note that a slot's owner has gone."""
        if slot in self._slots:
            place = self._slots.index(slot)
            del self._slots[place], self._since_s[place]

    def narrow(self, slots: IntColumn, now_s: float, rule: SlowStart, draw: float) -> IntColumn:
        """Return the slots without those held back, or all of them when nobody else is left.

        Args:
            slots: candidates.
            now_s: monotonic seconds.
            rule: how newcomers are held back.
            draw: the request's number, 0..1.

        Cost: below 1 us when it holds nobody back, about 20 us when it does.
        """
        if draw < rule.share_min:
            return slots
        # They stand in the order of their coming: those younger than the drawn part of the window are at the end.
        held_back = self._slots[bisect_right(self._since_s, now_s - draw * rule.window_s) :]
        if not held_back:
            return slots
        rest = slots[~np.isin(slots, held_back)]
        return rest if len(rest) else slots
