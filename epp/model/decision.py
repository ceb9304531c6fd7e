"""What was decided for one request, and the evidence for it. The sheet keeps references; text is made when somebody asks."""

from collections.abc import Sequence

from msgspec import Struct, field

from epp.model.endpoint import Endpoint
from epp.model.match import FloatColumn, IntColumn, Match
from epp.model.request import InferenceRequest


class FilterStep(Struct, frozen=True, kw_only=True):
    """One filter of a profile: who was there before it and who after it."""

    name: str
    before: IntColumn
    after: IntColumn


class ScoreStep(Struct, frozen=True, kw_only=True):
    """One scorer of a profile: a value (0..1) for each slot of `slots`, and its weight."""

    name: str
    weight: float
    slots: IntColumn
    values: FloatColumn


class ScoreSheet(Struct, kw_only=True):
    """Everything that led to a pick, as arrays; `telemetry.sheets` renders it.

    `slots` and `totals` are the last candidates and their weighted sums. `endpoints` maps slots to endpoints as they were.
    """

    profile: str
    slots: IntColumn
    totals: FloatColumn
    endpoints: Sequence[Endpoint | None]
    candidates: IntColumn
    """Before any filter: subset and readiness applied."""
    filters: list[FilterStep] = field(default_factory=list)
    scores: list[ScoreStep] = field(default_factory=list)
    match: Match | None = None
    ages_s: FloatColumn | None = None
    """Age of the scraped values, over `slots`."""


class Decision(Struct, frozen=True, kw_only=True):
    """Where a request goes.

    `reservation` is the ledger's handle for the load that was booked in the same step.
    """

    request: InferenceRequest
    endpoint: Endpoint
    slot: int
    fallbacks: tuple[Endpoint, ...] = ()
    sheet: ScoreSheet
    strategy: str = ""
    """Which prefix strategy answered; empty when none was asked."""
    matched_tokens: float = 0.0
    prompt_tokens: int = 0
    reservation: int = 0
    at_s: float = 0.0
    """Monotonic."""


class Usage(Struct, frozen=True, kw_only=True):
    """Token counts as the model server reports them; None where it did not."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


class Outcome(Struct, frozen=True, kw_only=True):
    """How one request ended; handed over exactly once."""

    end: str
    """`complete`, `client-gone`, `local-reply`, `rejected`, `error`, or `released` (lean: the rest was not seen)."""
    status: int = 0
    """HTTP status of the answer, 0 when there was none."""
    usage: Usage | None = None
    served: str = ""
    """`ip:port` that really answered, when the gateway says so."""
    response_bytes: int = 0
