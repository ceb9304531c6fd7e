"""What a new configuration takes over from the old one, and what it must leave as it is. Pure.

A strategy stays, with all it knows, when the new configuration has a producer with the same parameters, under whatever name.
"""

from collections.abc import Iterable

from epp.errors import ConfigError
from epp.live.parking import Holding
from epp.prefix.strategy import Strategy
from epp.scheduling.api import Producer
from epp.scheduling.build import Plan

FIXED_LIMITS = ("bodyBytesMax", "bodiesBytesMax", "endpointsMax", "requestsMax")
"""Limits that sized something when the process started: the queues of streams, the columns of the pool, the ledger."""


class Inheritance:
    """Strategies that look for their place in a new configuration.

    Args:
        used: those of the configuration in force.
        parked: those kept from before.
    """

    def __init__(self, used: Iterable[Holding], parked: Iterable[Holding]) -> None:
        self.used: list[Holding] = []
        """What is in the new configuration, new strategies included."""
        self._in_force = list(used)
        self._parked = list(parked)

    @property
    def left(self) -> tuple[Holding, ...]:
        """Those of the configuration in force for which there was no place."""
        return tuple(self._in_force)

    def take(self, producer: Producer) -> Strategy:
        """Return the strategy of these parameters: one in force, one parked, or a new one; nobody gets the same twice."""
        for holdings in (self._in_force, self._parked):
            for index, one in enumerate(holdings):
                if one.producer == producer:
                    self.used.append(holdings.pop(index))
                    return one.strategy
        self.used.append(Holding(producer=producer, strategy=producer.build()))
        return self.used[-1].strategy


def check_swap(old: Plan, new: Plan) -> None:
    """Raise ConfigError when the new configuration changes what only a start can change."""
    if new.discovery != old.discovery:
        raise ConfigError("where endpoints come from cannot change while the picker runs; restart it", "dataLayer.discovery")
    for name in FIXED_LIMITS:
        was, wanted = _limit(old, name), _limit(new, name)
        if wanted != was:
            raise ConfigError(f"cannot change while the picker runs ({was} since its start); restart it", f"limits.{name}")


def _limit(plan: Plan, name: str) -> int:
    limits = plan.config.limits
    return {
        "bodyBytesMax": limits.body_bytes_max,
        "bodiesBytesMax": limits.bodies_bytes_max,
        "endpointsMax": limits.endpoints_max,
        "requestsMax": limits.requests_max,
    }[name]
