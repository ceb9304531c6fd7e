"""Strategies that the configuration in force does not use, kept warm for the way back.

Who switches from `approximate` to `consistent-hash` and back has lost nothing: the index is still there, and knows where requests
went meanwhile. So a trial that fails, a rollback, or a change of mind costs no cache hits. What is parked is told of every request,
as the director tells those in use, and of every endpoint that goes; an `accurate` one keeps its subscriptions. That costs memory,
and some microseconds a request, therefore `PARKED_MAX` strategies for `PARKED_S` each; `size` says how much it is.

Pure: time is an argument. `assembly` closes what is given up here.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from epp.config.sections import TRIAL_S_MAX
from epp.errors import RequestError
from epp.model.decision import Decision, Outcome
from epp.model.request import InferenceRequest
from epp.model.snapshot import Snapshot
from epp.prefix.strategy import Size, Strategy
from epp.scheduling.api import Producer

PARKED_MAX = 6
"""Twice the longest chain there is: what the last two changes left behind."""
PARKED_S = TRIAL_S_MAX
"""As long as a trial may last, since that one ends by going back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A strategy and the parameters it was made of."""

    producer: Producer
    strategy: Strategy


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parked:
    holding: Holding
    since_s: float


class Parking:
    """What is parked. An `Observer` of the director while there is something.

    Args:
        snapshot: the pool.
    """

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot
        self._parked: list[_Parked] = []
        """The oldest first."""

    def __len__(self) -> int:
        return len(self._parked)

    @property
    def holdings(self) -> tuple[Holding, ...]:
        """What there is, the oldest first."""
        return tuple(one.holding for one in self._parked)

    def park(self, holdings: Iterable[Holding], now_s: float) -> tuple[Holding, ...]:
        """Take these in; return those that are given up for them."""
        self._parked += [_Parked(holding=one, since_s=now_s) for one in holdings]
        over = len(self._parked) - PARKED_MAX
        return self._give_up(self._parked[: max(0, over)])

    def take_out(self, holdings: Iterable[Holding]) -> None:
        """These are in use again."""
        used = {id(one.strategy) for one in holdings}
        self._parked = [one for one in self._parked if id(one.holding.strategy) not in used]

    def expire(self, now_s: float) -> tuple[Holding, ...]:
        """Return what has been here long enough, and give it up."""
        return self._give_up([one for one in self._parked if now_s - one.since_s >= PARKED_S])

    def forget(self, slot: int) -> None:
        """The endpoint in `slot` has gone or lost its cache."""
        for one in self._parked:
            one.holding.strategy.forget(slot)

    def size(self) -> Size:
        """Return what all of them keep."""
        sizes = [one.holding.strategy.size() for one in self._parked]
        return Size(
            entries=sum(size.entries for size in sizes),
            bytes=sum(size.bytes for size in sizes),
            tokens=sum(size.tokens for size in sizes),
        )

    def decided(self, decision: Decision, *, duration_s: float, body_bytes: int) -> None:  # noqa: ARG002
        """Tell them all where the request goes. Those that cut prompts as the strategy in use does need not hash it again."""
        self._record(decision, decision.slot, self._snapshot())

    def rejected(self, request: InferenceRequest, error: RequestError) -> None:
        """Nothing: it went nowhere."""

    def finished(self, decision: Decision, outcome: Outcome, *, ttft_s: float | None, duration_s: float) -> None:  # noqa: ARG002
        """Tell them all where the request really went, if that was elsewhere."""
        if not outcome.served:
            return
        snapshot = self._snapshot()
        slot = snapshot.by_authority.get(outcome.served, decision.slot)
        if slot != decision.slot and snapshot.has(decision.slot, decision.endpoint):
            self._record(decision, slot, snapshot)

    def _record(self, decision: Decision, slot: int, snapshot: Snapshot) -> None:
        for one in self._parked:
            strategy = one.holding.strategy
            strategy.record(strategy.prepare(decision.request), decision.request, snapshot, slot, decision.at_s)

    def _give_up(self, parked: list[_Parked]) -> tuple[Holding, ...]:
        gone = tuple(one.holding for one in parked)
        self.take_out(gone)
        return gone
