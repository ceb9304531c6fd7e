"""All that exists only on Kubernetes, put together: who follows what of the API server, and whom it tells.

The composition root makes one `Cluster` when the flags name a pool or a selector of pods, enters it before the background tasks
start, and runs its `jobs`.
"""

from collections.abc import Callable, Coroutine, Iterator, Mapping
from functools import partial
from random import Random
from types import TracebackType
from typing import Any, Protocol, Self

from epp.admin.gate import Gate
from epp.discovery.kube import KubeDiscovery, PodSelection, Sink
from epp.flags import ServeOptions
from epp.kube.access import own_deployment, own_namespace
from epp.kube.client import Api
from epp.kube.elector import Elector
from epp.kube.objectives import ObjectiveWatch
from epp.kube.objects import PoolRef
from epp.kube.reflector import Reflector
from epp.kube.reviews import review
from epp.kube.standing import remark, standing
from epp.objectives.objectives import Objectives
from epp.telemetry.state_metrics import Candidacy, Watched


class Told(Sink, Protocol):
    """Who is told of all that is decided elsewhere."""

    def elected(self, leads: bool, holder: str) -> None:
        """Whether we lead now, and who does as far as is known."""


class Cluster:
    """What a picker has to do with the API server. An asynchronous context manager: its connections.

    Args:
        options: the flags; they name a pool or a selector.
        told: who is told of the endpoints and of who leads.
        objectives: who is told of objectives and rewrites; only a pool can have some.
        clock: monotonic seconds.
        random: spreads waits.
    """

    def __init__(
        self, options: ServeOptions, told: Told, objectives: Objectives, *, clock: Callable[[], float], random: Random
    ) -> None:
        self.api = Api()
        self.namespace = options.pool_namespace or own_namespace()
        """Of the pool and everything that belongs to it."""
        self.gate = Gate(partial(review, self.api), clock=clock) if options.metrics_endpoint_auth else None
        """Who may read the admin port; None: everybody."""
        self._clock = clock
        source = _source(options, self.namespace)
        self._discovery = KubeDiscovery(self.api, source, told, clock=clock, random=random)
        self._objectives = (
            ObjectiveWatch(self.api, source, objectives, clock=clock, random=random) if isinstance(source, PoolRef) else None
        )
        self._elector = self._make_elector(options, told, random) if options.leader_election else None

    async def __aenter__(self) -> Self:
        """Read the configuration of the client library.

        Raises:
            ConfigError: there is no Kubernetes to be found, or its configuration cannot be used.
        """
        await self.api.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the connections."""
        await self.api.__aexit__(kind, error, trace)

    def jobs(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """Return the background tasks by name."""
        watch, elector = self._objectives, self._elector
        return {
            "discovery": self._discover(),
            **({"objectives": watch.run()} if watch is not None else {}),
            **({"election": elector.run()} if elector is not None else {}),
        }

    async def resign(self) -> bool:
        """Take part in no election any more. Returns whether we led until now."""
        led = self._elector is not None and self._elector.leads
        if self._elector is not None:
            await self._elector.resign()
        return led

    def watched(self) -> Iterator[Watched]:
        """Yield how everything is followed, for the series."""
        yield from map(standing, self._watches())

    def remarks(self) -> Iterator[str]:
        """Yield what is amiss, for whoever asks whether we are ready: what cannot be followed, and since when."""
        yield from filter(None, (remark(one, self._clock()) for one in self._watches()))
        if self._elector is not None and self._elector.failing:
            yield f"the Lease {self._elector.name} cannot be had ({self._elector.failing})"

    def candidacies(self) -> Iterator[Candidacy]:
        """Yield our part in the election, for the series."""
        if (one := self._elector) is not None:
            yield Candidacy(lease=one.name, leads=one.leads, changes=one.changes, errors=one.errors)

    async def _discover(self) -> None:
        """Look for endpoints, which makes us ready, when it is known what is asked of requests to them."""
        if self._objectives is not None:
            await self._objectives.first_look()
        await self._discovery.run()

    def _watches(self) -> tuple[Reflector[Any], ...]:
        objectives = self._objectives.watches if self._objectives is not None else ()
        return (*self._discovery.watches, *objectives, *((self._elector.watch,) if self._elector is not None else ()))

    def _make_elector(self, options: ServeOptions, told: Told, random: Random) -> Elector:
        name = f"epp-{self.namespace}-{options.pool_name or own_deployment()}.llm-d.ai"
        return Elector(self.api, namespace=self.namespace, name=name, changed=told.elected, clock=self._clock, random=random)


def _source(options: ServeOptions, namespace: str) -> PoolRef | PodSelection:
    """Return what the flags say the endpoints are."""
    if options.pool_name:
        return PoolRef(name=options.pool_name, namespace=namespace, group=options.pool_group)
    return PodSelection(namespace=namespace, selector=options.endpoint_selector, ports=options.endpoint_target_ports)
