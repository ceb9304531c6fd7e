"""Which configuration is in force, which were before, and what becomes of one that comes: the history as a state machine.

`controller` drives it: every configuration that a source brings and that can be used is offered here, and goes in force, or waits
while another is pinned, or stays out because it failed its trial. Going back is going on: to roll back makes a new generation with
an old configuration. Pure: no clock, no file, no log.
"""

from collections import deque
from dataclasses import dataclass
from enum import Enum

from epp.config import EndpointPickerConfig, config_hash, dump
from epp.errors import ConfigError

HISTORY_MAX = 20
"""Generations kept beside the one in force."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A configuration that can be used, and where it came from."""

    config: EndpointPickerConfig
    """Effective: building it again gives the same."""
    text: str
    """The same as YAML."""
    hash: str
    source: str


def candidate(config: EndpointPickerConfig, source: str) -> Candidate:
    """Return an effective configuration with what it is called and known by. Cost: some milliseconds."""
    return Candidate(config=config, text=dump(config), hash=config_hash(config), source=source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A configuration that is or was in force."""

    number: int
    candidate: Candidate
    cause: str
    """Why it went in force, as a phrase."""
    since_s: float
    """Wall time."""


class Answer(Enum):
    """What becomes of a configuration that is offered."""

    APPLY = "it is to go in force"
    IN_FORCE = "it is in force already"
    PINNED = "another one is pinned"
    CONDEMNED = "it failed its trial, and has not changed since"


class Generations:
    """The history.

    Args:
        first: what the process started with.
        at_s: wall time.
    """

    def __init__(self, first: Candidate, at_s: float) -> None:
        self.current = Generation(number=1, candidate=first, cause="start", since_s=at_s)
        self.pinned = False
        self.newest = first
        """The last that a source brought and that could be used."""
        self.condemned = ""
        """Hash of the configuration that failed its trial."""
        self._previous: deque[Generation] = deque(maxlen=HISTORY_MAX)

    @property
    def previous(self) -> tuple[Generation, ...]:
        """Those before, the latest first."""
        return tuple(self._previous)

    @property
    def waiting(self) -> Answer | None:
        """Why the newest configuration is not in force; None when it is."""
        answer = self._answer(self.newest)
        return None if answer is Answer.IN_FORCE else answer

    def offer(self, candidate: Candidate) -> Answer:
        """Take note of what a source brought, and say what becomes of it. Only `enter` puts it in force."""
        self.newest = candidate
        if candidate.hash != self.condemned:
            self.condemned = ""  # the source has changed: should it come back to this one, that is meant
        return self._answer(candidate)

    def enter(self, candidate: Candidate, cause: str, at_s: float) -> Generation:
        """Put a configuration in force as the next generation."""
        self._previous.appendleft(self.current)
        self.current = Generation(number=self.current.number + 1, candidate=candidate, cause=cause, since_s=at_s)
        return self.current

    def find(self, number: int) -> Generation:
        """Return a generation that is kept.

        Raises:
            ConfigError: it never was, or is not kept any more.
        """
        for one in (self.current, *self._previous):
            if one.number == number:
                return one
        kept = f"{self._previous[-1].number} to " if self._previous else ""
        raise ConfigError(f"generation {number} is not kept; there are {kept}{self.current.number}")

    def before(self) -> Generation:
        """Return the latest generation with another configuration than the one in force.

        Raises:
            ConfigError: there is none.
        """
        for one in self._previous:
            if one.candidate.hash != self.current.candidate.hash:
                return one
        raise ConfigError("there is no other configuration to go back to")

    def pin(self) -> None:
        """Have what is in force stay, whatever sources bring."""
        self.pinned = True

    def unpin(self) -> Candidate | None:
        """Follow the sources again. Returns what is to go in force now, None when it is already or must not."""
        self.pinned = False
        return self.newest if self.waiting is Answer.APPLY else None

    def condemn(self, candidate: Candidate) -> None:
        """Have a configuration that is no longer in force stay out until its source has brought another one."""
        self.condemned = candidate.hash

    def pardon(self) -> None:
        """Forget which configuration failed."""
        self.condemned = ""

    def _answer(self, candidate: Candidate) -> Answer:
        if candidate.hash == self.current.candidate.hash:
            return Answer.IN_FORCE
        if self.pinned:
            return Answer.PINNED
        return Answer.CONDEMNED if candidate.hash == self.condemned else Answer.APPLY
