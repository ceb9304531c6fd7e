"""The configuration's status and history, as the admin port and the metrics want them."""

from datetime import UTC, datetime
from typing import Any

from epp.live.controller import Controller, Failure
from epp.live.generations import Generation
from epp.live.parking import Parking
from epp.live.trial import Trial
from epp.telemetry.state_metrics import ConfigState

Json = dict[str, Any]


class LiveConfig:
    """What the admin port shows of the configuration, and what it can have done.

    Args:
        controller: who decides.
        parking: what is kept warm.
    """

    def __init__(self, controller: Controller, parking: Parking) -> None:
        self._controller = controller
        self._parking = parking

    def state(self) -> ConfigState:
        """Return it for the series."""
        controller = self._controller
        current, size = controller.generations.current, self._parking.size()
        return ConfigState(
            hash=current.candidate.hash,
            generation=current.number,
            last_success_s=controller.last_success_s,
            last_failure_s=controller.last_failure_s,
            failures=controller.failures,
            up_to_date=controller.failure is None and controller.generations.waiting is None,
            pinned=controller.generations.pinned,
            on_trial=controller.trial is not None,
            parked=len(self._parking),
            parked_bytes=size.bytes,
        )

    def report(self) -> Json:
        """Return status and history, as JSON can hold them."""
        controller, history = self._controller, self._controller.generations
        current, waiting, newest = history.current, history.waiting, history.newest
        return {
            "hash": current.candidate.hash,
            "generation": current.number,
            "source": current.candidate.source,
            "cause": current.cause,
            "since": _time(current.since_s),
            "status": {
                "up_to_date": controller.failure is None and waiting is None,
                "pinned": history.pinned,
                "newest": {"hash": newest.hash, "source": newest.source, "held": waiting and waiting.value},
                "error": controller.failure and _failure(controller.failure),
                "warnings": controller.warnings,
                "trial": controller.trial and _trial(controller.trial),
                "condemned": history.condemned or None,
                "last_success": _time(controller.last_success_s),
                "last_failure": _time(controller.last_failure_s) if controller.failures else None,
                "failures": controller.failures,
            },
            "previous": [_generation(one) for one in history.previous],
            "parked": [
                {"strategy": one.strategy.name, "bytes": one.strategy.size().bytes, "entries": one.strategy.size().entries}
                for one in self._parking.holdings
            ],
        }

    def effective(self, number: int | None = None) -> str:
        """Return a generation's configuration as YAML, of the one in force for None.

        Raises:
            ConfigError: it is not kept.
        """
        history = self._controller.generations
        return (history.current if number is None else history.find(number)).candidate.text

    async def rollback(self, number: int | None) -> None:
        """Go back and pin.

        Raises:
            ConfigError: it cannot be done.
        """
        await self._controller.rollback(number)

    async def pin(self) -> None:
        """Keep what is in force."""
        await self._controller.pin()

    async def unpin(self) -> None:
        """Follow the sources again.

        Raises:
            ConfigError: what they brought last cannot be used.
        """
        await self._controller.unpin()


def _generation(one: Generation) -> Json:
    return {
        "generation": one.number,
        "hash": one.candidate.hash,
        "source": one.candidate.source,
        "cause": one.cause,
        "since": _time(one.since_s),
    }


def _failure(failure: Failure) -> Json:
    return {
        "path": failure.error.path,
        "message": failure.error.message,
        "source": failure.source,
        "at": _time(failure.at_s),
    }


def _trial(trial: Trial) -> Json:
    seen, hits, before = trial.errors, trial.hits, trial.baseline
    return {
        "for_s": trial.for_s,
        "requests": seen.requests,
        "error_ratio": round(seen.error_ratio, 4),
        "error_ratio_before": round(before.error_ratio, 4),
        "hit_ratio": {word: hits.hit_ratio(reported=word == "reported") for word in ("reported", "believed")},
        "hit_ratio_before": {word: before.hit_ratio(reported=word == "reported") for word in ("reported", "believed")},
    }


def _time(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds")
