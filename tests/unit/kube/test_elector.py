"""What a candidate asks and writes, before an API server that keeps one Lease as the real one does."""

import asyncio
import itertools
import json
import time
from contextlib import asynccontextmanager
from random import Random

from aiohttp import web

from epp.kube.elector import Elector, own_identity
from epp.kube.lease import Timing
from tests.unit.kube.api_server import serving

TIMING = Timing(duration_s=1.0, deadline_s=0.6, retry_s=0.05)
NAME = "epp-test-pool.llm-d.ai"
LONG_S = 10.0


class Store:
    """The Lease, and what the server does wrong."""

    def __init__(self) -> None:
        self.lease: dict | None = None
        self.fault = ""
        """`refuse`, `hang`, or how often the next write conflicts."""
        self.writes: list[dict] = []
        self._versions = itertools.count(1)

    async def answer(self, request: web.Request) -> web.Response:
        if self.fault == "hang":
            await asyncio.sleep(LONG_S)
        if self.fault == "refuse":
            return web.json_response({"code": 403, "reason": "Forbidden", "message": "no"}, status=403)
        if request.method == "GET":
            return web.json_response(self.lease) if self.lease is not None else _no(404, "NotFound")
        wanted = await request.json()
        self.writes.append(wanted)
        if request.method == "POST":
            if self.lease is not None:
                return _no(409, "AlreadyExists")
            self.lease = {"metadata": {"name": wanted["metadata"]["name"]}, "spec": {}}
        elif self.fault == "conflict":
            self.fault = ""
            self.touch()
        assert self.lease is not None
        if wanted["metadata"].get("resourceVersion", "") != self.lease["metadata"].get("resourceVersion", ""):
            return _no(409, "Conflict")
        self.lease["spec"] |= wanted["spec"]
        self.touch()
        return web.json_response(self.lease)

    def touch(self, **spec: object) -> None:
        """Somebody else writes."""
        assert self.lease is not None
        self.lease["spec"] |= spec
        self.lease["metadata"]["resourceVersion"] = str(next(self._versions))

    @property
    def holder(self) -> str:
        return self.lease["spec"].get("holderIdentity", "") if self.lease is not None else ""


def _no(status: int, reason: str) -> web.Response:
    return web.json_response({"code": status, "reason": reason, "message": ""}, status=status)


class Told:
    """What a candidate says."""

    def __init__(self) -> None:
        self.said: list[tuple[bool, str]] = []

    def __call__(self, leads: bool, holder: str) -> None:
        self.said.append((leads, holder))


async def _until(condition) -> None:
    async with asyncio.timeout(LONG_S):
        while not condition():  # noqa: ASYNC110 - what is waited for is the work of many
            await asyncio.sleep(0.002)


@asynccontextmanager
async def _candidates(monkeypatch, tmp_path, store: Store, *names: str):
    """Candidates that take part until the end, by name."""

    async def lists(request: web.Request) -> web.Response:
        if "fieldSelector" in request.query:
            return web.json_response({"metadata": {"resourceVersion": "1"}, "items": [store.lease] if store.lease else []})
        return await store.answer(request)

    async with serving(monkeypatch, tmp_path, lists=[lists]) as (_, api):
        made = {
            name: Elector(
                api,
                namespace="test",
                name=NAME,
                changed=Told(),
                clock=time.monotonic,
                random=Random(1),
                timing=TIMING,
                identity=name,
            )
            for name in names
        }
        tasks = [asyncio.create_task(one.run()) for one in made.values()]
        try:
            yield made
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _run(monkeypatch, tmp_path, scenario, *names: str) -> Store:
    store = Store()

    async def main() -> None:
        async with _candidates(monkeypatch, tmp_path, store, *names) as candidates:
            await scenario(store, *candidates.values())

    asyncio.run(main())
    return store


def test_one_leads_and_renews(monkeypatch, tmp_path):
    async def scenario(store, one):
        await _until(lambda: one.leads)
        await _until(lambda: len(store.writes) >= 3)
        assert one._changed.said == [(True, "one")]
        assert one.changes == 1
        assert store.lease["spec"]["leaseTransitions"] == 0

    store = _run(monkeypatch, tmp_path, scenario, "one")
    assert "resourceVersion" not in store.writes[0]["metadata"], "the first one is made"


def test_of_two_one_leads_and_hands_over_when_it_resigns(monkeypatch, tmp_path):
    async def scenario(store, *both):
        await _until(lambda: any(one.leads for one in both))
        first, second = sorted(both, key=lambda one: not one.leads)
        await _until(lambda: second._changed.said)
        assert second._changed.said[-1] == (False, store.holder)
        await first.resign()
        assert not first.leads
        await _until(lambda: second.leads)
        assert first._changed.said[-1][0] is False
        assert store.holder == second._election.identity
        assert store.lease["spec"]["leaseTransitions"] == 1

    _run(monkeypatch, tmp_path, scenario, "one", "two")


def test_a_lease_that_is_not_renewed_is_taken_over(monkeypatch, tmp_path):
    async def scenario(store, one):
        await _until(lambda: one.leads)
        store.touch(holderIdentity="crashed", leaseDurationSeconds=1)
        await _until(lambda: not one.leads)
        assert one._changed.said[-1] == (False, "crashed")
        await _until(lambda: one.leads)
        assert one.changes == 3

    _run(monkeypatch, tmp_path, scenario, "one")


def test_a_leader_that_cannot_ask_leads_no_more_and_takes_it_up_again(monkeypatch, tmp_path):
    async def scenario(store, one):
        await _until(lambda: one.leads)
        store.fault = "hang"
        await _until(lambda: one._changed.said[-1][0] is False)
        assert one.failing == "TimedOut"
        store.fault = ""
        await _until(lambda: one.leads and not one.failing)
        assert store.lease["spec"]["leaseTransitions"] == 0, "it was ours all the time"

    _run(monkeypatch, tmp_path, scenario, "one")


def test_without_the_right_to_it_nobody_leads_and_it_is_said_why(monkeypatch, tmp_path):
    async def scenario(store, one):
        store.fault = "refuse"
        await _until(lambda: one.errors["Forbidden"] >= 2)
        assert not one.leads
        assert one.failing == "Forbidden"

    _run(monkeypatch, tmp_path, scenario, "one")


def test_a_renewal_that_conflicts_is_made_of_the_newest_version(monkeypatch, tmp_path):
    async def scenario(store, one):
        await _until(lambda: one.leads)
        store.fault = "conflict"
        await _until(lambda: not store.fault)
        before = len(store.writes)
        await _until(lambda: len(store.writes) > before + 1)
        assert one.changes == 1
        assert not one.errors

    _run(monkeypatch, tmp_path, scenario, "one")


def test_what_else_is_in_the_object_stays(monkeypatch, tmp_path):
    async def scenario(store, one):
        await _until(lambda: one.leads)
        store.lease["metadata"]["labels"] = {"team": "a"}
        await _until(lambda: len(store.writes) >= 3)
        assert json.dumps(store.writes).count("labels") == 0

    _run(monkeypatch, tmp_path, scenario, "one")


def test_resigning_without_an_api_server_takes_no_longer_than_it_may(monkeypatch, tmp_path):
    async def scenario(store, one):
        await _until(lambda: one.leads)
        monkeypatch.setattr("epp.kube.elector.RESIGN_S", 0.1)
        store.fault = "hang"
        begun_s = time.monotonic()
        await one.resign()
        assert time.monotonic() - begun_s < LONG_S / 2

    _run(monkeypatch, tmp_path, scenario, "one")


def test_who_has_resigned_does_not_come_back(monkeypatch, tmp_path):
    async def scenario(store, one):
        await _until(lambda: one.leads)
        await one.resign()
        await asyncio.sleep(3 * TIMING.retry_s)
        assert not one.leads
        assert store.holder == ""

    _run(monkeypatch, tmp_path, scenario, "one")


def test_an_identity_is_that_of_the_pod_and_of_one_process_only(monkeypatch):
    monkeypatch.setenv("POD_NAME", "picker-0")
    assert own_identity().startswith("picker-0_")
    assert own_identity() != own_identity()


def test_nonsense_is_an_error_like_any_other(monkeypatch, tmp_path):
    async def scenario(store, one):
        async def nonsense(_request):
            return web.Response(text="nonsense")

        store.answer = nonsense
        await _until(lambda: one.errors)
        assert one.failing == "Malformed"

    _run(monkeypatch, tmp_path, scenario, "one")
