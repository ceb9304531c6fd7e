"""Several observers as one: the director tells this object, and it tells metrics, ring and log.

What goes wrong in one of them is logged, and costs neither the others nor the request.
"""

import logging
from collections.abc import Sequence
from typing import Protocol

from epp.errors import RequestError
from epp.model.decision import Decision, Outcome
from epp.model.request import InferenceRequest

_log = logging.getLogger(__name__)


class Observing(Protocol):
    """What the director calls; the same as its `Observer`, seen from below."""

    def decided(self, decision: Decision, *, duration_s: float, body_bytes: int) -> None:
        """A request was given an endpoint."""

    def rejected(self, request: InferenceRequest, error: RequestError) -> None:
        """A request was answered by the picker itself; of one that could not be read no more is known than its head."""

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
            try:
                observer.decided(decision, duration_s=duration_s, body_bytes=body_bytes)
            except Exception:  # noqa: BLE001 - see above
                _log.exception("an observer failed")

    def rejected(self, request: InferenceRequest, error: RequestError) -> None:
        """Pass it on."""
        for observer in self._observers:
            try:
                observer.rejected(request, error)
            except Exception:  # noqa: BLE001 - see above
                _log.exception("an observer failed")

    def finished(self, decision: Decision, outcome: Outcome, *, ttft_s: float | None, duration_s: float) -> None:
        """Pass it on."""
        for observer in self._observers:
            try:
                observer.finished(decision, outcome, ttft_s=ttft_s, duration_s=duration_s)
            except Exception:  # noqa: BLE001 - see above
                _log.exception("an observer failed")
