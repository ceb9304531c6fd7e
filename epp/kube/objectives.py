"""InferenceObjectives and InferenceModelRewrites of one pool, followed in both of their groups and told to `epp.objectives`.

An object counts if its `poolRef` names the pool. The resources are optional: where they do not exist the reflector says so in one
line and looks for them again. Their status is nobody's to write here.

Source: https://llm-d.ai/docs/api-reference/inferenceobjective, https://llm-d.ai/docs/api-reference/inferencemodelrewrite.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from random import Random
from typing import Any

from msgspec import field

from epp.kube.client import Api
from epp.kube.objects import POOL_GROUP, Object, PoolRef
from epp.kube.reflector import Reflector
from epp.objectives.objectives import Objectives, Source
from epp.objectives.rewrites import Rewrite, Rule, Target

GROUP, LEGACY_GROUP, VERSION = "llm-d.ai", "inference.networking.x-k8s.io", "v1alpha2"
SOURCES = {GROUP: Source.CLUSTER, LEGACY_GROUP: Source.LEGACY_GROUP}
FIRST_LOOK_S = 5.0
"""How long `first_look` waits for an API server that does not say what there is."""
LOOK_S = 0.02
"""How often it looks."""
FORBIDDEN = "Forbidden"

_log = logging.getLogger(__name__)


class PoolReference(Object, frozen=True):
    """Which pool an object is for."""

    name: str
    group: str = POOL_GROUP
    kind: str = "InferencePool"

    def names(self, pool: PoolRef) -> bool:
        """Return whether it is this pool.

        There is no InferencePool in the group `llm-d.ai`, but definitions of the resources have been published that fill it in
        where an object leaves its group out; so it is taken for one left out.
        """
        group = POOL_GROUP if self.group == GROUP else self.group
        return (self.name, self.kind, group) == (pool.name, "InferencePool", pool.group)


class Metadata(Object, frozen=True):
    """Who an object is."""

    name: str
    creation_timestamp: str = ""


class _ObjectiveSpec(Object, frozen=True):
    pool_ref: PoolReference
    priority: int | None = None


class InferenceObjective(Object, frozen=True):
    """What requests that name it are worth."""

    metadata: Metadata
    spec: _ObjectiveSpec


class _Model(Object, frozen=True):
    value: str


class _Match(Object, frozen=True):
    model: _Model


class _Target(Object, frozen=True):
    model_rewrite: str
    weight: int | None = None


class _Rule(Object, frozen=True):
    matches: tuple[_Match, ...] | None = None
    targets: tuple[_Target, ...] = ()


class _RewriteSpec(Object, frozen=True):
    pool_ref: PoolReference
    rules: tuple[_Rule, ...] = field(default=())


class InferenceModelRewrite(Object, frozen=True):
    """Which models are sent on under another name."""

    metadata: Metadata
    spec: _RewriteSpec

    def rewrite(self) -> Rewrite:
        """Return what it says."""
        rules = (
            Rule(
                models=tuple(match.model.value for match in rule.matches or ()),
                targets=tuple(Target(model=target.model_rewrite, weight=target.weight) for target in rule.targets),
            )
            for rule in self.spec.rules
        )
        return Rewrite(name=self.metadata.name, created=self.metadata.creation_timestamp, rules=tuple(rules))


class ObjectiveWatch:
    """Follows the objectives and rewrites of a pool.

    Args:
        api: entered before `run`.
        pool: whose objectives count.
        objectives: who is told.
        clock: monotonic seconds.
        random: spreads waits.
    """

    def __init__(self, api: Api, pool: PoolRef, objectives: Objectives, *, clock: Callable[[], float], random: Random) -> None:
        self._pool = pool
        self._objectives = objectives
        self._unknown = {(kind, group) for kind in (InferenceObjective, InferenceModelRewrite) for group in SOURCES}
        self._clock = clock
        more: dict[str, Any] = {"clock": clock, "random": random}
        watches: list[Reflector[Any]] = []
        for api_group in SOURCES:
            path = f"/apis/{api_group}/{VERSION}/namespaces/{pool.namespace}"
            ranked, rewritten = partial(self._ranked, api_group), partial(self._rewritten, api_group)
            watches.append(Reflector(api, f"{path}/inferenceobjectives", InferenceObjective, changed=ranked, **more))
            watches.append(Reflector(api, f"{path}/inferencemodelrewrites", InferenceModelRewrite, changed=rewritten, **more))
        self.watches: tuple[Reflector[Any], ...] = tuple(watches)
        """What is being followed."""

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for watch in self.watches:
                tasks.create_task(watch.run(), name=watch.resource)

    async def first_look(self) -> None:
        """Return when it is known what there is: a request that comes before would go on under the wrong name.

        Goes on without what we may not see, the resources are optional and so are the rights to them, and after `FIRST_LOOK_S`.
        """
        over_s = self._clock() + FIRST_LOOK_S
        while unseen := [watch for watch in self.watches if not watch.synced]:
            if self._clock() >= over_s or all(watch.failing == FORBIDDEN for watch in unseen):
                resources = ", ".join(watch.resource for watch in unseen)
                _log.warning("beginning without objectives and rewrites, they are not known yet", extra={"resources": resources})
                return
            await asyncio.sleep(LOOK_S)

    def _ranked(self, group: str, found: Mapping[str, InferenceObjective]) -> None:
        ours = {name: one.spec.priority or 0 for name, one in found.items() if one.spec.pool_ref.names(self._pool)}
        self._objectives.set_priorities(SOURCES[group], ours)
        self._tell(InferenceObjective, group, len(found), len(ours))

    def _rewritten(self, group: str, found: Mapping[str, InferenceModelRewrite]) -> None:
        ours = {name: one.rewrite() for name, one in found.items() if one.spec.pool_ref.names(self._pool)}
        self._objectives.set_rewrites(SOURCES[group], ours)
        self._tell(InferenceModelRewrite, group, len(found), len(ours))

    def _tell(self, kind: type[Object], group: str, found: int, ours: int) -> None:
        """Say what came, unless that is, at the first look, nothing."""
        first = (kind, group) in self._unknown
        if found or not first:
            _log.info("objectives of the pool", extra={"kind": kind.__name__, "group": group, "ours": ours, "others": found - ours})
        self._unknown.discard((kind, group))
