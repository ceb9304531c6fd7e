"""What every prefix strategy can be asked, whatever its source of knowledge.

The director prepares a request once per strategy (hash its blocks), matches it against the pool, and after the pick tells *every*
strategy where the request went, also those that did not answer, so that switching strategies never starts cold.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from epp.model.decision import Decision, Usage
from epp.model.match import IntColumn, Match
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


Keys = Any
"""What `prepare` made of a request; handed back to the strategy that made it, opaque to everybody else."""


class Strategy(Protocol):
    """One source of knowledge about who holds which prefix."""

    @property
    def name(self) -> str:
        """As in configuration, metrics and score sheets."""

    def health(self) -> Health:
        """How it is right now; cheap, asked for every request."""

    def prepare(self, request: InferenceRequest) -> Keys:
        """Return the keys of the prompt; made once per request, used by `match` and every `record` of it."""

    def match(self, keys: Keys, request: InferenceRequest, snapshot: Snapshot, slots: IntColumn) -> Match | None:
        """Return what every slot holds, or None when it knows nothing of this prompt.

        Args:
            keys: what `prepare` returned.
            request: the request they were made of.
            snapshot: the pool.
            slots: the candidates, ascending. The answer is a column over all slots; values of others than these are never used.
        """

    def record(self, keys: Keys, request: InferenceRequest, snapshot: Snapshot, slot: int, now_s: float) -> None:
        """Note that the request was sent to `slot`, whoever decided so."""

    def learn(self, decision: Decision, usage: Usage) -> None:
        """Take what the model server reported it really had cached.

        Called when the endpoint that was decided on is the one that answered, and is still in its slot. `decision.strategy` says
        whose belief `decision.matched_tokens` is.
        """

    def forget(self, slot: int) -> None:
        """The endpoint in `slot` has gone or lost its cache. The slot may be given to another at once."""

    def size(self) -> Size:
        """What it keeps."""
