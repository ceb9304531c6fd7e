"""The reflector before a real API server: restarts, expired watches, cut and silent connections, late rights, many pages."""

import asyncio
import threading
import time
from collections.abc import Mapping
from contextlib import contextmanager
from random import Random

import msgspec
import pytest
import uvloop

from epp.kube.client import Api
from epp.kube.reflector import PAGE_OBJECTS, Pace, Reflector
from tests.data_plane.rig import eventually
from tests.kube.api import Refused
from tests.kube.link import Link

PACE = Pace(absent_s=1.0)


class Seen(msgspec.Struct, frozen=True):
    """An object with the one field that these tests change."""

    data: dict[str, str] = {}


class Following:
    """A reflector of a namespace's ConfigMaps in a thread of its own."""

    def __init__(self, path: str, idle_s: float) -> None:
        self.calls: list[dict[str, Seen]] = []
        self._ready, self._path, self._idle_s = threading.Event(), path, idle_s
        self.thread = threading.Thread(target=lambda: uvloop.run(self._main()))
        self.thread.start()
        assert self._ready.wait(10)

    @property
    def names(self) -> set[str]:
        return set(self.calls[-1]) if self.calls else set()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self.thread.join()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with Api(idle_s=self._idle_s) as api:
            self.reflector = Reflector(api, self._path, Seen, changed=self._take, clock=time.monotonic, random=Random(1), pace=PACE)
            self._task = asyncio.create_task(self.reflector.run())
            self._ready.set()
            with pytest.raises(asyncio.CancelledError):
                await self._task
        await asyncio.sleep(0.1)  # what TLS has to say when a connection is closed

    def _take(self, objects: Mapping[str, Seen]) -> None:
        self.calls.append(dict(objects))


@pytest.fixture
def maps(namespace):
    """Makes, changes and removes ConfigMaps."""

    class Maps:
        def create(self, name: str, **data: str) -> None:
            namespace.create("configmaps", {"metadata": {"name": name}, "data": data})

        def change(self, name: str, **data: str) -> None:
            namespace.api.patch(namespace.path("configmaps", name), {"data": data})

        def delete(self, name: str) -> None:
            namespace.api.delete(namespace.path("configmaps", name))

    return Maps()


RULES = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]}]


@pytest.fixture
def follow(namespace, monkeypatch):
    """Starts a reflector as a ServiceAccount."""

    @contextmanager
    def start(*, kind: str = "configmaps", api: str = "v1", rules=RULES, server: str = "", idle_s: float = 90.0):
        monkeypatch.setenv("KUBECONFIG", str(namespace.service_account("reader", rules, server=server)))
        following = Following(namespace.path(kind, api=api), idle_s)
        try:
            yield following
        finally:
            following.close()

    return start


def test_what_comes_changes_and_goes_is_seen_and_what_stays_is_the_same_object(maps, follow):
    maps.create("stays", a="1")
    with follow() as following:
        eventually(lambda: following.names == {"stays"}, "the first list")
        maps.create("comes", a="1")
        eventually(lambda: following.names == {"stays", "comes"}, "one has come")
        maps.change("comes", a="2")
        eventually(lambda: following.calls[-1]["comes"].data == {"a": "2"}, "it has changed")
        maps.delete("comes")
        eventually(lambda: following.names == {"stays"}, "it has gone")
        assert len({id(call["stays"]) for call in following.calls}) == 1
        assert following.reflector.lists == 1


def test_a_list_of_many_pages_is_whole(maps, follow):
    count = PAGE_OBJECTS + 7
    for number in range(count):
        maps.create(f"map-{number}")
    with follow() as following:
        eventually(lambda: following.calls, "the first list")
        assert len(following.calls[0]) == count


def test_an_outage_changes_nothing_and_what_happened_meanwhile_is_seen_after_it(control_plane, maps, follow):
    maps.create("before")
    with follow() as following:
        eventually(lambda: following.names == {"before"}, "the first list")
        control_plane.stop_api()
        eventually(lambda: following.reflector.failing, "it is said that the server is away")
        time.sleep(1.5)
        assert following.names == {"before"}
        attempts = sum(following.reflector.errors.values())
        assert 2 <= attempts <= 8, "it is tried again, and not without pause"
        control_plane.start_api()
        maps.create("after")
        eventually(lambda: following.names == {"before", "after"}, "the server is followed again")
        assert not following.reflector.failing
        assert len({id(call["before"]) for call in following.calls}) == 1


def test_an_expired_watch_is_one_more_list_and_nobody_is_told_of_what_did_not_change(control_plane, maps, follow):
    maps.create("before")
    with Link(control_plane.port) as link, follow(server=link.server) as following:
        eventually(lambda: following.names == {"before"}, "the first list")
        link.cut()
        maps.create("meanwhile")
        control_plane.stop_api()
        control_plane.start_api()
        control_plane.compact()
        link.mend()
        eventually(lambda: following.names == {"before", "meanwhile"}, "what happened meanwhile")
        assert following.reflector.errors["Expired"] == 1
        assert following.reflector.lists == 2
        assert len(following.calls) == 2


def test_a_connection_in_which_nothing_comes_is_given_up(control_plane, maps, follow):
    with Link(control_plane.port) as link, follow(server=link.server, idle_s=1.0) as following:
        eventually(lambda: following.calls, "the first list")
        link.freeze()
        eventually(lambda: following.reflector.errors["TimedOut"] >= 1, "silence is noticed")
        maps.create("late")
        link.mend()
        eventually(lambda: following.names == {"late"}, "it is followed again")


def test_rights_that_come_late_are_used_when_they_come(namespace, maps, follow):
    maps.create("there")
    with follow(rules=[]) as following:
        eventually(lambda: following.reflector.failing == "Forbidden", "it may not")
        assert not following.reflector.synced
        namespace.grant("late", RULES, to="reader")
        eventually(lambda: following.names == {"there"}, "now it may")


def test_a_kind_that_is_installed_late_and_removed_again(control_plane, namespace, follow):
    legacy = "inference.networking.x-k8s.io/v1alpha2"
    rules = [{"apiGroups": ["*"], "resources": ["inferenceobjectives"], "verbs": ["get", "list", "watch"]}]
    with follow(kind="inferenceobjectives", api=legacy, rules=rules) as following:
        eventually(lambda: following.reflector.absent, "there is no such kind")
        assert following.reflector.synced
        assert following.names == set()
        control_plane.install("objectives")
        try:
            namespace.objective("late", 1, api=legacy)
            eventually(lambda: following.names == {"late"}, "it is there now")
        finally:
            control_plane.uninstall("objectives")
        eventually(lambda: following.reflector.absent and not following.names, "it is gone again")
    with pytest.raises(Refused):
        namespace.objective("later", 1, api=legacy)
