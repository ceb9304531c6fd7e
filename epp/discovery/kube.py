"""Endpoints from Kubernetes: the ready pods of an InferencePool, or those that a selector finds where there is no pool object.

The pool says which pods (a selector) and which ports; the pods are watched with that selector, so that the API server sends no
others. Another selector means another watch: until its first list is complete the old endpoints stay. The composition root runs
it, and is told by `found` of the whole list whenever it differs, by `lost` when there is no pool any more, or none yet.

What it protects from: an API server that is away (what was last known stays), and a rebuilt pool because of what does not matter
(a pod's touch that changes no endpoint is not passed on).
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from epp.discovery.pods import PodEndpoints
from epp.kube.backoff import Pace
from epp.kube.client import Api
from epp.kube.objects import LEGACY_POOL_GROUP, POOL_GROUP, InferencePool, LegacyInferencePool, Pod, Pool, PoolRef
from epp.kube.reflector import Reflector
from epp.model.endpoint import Endpoint

_log = logging.getLogger(__name__)

_KINDS: Mapping[str, tuple[str, type[Pool]]] = {
    POOL_GROUP: ("v1", InferencePool),
    LEGACY_POOL_GROUP: ("v1alpha2", LegacyInferencePool),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSelection:
    """Stands in for a pool object where there is none. A `Pool`."""

    namespace: str
    selector: Mapping[str, str]
    ports: tuple[int, ...]
    app_protocol: str = "http"


class Sink(Protocol):
    """Who is told what the endpoints are."""

    def found(self, endpoints: Sequence[Endpoint]) -> None:
        """These are the endpoints now, all of them."""

    def lost(self, reason: str) -> None:
        """There is no pool."""


class KubeDiscovery:
    """Follows a pool and its pods.

    Args:
        api: entered before `run`.
        source: the pool, or what stands in for it.
        sink: who is told.
        clock: monotonic seconds.
        random: spreads waits.
        pace: of the watches.
    """

    def __init__(
        self,
        api: Api,
        source: PoolRef | PodSelection,
        sink: Sink,
        *,
        clock: Callable[[], float],
        random: Random,
        pace: Pace | None = None,
    ) -> None:
        self._api = api
        self._source = source
        self._sink = sink
        self._more: dict[str, Any] = {"clock": clock, "random": random, "pace": pace}
        self._pool_watch = self._watch_pool(source) if isinstance(source, PoolRef) else None
        self._pods_watch: Reflector[Pod] | None = None
        self._pods_task: asyncio.Task[None] | None = None
        self._tasks = asyncio.TaskGroup()
        self._selector: Mapping[str, str] | None = None
        """By which the pods are watched."""
        self._ports: tuple[int, ...] = ()
        self._pods: Mapping[str, Pod] | None = None
        """As last listed; None before that."""
        self._made = PodEndpoints()
        self._known: tuple[Endpoint, ...] | None = None
        """What the sink was last told."""

    async def run(self) -> None:
        """Follow until cancelled."""
        async with self._tasks:
            if self._pool_watch is not None:
                self._tasks.create_task(self._pool_watch.run(), name="pool")
            elif isinstance(self._source, PodSelection):
                self._follow(self._source)

    @property
    def watches(self) -> tuple[Reflector[Any], ...]:
        """What is being watched."""
        return tuple(one for one in (self._pool_watch, self._pods_watch) if one is not None)

    def _watch_pool(self, ref: PoolRef) -> Reflector[Pool]:
        version, kind = _KINDS[ref.group]
        path = f"/apis/{ref.group}/{version}/namespaces/{ref.namespace}/inferencepools"
        return Reflector(
            self._api, path, kind, field_selector=f"metadata.name={ref.name}", changed=self._pool_changed, **self._more
        )

    def _pool_changed(self, pools: Mapping[str, Pool]) -> None:
        """Take over what the pool says now, or that there is none."""
        source = self._source
        assert isinstance(source, PoolRef)
        pool = pools.get(source.name)
        if pool is not None:
            self._follow(pool)
            return
        self._forget()
        _log.warning("no such InferencePool", extra={"namespace": source.namespace, "pool": source.name, "group": source.group})
        self._sink.lost(f"there is no InferencePool {source.name} of {source.group} in namespace {source.namespace}")

    def _follow(self, pool: Pool) -> None:
        """Make endpoints of the pods and ports that the pool names from now on."""
        _log.info("pool", extra={"selector": dict(pool.selector), "ports": pool.ports, "app_protocol": pool.app_protocol})
        self._ports = pool.ports
        if pool.selector == self._selector:
            self._tell()
            return
        self._selector = pool.selector
        if self._pods_task is not None:
            self._pods_task.cancel()
        self._pods_watch = Reflector(
            self._api,
            f"/api/v1/namespaces/{self._source.namespace}/pods",
            Pod,
            label_selector=",".join(f"{key}={value}" for key, value in sorted(pool.selector.items())),
            changed=self._pods_changed,
            **self._more,
        )
        self._pods_task = self._tasks.create_task(self._pods_watch.run(), name="pods")

    def _forget(self) -> None:
        """Follow no pods."""
        if self._pods_task is not None:
            self._pods_task.cancel()
        self._pods_task = self._pods_watch = self._selector = self._pods = self._known = None

    def _pods_changed(self, pods: Mapping[str, Pod]) -> None:
        self._pods = pods
        self._tell()

    def _tell(self) -> None:
        """Tell the sink what the endpoints are, if they are known and it does not know."""
        if self._pods is None:
            return
        endpoints = self._made.of(self._pods.values(), self._ports)
        if endpoints != self._known:
            self._known = endpoints
            self._sink.found(endpoints)
