"""Whether we are alive and ready, from facts set where they become true.

The pool sets "synced", the signal handler sets "draining", leader election sets "leader"; the gRPC health service and `/readyz`
ask. One state object feeds all of them, so that two ports can never tell two stories.

Liveness is SERVING for as long as the process can answer, also while it drains: a failing liveness probe would get the process
killed in the middle of the requests it is draining.
"""

from collections.abc import Callable, Iterable
from enum import Enum, IntEnum

LIVENESS = "liveness"
READINESS = "readiness"
EXT_PROC = "envoy.service.ext_proc.v3.ExternalProcessor"
INFERENCE_EXTENSION = "inference-extension"
"""The name that Gateway API inference deployments probe."""

SERVICES = ("", LIVENESS, READINESS, EXT_PROC, INFERENCE_EXTENSION)
"""Every name that is answered; the empty one is the server as a whole."""
SERVICES_ELECTED = ("", LIVENESS, READINESS, EXT_PROC)
"""The same where a leader is elected, as the reference: a standby is well and not ready, which takes two names to say."""


class Serving(IntEnum):
    """`grpc.health.v1.HealthCheckResponse.ServingStatus`, with its numbers."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


class Fact(Enum):
    """What readiness is made of; the value is the reason given while the fact stands in the way."""

    POOL_SYNCED = "the endpoints of the pool are not known yet"
    LEADER = "not the leader"
    DRAINING = "draining"


class HealthState:
    """The facts, the answers they lead to, and those who want to hear of a change.

    Args:
        elected: whether a leader is elected; then nobody leads from the start.
    """

    def __init__(self, *, elected: bool = False) -> None:
        self.services = SERVICES_ELECTED if elected else SERVICES
        """Every name that is answered."""
        self._facts: dict[Fact, bool] = {Fact.POOL_SYNCED: False, Fact.LEADER: not elected, Fact.DRAINING: False}
        self._details: dict[Fact, str] = {}
        self._watchers: list[Callable[[], None]] = []
        self._remarks: list[Callable[[], Iterable[str]]] = []

    def set(self, fact: Fact, value: bool, *, reason: str = "") -> None:
        """Record that `fact` is `value` from now on; `reason` says more than the fact's own sentence."""
        before = self.ready
        self._facts[fact] = value
        self._details[fact] = reason
        if self.ready != before:
            for watcher in tuple(self._watchers):
                watcher()

    def is_set(self, fact: Fact) -> bool:
        """Return what was last recorded for `fact`."""
        return self._facts[fact]

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here."""
        return not self.reasons()

    def reasons(self) -> tuple[str, ...]:
        """Return why we are not ready, a phrase for each fact in the way; empty when ready."""
        in_the_way = [fact for fact, value in self._facts.items() if value is (fact is Fact.DRAINING)]
        return tuple(f"{fact.value}: {detail}" if (detail := self._details.get(fact)) else fact.value for fact in in_the_way)

    def on_remark(self, source: Callable[[], Iterable[str]]) -> None:
        """Have `source` asked for what is amiss without being in the way, whenever somebody wants to know."""
        self._remarks.append(source)

    def remarks(self) -> tuple[str, ...]:
        """Return what is amiss without being in the way of readiness, a sentence for each."""
        return tuple(remark for source in self._remarks for remark in source())

    def answer(self, service: str) -> Serving:
        """Return the serving status of a service name, SERVICE_UNKNOWN for a name outside `services`."""
        if service not in self.services:
            return Serving.SERVICE_UNKNOWN
        return Serving.SERVING if service == LIVENESS or self.ready else Serving.NOT_SERVING

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` after every change of readiness; return the function that stops it. The caller bounds their number."""
        self._watchers.append(changed)
        return lambda: self._watchers.remove(changed)
