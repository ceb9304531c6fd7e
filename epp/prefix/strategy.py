"""What every prefix strategy can be asked, whatever its source of knowledge.

The director prepares a request once per strategy (hash its blocks), matches it against the pool, and after the pick tells *every*
strategy where the request went, also those that did not answer, so that switching strategies never starts cold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from epp.model.decision import Usage
from epp.model.match import Match
from epp.model.request import InferenceRequest
from epp.model.snapshot import Snapshot


class Condition(Enum):
    """How a strategy is."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    """Answers, but knows less than it should (some endpoints recovering)."""
    UNAVAILABLE = "unavailable"
    """Cannot answer; the chain passes it over."""


@dataclass(frozen=True, slots=True)
class Health:
    """A condition with its reason, one sentence; the reason is empty when healthy."""

    condition: Condition
    reason: str = ""


HEALTHY = Health(Condition.HEALTHY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What a strategy keeps in memory: entries, an estimate in bytes, and the tokens it believes cached in all endpoints."""

    entries: int = 0
    bytes: int = 0
    tokens: int = 0


class Strategy(Protocol):
    """One source of knowledge about who holds which prefix."""

    @property
    def name(self) -> str:
        """As in configuration, metrics and score sheets."""

    def health(self) -> Health:
        """How it is right now; cheap, asked for every request."""

    def prepare(self, request: InferenceRequest) -> Sequence[int]:
        """Return the keys of the prompt's blocks, head first; empty when the request has nothing to match on."""

    def match(self, keys: Sequence[int], request: InferenceRequest, snapshot: Snapshot) -> Match | None:
        """Return what every slot holds, or None when it knows nothing of this prompt."""

    def record(self, keys: Sequence[int], request: InferenceRequest, slot: int, now_s: float) -> None:
        """The request was sent to `slot`."""

    def learn(self, request: InferenceRequest, slot: int, matched_tokens: float, usage: Usage) -> None:
        """The model server reported what it really had cached."""

    def forget(self, slot: int) -> None:
        """The endpoint in `slot` has gone or lost its cache. The slot may be given to another at once."""

    def size(self) -> Size:
        """What it keeps."""
