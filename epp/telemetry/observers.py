"""Several observers as one: the director tells this object, and it tells metrics, ring and log."""

from collections.abc import Sequence
from typing import Protocol

from epp.errors import RequestError
from epp.model.decision import Decision, Outcome
from epp.model.request import RequestHead


class Observing(Protocol):
    """What the director calls; the same as its `Observer`, seen from below."""

    def decided(self, decision: Decision, *, duration_s: float, body_bytes: int) -> None:
        """A request was given an endpoint."""

    def rejected(self, head: RequestHead, error: RequestError) -> None:
        """A request was answered by the picker itself."""

    def finished(self, decision: Decision, outcome: Outcome, *, ttft_s: float | None, duration_s: float) -> None:
        """A request is over."""


class Observers:
    """Tells each of them, in order."""

    def __init__(self, observers: Sequence[Observing]) -> None:
        self._observers = tuple(observers)

    def add(self, observer: Observing) -> None:
        """Tell `observer` too, after the others."""
        self._observers = (*self._observers, observer)

    def remove(self, observer: Observing) -> None:
        """Tell `observer` no longer."""
        self._observers = tuple(one for one in self._observers if one is not observer)

    def decided(self, decision: Decision, *, duration_s: float, body_bytes: int) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.decided(decision, duration_s=duration_s, body_bytes=body_bytes)

    def rejected(self, head: RequestHead, error: RequestError) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.rejected(head, error)

    def finished(self, decision: Decision, outcome: Outcome, *, ttft_s: float | None, duration_s: float) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.finished(decision, outcome, ttft_s=ttft_s, duration_s=duration_s)
