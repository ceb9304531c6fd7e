"""Where prompts were sent in the last moments, until the engines' events say it themselves.

An engine announces a block after the step that computed it: some 10 ms later, seconds under load. Until then a burst of equal
prompts would be scattered. `accurate` records every decision here and takes, per endpoint, the better of the two answers.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from epp.model.match import FloatColumn
from epp.prefix.lanes import Masks, members, walk

ENTRIES_MAX: Final = 65_536
"""Keys in each of the two generations; when full, the older generation goes early. 16 MB at most."""


class Speculative:
    """Keys with an age, in two generations: nothing is older than `ttl_s`, and what is younger than half of it is there.

    Args:
        ttl_s: how long a decision stands for the event that should follow it.
    """

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._young: Masks = {}
        self._old: Masks = {}
        self._born_s = 0.0
        self._hidden = [0, 0]
        """Slots forgotten while the young and the old generation were filled: their bits there are void."""

    def record(self, by_size: Mapping[int, list[int]], slot: int, now_s: float) -> None:
        """A prompt was sent to `slot`."""
        self.tick(now_s)
        bit, young = 1 << slot, self._young
        for keys in by_size.values():
            if len(young) + len(keys) > ENTRIES_MAX:
                self._turn(now_s)
                young = self._young
            for key in keys[:ENTRIES_MAX]:
                young[key] = young.get(key, 0) | bit

    def match(self, keys: Sequence[int], block_tokens: int, into: FloatColumn) -> None:
        """Raise `into`, a column over slots, to the tokens that were just sent to each endpoint."""
        if not (self._young or self._old):
            return
        shown = ~(self._hidden[0] | self._hidden[1]) & ((1 << len(into)) - 1)
        for depth, bits in walk(keys, (self._young, self._old), shown):
            where = members(bits, len(into))
            into[where] = into[where].clip(min=depth * block_tokens)

    def forget(self, slot: int) -> None:
        """The endpoint has gone; its successor in the slot is not spoken for until both generations have passed."""
        self._hidden[0] |= 1 << slot

    def tick(self, now_s: float) -> None:
        """Let time pass."""
        while now_s - self._born_s >= self._ttl_s / 2:
            if not (self._young or self._old or any(self._hidden)):
                self._born_s = now_s
                return
            self._turn(self._born_s + self._ttl_s / 2)

    def _turn(self, now_s: float) -> None:
        self._old, self._young = self._young, {}
        self._hidden = [0, self._hidden[0]]
        self._born_s = now_s

    @property
    def entries(self) -> int:
        """Keys kept."""
        return len(self._young) + len(self._old)
