"""Strategies in order of preference: the first that can answer and knows something does, and the sheet says why others did not.

All of them learn from every request, whoever answered, so that falling through to the next one never starts cold.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import Enum

import numpy as np
from msgspec.structs import replace

from epp.model.decision import Decision, Usage
from epp.model.match import IntColumn, Match
from epp.model.request import InferenceRequest, prompt_tokens
from epp.model.snapshot import Snapshot
from epp.prefix.strategy import HEALTHY, Condition, Health, Keys, Size, Strategy

NAME = "chain"
NOTHING_KNOWN = "knows nothing of this prompt"


class Verdict(Enum):
    """What came of asking one strategy; few, since they are values of a label."""

    ANSWERED = "answered"
    UNAVAILABLE = "unavailable"
    NOTHING_KNOWN = "nothing-known"

    __hash__ = object.__hash__  # members are singletons; an Enum's own hash is a Python call, two of them for every request


class Chain:
    """The strategy `chain`: others, asked in order.

    Args:
        strategies: at least one; the first is preferred. They are driven by the chain alone.
    """

    def __init__(self, strategies: Sequence[Strategy]) -> None:
        self._strategies = tuple(strategies)
        self._verdicts: Counter[tuple[str, Verdict]] = Counter()

    @property
    def name(self) -> str:
        """`chain`."""
        return NAME

    @property
    def strategies(self) -> tuple[Strategy, ...]:
        """Those that are asked, in order."""
        return self._strategies

    @property
    def verdicts(self) -> Mapping[tuple[str, Verdict], int]:
        """How often asking a strategy, by name, came to which end; only grows."""
        return self._verdicts

    def health(self) -> Health:
        """Healthy when the preferred strategy is, unavailable when all are, degraded otherwise, with the preferred one's reason."""
        first = self._strategies[0].health()
        if first.condition is Condition.HEALTHY:
            return HEALTHY
        alive = any(strategy.health().condition is not Condition.UNAVAILABLE for strategy in self._strategies)
        condition = Condition.DEGRADED if alive else Condition.UNAVAILABLE
        return Health(condition, f"{self._strategies[0].name}: {first.reason}")

    def prepare(self, request: InferenceRequest) -> Sequence[Keys]:
        """Return what each strategy prepares. Those that cut prompts alike share the work, see `blocks.shared_blocks`."""
        return [strategy.prepare(request) for strategy in self._strategies]

    def match(self, keys: Sequence[Keys], request: InferenceRequest, snapshot: Snapshot, slots: IntColumn) -> Match:
        """Return the first answer that gives any candidate a token; when there is none, one of nobody's that says why."""
        passed_over: list[str] = []
        for strategy, own in zip(self._strategies, keys, strict=True):
            health = strategy.health()
            if health.condition is Condition.UNAVAILABLE:
                verdict, reason = Verdict.UNAVAILABLE, health.reason
            else:
                found = strategy.match(own, request, snapshot, slots)
                if found is not None and np.count_nonzero(found.tokens[slots]):  # any() of an array goes through Python
                    self._verdicts[strategy.name, Verdict.ANSWERED] += 1
                    return replace(found, passed_over=passed_over) if passed_over else found
                verdict, reason = Verdict.NOTHING_KNOWN, _why_not(strategy, own)
            self._verdicts[strategy.name, verdict] += 1
            passed_over.append(f"{strategy.name}: {reason}")
        nothing = np.zeros(len(snapshot.columns.live))
        return Match(source="", tokens=nothing, total=prompt_tokens(request), passed_over=passed_over)

    def record(self, keys: Sequence[Keys], request: InferenceRequest, snapshot: Snapshot, slot: int, now_s: float) -> None:
        """Tell all of them where the request went."""
        for strategy, own in zip(self._strategies, keys, strict=True):
            strategy.record(own, request, snapshot, slot, now_s)

    def learn(self, decision: Decision, usage: Usage) -> None:
        """Tell all of them what the server reported; each knows by `decision.strategy` whether the belief was its own."""
        for strategy in self._strategies:
            strategy.learn(decision, usage)

    def forget(self, slot: int) -> None:
        """Tell all of them that the endpoint is gone."""
        for strategy in self._strategies:
            strategy.forget(slot)

    def size(self) -> Size:
        """Return the sums of all of them; of tokens the most any of them believes in, since they believe in the same ones."""
        sizes = [strategy.size() for strategy in self._strategies]
        return Size(
            entries=sum(size.entries for size in sizes),
            bytes=sum(size.bytes for size in sizes),
            tokens=max(size.tokens for size in sizes),
        )


def _why_not(strategy: Strategy, keys: Keys) -> str:
    """Return why a strategy knows nothing of a prompt; most do not say, `accurate` does: `why_not(keys)`."""
    explain = getattr(strategy, "why_not", None)
    return NOTHING_KNOWN if explain is None else str(explain(keys))
