"""A pool and its pods, followed before a server whose objects the tests change."""

import asyncio
import json
import time
from random import Random

import pytest
from aiohttp import web

from epp.discovery.kube import KubeDiscovery, PodSelection, PoolRef
from epp.kube.backoff import Pace
from epp.kube.objects import LEGACY_POOL_GROUP
from tests.unit.kube.api_server import serving

QUICK = Pace(retry_s=0.002, retry_s_max=0.004, closed_s_max=0.004, absent_s=0.004)
REF = PoolRef(name="pool", namespace="ns")
NO_POOL = "lost: there is no InferencePool pool of inference.networking.k8s.io in namespace ns"


class World:
    """An API server with pools and pods: lists what there is, sends what has happened since."""

    def __init__(self):
        self.collections = {"inferencepools": {}, "pods": {}}
        self.events = []
        """(collection, event); the n-th made the n-th version."""
        self.down = False
        self._changed = asyncio.Event()

    def put(self, collection, name, **fields):
        known = self.collections[collection]
        kind = "MODIFIED" if name in known else "ADDED"
        known[name] = {"metadata": {"name": name, "namespace": "ns", **fields.pop("metadata", {})}, **fields}
        self._happened(collection, kind, known[name])

    def remove(self, collection, name):
        self._happened(collection, "DELETED", self.collections[collection].pop(name))

    def stop(self):
        self.down = True
        self._wake()

    def _happened(self, collection, kind, shown):
        shown["metadata"]["resourceVersion"] = str(len(self.events) + 1)
        self.events.append((collection, {"type": kind, "object": shown}))
        self._wake()

    def _wake(self):
        self._changed.set()
        self._changed = asyncio.Event()

    def pool(self, ports=(8000,), **labels):
        spec = {"selector": {"matchLabels": labels or {"app": "x"}}, "targetPorts": [{"number": port} for port in ports]}
        self.put("inferencepools", "pool", spec=spec)

    def pod(self, name, ip, *, ready=True, **labels):
        conditions = [{"type": "Ready", "status": str(ready)}]
        self.put("pods", name, metadata={"labels": labels or {"app": "x"}}, status={"podIP": ip, "conditions": conditions})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if self.down:
            return web.Response(status=503)
        collection = request.path.rpartition("/")[2]
        wanted = dict(pair.split("=") for pair in request.query.get("labelSelector", "").split(",") if pair)
        if "watch" not in request.query:
            items = [one for one in self.collections[collection].values() if _has(one, wanted)]
            return web.json_response({"metadata": {"resourceVersion": str(len(self.events))}, "items": items})
        response = web.StreamResponse()
        await response.prepare(request)
        sent = int(request.query["resourceVersion"])
        while not self.down:
            news, sent = self.events[sent:], len(self.events)
            for one, event in news:
                if one == collection and _has(event["object"], wanted):
                    await response.write(json.dumps(event).encode() + b"\n")
            if sent == len(self.events):
                await self._changed.wait()
        return response


def _has(one, wanted):
    return wanted.items() <= one["metadata"].get("labels", {}).items()


class Told:
    """A sink that writes everything down."""

    def __init__(self):
        self.all = []

    def found(self, endpoints):
        self.all.append(endpoints)

    def lost(self, reason):
        self.all.append(f"lost: {reason}")

    @property
    def last(self):
        last = self.all[-1] if self.all else None
        return last if isinstance(last, str) or last is None else {one.name: one.authority for one in last}

    async def until(self, wanted):
        while self.last != wanted:  # noqa: ASYNC110 - nothing says when it is told
            await asyncio.sleep(0.002)


@pytest.fixture
def follow(monkeypatch, tmp_path):
    """Runs a coroutine function of (world, told, discovery) while a pool is followed."""

    def run(check, source=REF):
        async def main():
            world, told = World(), Told()
            async with (
                asyncio.timeout(20),
                serving(monkeypatch, tmp_path, lists=[world.answer], watches=[world.answer] * 100) as served,
            ):
                discovery = KubeDiscovery(served[1], source, told, clock=time.monotonic, random=Random(1), pace=QUICK)
                task = asyncio.create_task(discovery.run())
                try:
                    await check(world, told, discovery)
                    assert not task.done()
                finally:
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                    world.stop()

        asyncio.run(main())

    return run


A, B = {"ns/a-rank-0": "10.0.0.1:8000"}, {"ns/b-rank-0": "10.0.0.2:8000"}


def test_pods_come_change_and_go(follow):
    async def check(world, told, discovery):
        world.pool()
        world.pod("a", "10.0.0.1")
        await told.until(A)
        world.pod("b", "10.0.0.2", ready=False)
        world.pod("b", "10.0.0.2")
        await told.until(A | B)
        world.remove("pods", "a")
        await told.until(B)
        assert [one if isinstance(one, str) else len(one) for one in told.all if one != NO_POOL] == [1, 2, 1], "only news is told"

    follow(check)


def test_a_pool_that_is_not_there_is_lost_and_found(follow):
    async def check(world, told, discovery):
        world.pod("a", "10.0.0.1")
        await told.until(NO_POOL)
        world.pool()
        await told.until(A)
        world.remove("inferencepools", "pool")
        await told.until(NO_POOL)
        assert len(discovery.watches) == 1
        world.pool()
        await told.until(A)

    follow(check)


def test_other_ports_are_other_endpoints_at_once(follow):
    async def check(world, told, discovery):
        world.pool()
        world.pod("a", "10.0.0.1")
        await told.until(A)
        watch = discovery.watches[1]
        world.pool(ports=(8001, 8002))
        await told.until({"ns/a-rank-0": "10.0.0.1:8001", "ns/a-rank-1": "10.0.0.1:8002"})
        assert discovery.watches[1] is watch

    follow(check)


def test_another_selector_keeps_the_old_endpoints_until_the_new_are_known(follow):
    async def check(world, told, discovery):
        world.pool()
        world.pod("a", "10.0.0.1")
        world.pod("b", "10.0.0.2", app="y", tier="gpu")
        await told.until(A)
        world.pool(tier="gpu", app="y")
        await told.until(B)
        world.pod("a", "10.0.0.9")
        world.pod("b", "10.0.0.3", app="y", tier="gpu")
        await told.until({"ns/b-rank-0": "10.0.0.3:8000"})
        assert [len(one) for one in told.all if not isinstance(one, str)] == [1, 1, 1]

    follow(check)


def test_an_outage_changes_nothing(follow):
    async def check(world, told, discovery):
        world.pool()
        world.pod("a", "10.0.0.1")
        await told.until(A)
        before = len(told.all)
        world.stop()
        while not all(one.failing for one in discovery.watches):  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        assert len(told.all) == before
        world.down = False
        while any(one.failing for one in discovery.watches):  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        assert len(told.all) == before

    follow(check)


def test_pods_without_a_pool(follow):
    async def check(world, told, discovery):
        world.pod("a", "10.0.0.1")
        world.pod("b", "10.0.0.2", app="y")
        await told.until(A)
        assert [one.resource for one in discovery.watches] == ["pods"]

    follow(check, PodSelection(namespace="ns", selector={"app": "x"}, ports=(8000,)))


def test_a_pool_of_the_older_group(follow):
    async def check(world, told, discovery):
        world.put("inferencepools", "pool", spec={"selector": {"app": "x"}, "targetPortNumber": 8000})
        world.pod("a", "10.0.0.1")
        await told.until(A)
        assert discovery.watches[0].path == "/apis/inference.networking.x-k8s.io/v1alpha2/namespaces/ns/inferencepools"

    follow(check, PoolRef(name="pool", namespace="ns", group=LEGACY_POOL_GROUP))
