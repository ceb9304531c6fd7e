"""Which rule counts, and which of its targets."""

from collections import Counter

import pytest

from epp.objectives.rewrites import Rewrite, Rewrites, Rule, Target


class Numbers:
    """Stands in for chance: each draw is the next number."""

    def __init__(self):
        self.next, self.bounds = 0, []

    def randrange(self, bound):
        self.bounds.append(bound)
        self.next += 1
        return (self.next - 1) % bound


def rule(target, *models):
    return Rule(models=models, targets=(Target(model=target),))


def rewrite(name, *rules, created="2026-01-01T00:00:00Z"):
    return Rewrite(name=name, created=created, rules=rules)


def chosen(model, *rewrites):
    found = {Rewrites(order).choose(model, Numbers()) for order in (rewrites, rewrites[::-1])}
    assert len(found) == 1, "depends on the order in which the objects came"
    return found.pop()


def test_no_rule_no_rewrite():
    assert Rewrites(()).choose("a", Numbers()) is None
    assert chosen("b", rewrite("r", rule("x", "a"))) is None


def test_any_match_of_a_rule_will_do_and_the_rewrite_is_named():
    one = rewrite("r", rule("x", "a", "b"))
    assert chosen("a", one) == chosen("b", one) == ("x", "r")


def test_models_are_matched_letter_by_letter():
    assert chosen("A", rewrite("r", rule("x", "a"))) is None


def test_an_exact_rule_comes_before_an_older_generic_one():
    generic = rewrite("a", rule("x"), created="2025-01-01T00:00:00Z")
    exact = rewrite("b", rule("y", "m"))
    assert chosen("m", generic, exact) == ("y", "b")
    assert chosen("n", generic, exact) == ("x", "a")


def test_the_oldest_rewrite_comes_first():
    old, young = rewrite("z", rule("x", "m"), created="2025-12-31T23:59:59Z"), rewrite("a", rule("y", "m"))
    assert chosen("m", old, young) == ("x", "z")


def test_of_the_same_age_the_first_name():
    assert chosen("m", rewrite("b", rule("y", "m")), rewrite("a", rule("x", "m"))) == ("x", "a")


def test_what_a_file_lists_is_younger_than_what_the_cluster_has():
    assert chosen("m", rewrite("a", rule("x", "m"), created=""), rewrite("b", rule("y", "m"))) == ("y", "b")


def test_of_one_rewrite_the_rule_written_first():
    assert Rewrites([rewrite("r", rule("x", "m"), rule("y", "m"), rule("g"), rule("h"))]).choose("m", Numbers()) == ("x", "r")
    assert Rewrites([rewrite("r", rule("g"), rule("h"))]).choose("m", Numbers()) == ("g", "r")


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ((None, None), {"t0": 1, "t1": 1}),
        ((90, 10), {"t0": 90, "t1": 10}),
        ((1, 1_000, 3), {"t0": 1, "t1": 1_000, "t2": 3}),
        ((5, None), {"t0": 5, "t1": 1}),
        ((3, 0), {"t0": 3}),
        ((0, -1, 2), {"t2": 2}),
    ],
)
def test_every_number_that_can_be_drawn_is_some_target_s_and_each_has_as_many_as_its_weight(weights, shares):
    targets = tuple(Target(model=f"t{index}", weight=weight) for index, weight in enumerate(weights))
    rewrites, numbers = Rewrites([rewrite("r", Rule(targets=targets))]), Numbers()
    counts = Counter(rewrites.choose("m", numbers)[0] for _ in range(sum(shares.values())))
    assert counts == shares
    assert set(numbers.bounds) <= {sum(shares.values())}


def test_one_target_is_not_drawn():
    numbers = Numbers()
    assert Rewrites([rewrite("r", rule("x"))]).choose("m", numbers) == ("x", "r")
    assert numbers.bounds == []


@pytest.mark.parametrize(
    "targets",
    [(), (Target(model="x", weight=0),), (Target(model="x", weight=-3), Target(model="y", weight=0)), (Target(model=""),)],
)
def test_a_rule_without_a_target_that_can_be_drawn_is_as_good_as_absent(targets):
    empty = rewrite("a", Rule(models=("m",), targets=targets), Rule(targets=targets))
    assert chosen("m", empty) is None
    assert chosen("m", empty, rewrite("b", rule("y", "m"))) == ("y", "b")
