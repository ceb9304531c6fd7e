"""The history of configurations: what goes in force, what waits, what stays out."""

import pytest

from epp.config import load
from epp.errors import ConfigError
from epp.live.generations import HISTORY_MAX, Answer, Candidate, Generations

CONFIG = load("")


def candidate(name: str) -> Candidate:
    return Candidate(config=CONFIG, text="", hash=name, source=f"file {name}")


class History(Generations):
    """Generations that apply what may be applied."""

    def __init__(self, first: str = "a") -> None:
        super().__init__(candidate(first), 0.0)

    def bring(self, name: str) -> Answer:
        answer = self.offer(candidate(name))
        if answer is Answer.APPLY:
            self.enter(candidate(name), "changed", 1.0)
        return answer

    @property
    def in_force(self) -> str:
        return self.current.candidate.hash


def test_what_is_offered_goes_in_force_and_what_was_stays_in_memory():
    history = History()
    assert history.bring("b") is Answer.APPLY
    assert (history.in_force, history.current.number) == ("b", 2)
    assert [one.candidate.hash for one in history.previous] == ["a"]
    assert history.waiting is None


def test_the_same_once_more_changes_nothing():
    history = History()
    assert history.bring("a") is Answer.IN_FORCE
    assert history.current.number == 1


def test_the_history_is_bounded_and_says_what_it_holds():
    history = History()
    for number in range(50):
        history.bring(f"c{number}")
    assert len(history.previous) == HISTORY_MAX
    assert history.find(51).candidate.hash == "c49"
    assert history.find(31).number == 31
    with pytest.raises(ConfigError, match="generation 30 is not kept; there are 31 to 51"):
        history.find(30)
    with pytest.raises(ConfigError, match="generation 2 is not kept; there are 1"):
        History().find(2)


def test_back_is_to_another_configuration_not_to_the_same_one_under_another_number():
    history = History()
    with pytest.raises(ConfigError, match="no other configuration"):
        history.before()
    history.bring("b")
    history.enter(candidate("b"), "again", 2.0)
    assert history.before().candidate.hash == "a"


class TestPinned:
    def test_nothing_gets_past_a_pin_and_the_newest_waits_for_its_end(self):
        history = History()
        history.pin()
        assert [history.bring(name) for name in "bc"] == [Answer.PINNED] * 2
        assert history.waiting is Answer.PINNED
        assert history.in_force == "a"
        assert history.unpin().hash == "c"
        assert history.waiting is Answer.APPLY

    def test_when_nothing_came_nothing_follows(self):
        history = History()
        history.pin()
        assert history.unpin() is None

    def test_what_is_in_force_and_offered_again_does_not_wait(self):
        history = History()
        history.pin()
        assert history.bring("a") is Answer.IN_FORCE
        assert history.unpin() is None


class TestCondemned:
    @pytest.fixture
    def history(self):
        """`b` failed, `a` is back."""
        history = History()
        history.bring("b")
        history.enter(candidate("a"), "trial failed", 2.0)
        history.condemn(candidate("b"))
        return history

    def test_it_is_not_tried_again(self, history):
        assert history.bring("b") is Answer.CONDEMNED
        assert history.waiting is Answer.CONDEMNED
        assert history.in_force == "a"

    @pytest.mark.parametrize("between", ["a", "c"])
    def test_until_its_source_has_brought_another_one(self, history, between):
        history.bring(between)
        assert history.bring("b") is Answer.APPLY

    def test_not_by_unpinning_either(self, history):
        history.pin()
        history.bring("b")
        assert history.unpin() is None

    def test_it_can_be_pardoned(self, history):
        history.pardon()
        assert history.bring("b") is Answer.APPLY
