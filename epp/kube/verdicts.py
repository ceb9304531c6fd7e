"""What the API server said of those who showed a token, and for how long that is believed. Pure: bytes, seconds, two tables.

A token is known here by its hash; it cannot be had back from it, and is nowhere else after the answer. What is believed for too
long lets somebody in whose account is gone; for too short, a scrape costs the API server two requests. Refusals are kept apart
from the rest and for a shorter time: whoever sends a thousand made-up tokens puts nobody else's out, and a right that was granted
a moment ago is heeded soon.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256

ALLOWED_MAX = 256
"""Readers and pages that are remembered; the longest ago go first. A cluster has a few of them."""
DENIED_MAX = 1024
"""Refusals that are remembered."""
ALLOWED_S = 60.0
"""How long somebody is let in without asking again, and so how long a token lives that was revoked (the API server may itself
believe in it for ten seconds more)."""
DENIED_S = 10.0
"""How long somebody is refused without asking again."""

Key = tuple[bytes, str]
"""The hash of a token, and a page."""


class Outcome(Enum):
    """What the API server said."""

    ALLOWED = "allowed"
    UNKNOWN = "unknown"
    """It does not believe the token."""
    FORBIDDEN = "forbidden"
    """It does, but that account may not see the page."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the API server said of one token and one page."""

    outcome: Outcome
    account: str = ""
    """Whose token it is, where that is known."""


UNKNOWN = Verdict(Outcome.UNKNOWN)


def key_of(token: str, page: str) -> Key:
    """Return what a verdict is remembered by."""
    return sha256(token.encode()).digest(), page


@dataclass(slots=True)
class _Table:
    """Verdicts that are all good for equally long: the one that came first is the first to run out."""

    entries_max: int
    lifetime_s: float
    entries: OrderedDict[Key, tuple[Verdict, float]] = field(default_factory=OrderedDict)
    """With when it was asked."""

    def get(self, key: Key, now_s: float) -> Verdict | None:
        verdict, asked_s = self.entries.get(key, (None, 0.0))
        return verdict if now_s < asked_s + self.lifetime_s else None

    def put(self, key: Key, verdict: Verdict, asked_s: float) -> None:
        self.entries[key] = verdict, asked_s
        self.entries.move_to_end(key)
        if len(self.entries) > self.entries_max:
            self.entries.popitem(last=False)


class Verdicts:
    """The verdicts that are believed.

    Args:
        allowed_max: of those who were let in, how many are remembered.
        denied_max: of the others.
        allowed_s: how long, those who were let in.
        denied_s: the others.
    """

    def __init__(
        self,
        *,
        allowed_max: int = ALLOWED_MAX,
        denied_max: int = DENIED_MAX,
        allowed_s: float = ALLOWED_S,
        denied_s: float = DENIED_S,
    ) -> None:
        self._allowed = _Table(allowed_max, allowed_s)
        self._denied = _Table(denied_max, denied_s)

    def __len__(self) -> int:
        """Return how many are kept, those included that have run out."""
        return len(self._allowed.entries) + len(self._denied.entries)

    def get(self, key: Key, now_s: float) -> Verdict | None:
        """Return what is believed at a time; None: ask."""
        return self._allowed.get(key, now_s) or self._denied.get(key, now_s)

    def put(self, key: Key, verdict: Verdict, asked_s: float) -> None:
        """Believe a verdict, instead of one that was asked for before.

        Args:
            key: whose, and for what.
            verdict: what was said.
            asked_s: when it was asked; what was true then may not be any more when the answer comes.
        """
        table, other = self._allowed, self._denied
        if verdict.outcome is not Outcome.ALLOWED:
            table, other = other, table
        if any(asked_s < one.entries[key][1] for one in (table, other) if key in one.entries):
            return
        other.entries.pop(key, None)
        table.put(key, verdict, asked_s)
