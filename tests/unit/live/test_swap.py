"""What a new configuration takes over."""

from operator import attrgetter

import pytest

from epp.config import load
from epp.errors import ConfigError
from epp.live.parking import Holding
from epp.live.swap import Inheritance, check_swap
from epp.parts import build_strategies
from epp.scheduling.build import build
from epp.scheduling.registry import Registry

REGISTRY = Registry()
POOL = "plugins: [{type: file-discovery, parameters: {path: %s}}]\ndataLayer: {discovery: {pluginRef: file-discovery}}\n"


def plan_of(text: str):
    return build(load(text), REGISTRY)


class Succession:
    """One configuration after another."""

    def __init__(self) -> None:
        self.used: list[Holding] = []
        self.parked: list[Holding] = []

    def turn(self, text: str) -> dict[str, object]:
        """Take over; return the strategies by producer name."""
        inheritance = Inheritance(self.used, self.parked)
        built = build_strategies(plan_of(text), inheritance.take)
        taken = set(map(id, map(attrgetter("strategy"), inheritance.used)))
        self.parked = [one for one in self.parked if id(one.strategy) not in taken] + list(inheritance.left)
        self.used = inheritance.used
        return dict(built.all)


APPROXIMATE, HASH = "approx-prefix-cache-producer", "consistent-hash-producer"


def test_what_has_the_same_parameters_stays():
    turns = Succession()
    before = turns.turn("strategy: {chain: [approximate, consistent-hash]}")
    after = turns.turn("strategy: {chain: [accurate, approximate, consistent-hash], load: llm-d}")
    assert all(before[name] is after[name] for name in (APPROXIMATE, HASH))
    assert before["prefix-chain-producer"] is not after["prefix-chain-producer"]
    assert turns.parked == []


def test_whatever_it_is_called():
    turns = Succession()
    before = turns.turn("plugins: [{type: approx-prefix-cache-producer, name: old}, {type: prefix-cache-scorer}]")
    after = turns.turn("plugins: [{type: prefix-cache-scorer}, {type: approx-prefix-cache-producer, name: new}]")
    assert after["new"] is before["old"]


def test_other_parameters_make_another_one_and_the_old_one_can_come_back():
    turns = Succession()
    first = turns.turn("strategy: {chain: [approximate]}")[APPROXIMATE]
    second = turns.turn("strategy: {chain: [approximate], approximate: {blockSizeTokens: 32}}")[APPROXIMATE]
    assert first is not second
    assert [one.strategy for one in turns.parked] == [first]
    assert turns.turn("strategy: {chain: [approximate]}")[APPROXIMATE] is first
    assert [one.strategy for one in turns.parked] == [second]


def test_two_with_the_same_parameters_are_two():
    turns = Succession()
    text = "plugins: [%s{type: approx-prefix-cache-producer, name: a}, {type: prefix-cache-scorer}]"
    first = turns.turn(text % "")
    both = turns.turn(text % "{type: approx-prefix-cache-producer, name: b}, ")
    assert both["a"] is not both["b"]
    assert first["a"] in both.values()


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        (POOL % "a", POOL % "b", "dataLayer.discovery"),
        (POOL % "a", "", "dataLayer.discovery"),
        ("", "limits: {endpointsMax: 10}", "limits.endpointsMax"),
        ("", "limits: {requestsMax: 10}", "limits.requestsMax"),
        ("limits: {bodyBytesMax: 2048}", "", "limits.bodyBytesMax"),
        ("limits: {bodiesBytesMax: 2048}", "", "limits.bodiesBytesMax"),
    ],
)
def test_what_only_a_start_can_change_is_refused_with_a_sentence(old, new, path):
    with pytest.raises(ConfigError, match="restart it") as caught:
        check_swap(plan_of(old), plan_of(new))
    assert caught.value.path == path


def test_everything_else_may_change():
    new = "{limits: {decisionsKept: 5}, scrape: {busyIntervalMs: 50}, server: {servedHeader: x-served}, strategy: {chain: []}}"
    check_swap(plan_of(""), plan_of(new))
