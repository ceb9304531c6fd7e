"""Who of a chain answers, what the sheet says of the others, and that all of them go on learning."""

from collections.abc import Sequence

import numpy as np
import pytest

from epp.model.decision import Decision, ScoreSheet, Usage
from epp.model.match import IntColumn, Match
from epp.model.request import InferenceRequest
from epp.model.snapshot import Snapshot
from epp.prefix.chain import Chain, Verdict
from epp.prefix.strategy import HEALTHY, Condition, Health, Size, Strategy
from epp.testing.builders import build_match, build_request, build_snapshot

POOL = build_snapshot(3)
REQUEST = build_request(b"x" * 100)
DOWN = Health(Condition.UNAVAILABLE, "no events yet")
LIMPING = Health(Condition.DEGRADED, "1 of 3 endpoints recovering")


class Scripted(Strategy):
    """A strategy that answers as told and remembers what it was told."""

    def __init__(self, name: str, tokens: Sequence[float] | None = None, health: Health = HEALTHY) -> None:
        self._name, self._tokens, self._health = name, tokens, health
        self.told: list[tuple[object, ...]] = []

    @property
    def name(self) -> str:
        return self._name

    def health(self) -> Health:
        return self._health

    def prepare(self, request: InferenceRequest) -> str:
        return f"keys of {self._name}"

    def match(self, keys: str, request: InferenceRequest, snapshot: Snapshot, slots: IntColumn) -> Match | None:
        assert keys == f"keys of {self._name}"
        assert self._health.condition is not Condition.UNAVAILABLE
        return None if self._tokens is None else build_match(self._tokens, 25)

    def record(self, keys: str, request: InferenceRequest, snapshot: Snapshot, slot: int, now_s: float) -> None:
        self.told.append(("record", keys, slot, now_s))

    def learn(self, decision: Decision, usage: Usage) -> None:
        self.told.append(("learn", decision.slot, usage.cached_tokens))

    def forget(self, slot: int) -> None:
        self.told.append(("forget", slot))

    def size(self) -> Size:
        return Size(entries=1, bytes=10, tokens=100 + len(self._name))


def ask(chain: Chain, slots: Sequence[int] = (0, 1, 2)) -> Match | None:
    return chain.match(chain.prepare(REQUEST), REQUEST, POOL, np.array(slots))


def test_the_first_that_knows_something_answers():
    chain = Chain([Scripted("a", [0, 5, 0]), Scripted("b", [9, 9, 9])])
    found = ask(chain)
    assert found is not None
    assert found.tokens.tolist() == [0, 5, 0]
    assert list(found.passed_over) == []
    assert chain.verdicts == {("a", Verdict.ANSWERED): 1}


def test_the_sheet_says_why_the_others_did_not():
    chain = Chain([Scripted("a", [1, 1, 1], DOWN), Scripted("b"), Scripted("c", [0, 0, 0]), Scripted("d", [0, 0, 7], LIMPING)])
    found = ask(chain)
    assert found is not None
    assert found.tokens.tolist() == [0, 0, 7]
    assert list(found.passed_over) == [
        "a: no events yet",
        "b: knows nothing of this prompt",
        "c: knows nothing of this prompt",
    ]
    assert chain.verdicts == {
        ("a", Verdict.UNAVAILABLE): 1,
        ("b", Verdict.NOTHING_KNOWN): 1,
        ("c", Verdict.NOTHING_KNOWN): 1,
        ("d", Verdict.ANSWERED): 1,
    }


def test_to_know_of_somebody_who_cannot_be_chosen_is_to_know_nothing():
    chain = Chain([Scripted("a", [0, 0, 7]), Scripted("b", [1, 1, 0])])
    found = ask(chain, [0, 1])
    assert found is not None
    assert found.tokens.tolist() == [1, 1, 0]


def test_when_nobody_knows_the_answer_is_nobodys_and_says_why():
    chain = Chain([Scripted("a"), Scripted("b", [1, 1, 1], DOWN)])
    found = ask(chain)
    assert (found.source, found.known, list(found.tokens)) == ("", False, [0, 0, 0])
    assert [line.partition(":")[0] for line in found.passed_over] == ["a", "b"]
    ask(chain)
    assert chain.verdicts == {("a", Verdict.NOTHING_KNOWN): 2, ("b", Verdict.UNAVAILABLE): 2}


def test_all_of_them_learn_whoever_answered():
    members = [Scripted("a", [1, 0, 0]), Scripted("b", health=DOWN), Scripted("c")]
    chain = Chain(members)
    endpoint = POOL.endpoints[2]
    assert endpoint is not None
    sheet = ScoreSheet(profile="p", slots=POOL.slots, totals=POOL.columns.rate, endpoints=POOL.endpoints, candidates=POOL.slots)
    chain.record(chain.prepare(REQUEST), REQUEST, POOL, 2, 8.0)
    chain.learn(Decision(request=REQUEST, endpoint=endpoint, slot=2, sheet=sheet), Usage(cached_tokens=3))
    chain.forget(1)
    for member in members:
        assert member.told == [("record", f"keys of {member.name}", 2, 8.0), ("learn", 2, 3), ("forget", 1)]


@pytest.mark.parametrize(
    ("healths", "condition", "reason"),
    [
        ([HEALTHY, DOWN], Condition.HEALTHY, ""),
        ([LIMPING, HEALTHY], Condition.DEGRADED, "0: 1 of 3 endpoints recovering"),
        ([DOWN, HEALTHY], Condition.DEGRADED, "0: no events yet"),
        ([DOWN, LIMPING], Condition.DEGRADED, "0: no events yet"),
        ([DOWN, DOWN], Condition.UNAVAILABLE, "0: no events yet"),
    ],
)
def test_its_health_is_how_the_preferred_one_is(healths, condition, reason):
    chain = Chain([Scripted(str(index), health=health) for index, health in enumerate(healths)])
    assert chain.health() == Health(condition, reason)


def test_its_size_adds_memory_up_but_not_beliefs():
    chain = Chain([Scripted("a"), Scripted("bb")])
    assert chain.size() == Size(entries=2, bytes=20, tokens=102)
    assert chain.name == "chain"
    assert [strategy.name for strategy in chain.strategies] == ["a", "bb"]
