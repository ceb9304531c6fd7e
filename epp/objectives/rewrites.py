"""From rules to a target model: sorted out when they change, so that a request costs a look-up and, among several targets, a draw.

Of the rules that match, the exact ones come before the generic ones, then those of the oldest rewrite, then of the one whose name
comes first, then the one written first. Nothing is left to the order in which objects arrive: every replica decides alike.
"""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from random import Random

from msgspec import Struct

WEIGHT_DEFAULT = 1
"""Of a target that has no weight. Where none has one they are equal; in a mixed list, which the API forbids in words only, a target
without one is not silently switched off."""


class Target(Struct, frozen=True, kw_only=True):
    """One of the models that a rule sends requests on to."""

    model: str
    weight: int | None = None


class Rule(Struct, frozen=True, kw_only=True):
    """Which requests, and where to."""

    models: tuple[str, ...] = ()
    """Names that clients ask for, any of them; none: every request (a generic rule)."""
    targets: tuple[Target, ...]


class Rewrite(Struct, frozen=True, kw_only=True):
    """Rules under one name.

    Source: `InferenceModelRewrite` of https://llm-d.ai/docs/api-reference/inferencemodelrewrite.
    """

    name: str
    created: str = ""
    """When the object was made, as the API server writes it (RFC 3339, UTC, seconds), which sorts as text; empty, as in a
    configuration file, counts as younger than all."""
    rules: tuple[Rule, ...]


class _Choice(Struct, frozen=True):
    """The targets of one rule."""

    rewrite: str
    models: list[str]
    bounds: list[int]
    """Sums of the weights up to and with each target."""

    def pick(self, random: Random) -> str:
        """Return a target, each as often as its weight says: of as many draws as the weights add up to, `weight` are its own."""
        if len(self.models) == 1:
            return self.models[0]
        return self.models[bisect_right(self.bounds, random.randrange(self.bounds[-1]))]


class Rewrites:
    """Rules in force. Replaced as a whole.

    Args:
        rewrites: all of them, in any order; names are unique.
    """

    __slots__ = ("_exact", "_generic")

    def __init__(self, rewrites: Iterable[Rewrite]) -> None:
        self._exact: dict[str, _Choice] = {}
        self._generic: _Choice | None = None
        for rewrite in sorted(rewrites, key=lambda one: (not one.created, one.created, one.name)):
            for rule in rewrite.rules:
                choice = _choice(rewrite.name, rule)
                if choice is None:
                    continue
                for model in rule.models:
                    self._exact.setdefault(model, choice)
                if not rule.models and self._generic is None:
                    self._generic = choice

    def choose(self, model: str, random: Random) -> tuple[str, str] | None:
        """Return the model that a request goes on with and the name of the rewrite that says so, or None when no rule matches.

        Args:
            model: as the client names it; matched letter by letter.
            random: for the draw among several targets.

        Cost: 0.1 us, a draw 0.5 us, however many rules there are.
        """
        choice = self._exact.get(model, self._generic)
        return None if choice is None else (choice.pick(random), choice.rewrite)


def _choice(rewrite: str, rule: Rule) -> _Choice | None:
    """Return the rule's targets that can be drawn; None if there are none, in which case the rule is as good as absent."""
    weights = [WEIGHT_DEFAULT if target.weight is None else target.weight for target in rule.targets]
    drawn = [(target.model, weight) for target, weight in zip(rule.targets, weights, strict=True) if target.model and weight > 0]
    if not drawn:
        return None
    return _Choice(rewrite, [model for model, _ in drawn], list(accumulate(weight for _, weight in drawn)))
