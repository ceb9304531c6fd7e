"""How long to leave an API server alone after a watch of it has ended. Pure: the waits, not the waiting.

What it protects from: replicas that come back all at once, a server that is pressed while it is down, and a busy loop when a watch
ends again and again as soon as it has begun.
"""

from dataclasses import dataclass
from random import Random

from epp.errors import ApiError

GONE = 410
NOT_FOUND = 404

CLOSED = "Closed"
"""Reason of a watch that the server ended in good order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long things take, in seconds. Every wait is shortened by a random part of up to a half, so that replicas spread."""

    watch_s: float = 480.0
    """A watch is asked to end after at most this; at least half of it."""
    settled_s: float = 10.0
    """A watch that lasted this long was a good one: the next failure is the first again."""
    retry_s: float = 0.2
    """Wait after the first failure; each further one doubles it."""
    retry_s_max: float = 3.0
    """How long a server that is back goes unnoticed. One that is there and has too much to do says itself how long to wait."""
    closed_s_max: float = 1.0
    """Longest wait after a watch that the server ended in good order: it is there, and events may be waiting."""
    absent_s: float = 15.0
    """Longest wait while the collection does not exist."""
    asked_s_max: float = 60.0
    """Longest wait that the server can ask for (`Retry-After`)."""


class Backoff:
    """Counts failures in a row.

    Args:
        pace: how long things take.
        random: shortens.
    """

    def __init__(self, pace: Pace, random: Random) -> None:
        self.failures = 0
        self._patient = True
        """Whether the last failure was neither an expired version nor without a wait: only then may the next one be."""
        self._pace = pace
        self._random = random

    def watch_s(self) -> int:
        """Return how long the next watch is to last."""
        return max(1, round(self._pace.watch_s * self._spread()))

    def after(self, error: ApiError, *, lasted_s: float) -> float:
        """Return the seconds to wait.

        Args:
            error: how it ended; with the reason `CLOSED` if in good order.
            lasted_s: how long it had been well until then.
        """
        pace = self._pace
        self.failures = 1 if lasted_s >= pace.settled_s else self.failures + 1
        retry_s = pace.retry_s * 2.0 ** min(self.failures - 1, 16) * self._spread()
        if error.status == NOT_FOUND:
            return min(retry_s, pace.absent_s)
        at_once = self._patient if error.status == GONE else error.reason == CLOSED and self.failures == 1
        self._patient = not at_once and error.status != GONE
        if at_once:
            return 0.0
        if error.reason == CLOSED:
            return min(retry_s, pace.closed_s_max)
        return max(min(retry_s, pace.retry_s_max), min(error.retry_after_s, pace.asked_s_max))

    def _spread(self) -> float:
        return 1 - self._random.random() / 2
