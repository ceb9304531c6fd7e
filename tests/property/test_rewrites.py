"""Rules against a model of them that sorts and searches anew for every request."""

from collections import Counter
from fractions import Fraction
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from epp.objectives.rewrites import Rewrite, Rewrites, Rule, Target

models = st.sampled_from("abcd")
targets = st.builds(Target, model=st.sampled_from("wxyz"), weight=st.none() | st.integers(1, 5))
rules = st.builds(
    Rule, models=st.lists(models, max_size=3).map(tuple), targets=st.lists(targets, min_size=1, max_size=4).map(tuple)
)
lists = st.lists(
    st.builds(
        Rewrite,
        name=st.text("abc", min_size=1, max_size=3),
        created=st.sampled_from(["", "2025-06-01T00:00:00Z", "2025-06-01T00:00:01Z", "2026-01-01T00:00:00Z"]),
        rules=st.lists(rules, max_size=4).map(tuple),
    ),
    max_size=5,
    unique_by=lambda one: one.name,
)


class Count:
    """Draws 0, 1, 2, ... each once, and says where it ends."""

    def __init__(self):
        self.at, self.bound = -1, 1

    def randrange(self, bound):
        self.bound = bound
        self.at += 1
        return self.at


def winner(rewrites: list[Rewrite], model: str) -> tuple[Rewrite, Rule] | None:
    """Return the rule that counts, by the words of the specification: exact, then oldest, then name, then as written."""
    ranks = [
        (model not in rule.models, one.created or "9999", one.name, place)
        for one in rewrites
        for place, rule in enumerate(one.rules)
        if model in rule.models or not rule.models
    ]
    if not ranks:
        return None
    _, _, name, place = min(ranks)
    (one,) = (one for one in rewrites if one.name == name)
    return one, one.rules[place]


@given(lists, models, st.randoms(use_true_random=False))
def test_the_rule_that_counts_whatever_the_order_of_arrival(rewrites: list[Rewrite], model: str, random: Random):
    expected = winner(rewrites, model)
    shuffled = random.sample(rewrites, len(rewrites))
    found = Rewrites(shuffled).choose(model, random)
    if expected is None:
        assert found is None
        return
    rewrite, rule = expected
    assert found is not None
    assert found[1] == rewrite.name
    assert found[0] in {target.model for target in rule.targets}


@given(lists, models)
def test_over_all_draws_each_target_has_exactly_its_share(rewrites: list[Rewrite], model: str):
    expected = winner(rewrites, model)
    if expected is None:
        return
    _, rule = expected
    weights = Counter[str]()
    for target in rule.targets:
        weights[target.model] += 1 if target.weight is None else target.weight
    compiled, count, found = Rewrites(rewrites), Count(), Counter[str]()
    while count.at < count.bound - 1:
        choice = compiled.choose(model, count)
        assert choice is not None
        found[choice[0]] += 1
        if count.at < 0:  # nothing was drawn: there is one target
            break
    assert {name: Fraction(n, found.total()) for name, n in found.items()} == {
        name: Fraction(n, weights.total()) for name, n in weights.items()
    }
