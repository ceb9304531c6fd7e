"""Following a collection, before a server that does everything that an API server can do wrong."""

import asyncio
import logging
import time
from random import Random

import msgspec
import pytest

from epp.kube import reflector as module
from epp.kube.backoff import Pace
from epp.kube.reflector import Reflector
from tests.unit.kube.api_server import event, hangs_up, listing, refuses, says, serving, silence, streams, thing

PATH = "/api/v1/namespaces/ns/things"
QUICK = Pace(settled_s=1000.0, retry_s=0.002, retry_s_max=0.004, closed_s_max=0.004, absent_s=0.004)


class Thing(msgspec.Struct, frozen=True):
    size: int = 0


class Following:
    """A reflector at work, and what it told."""

    def __init__(self, server, reflector, told):
        self.server = server
        self.reflector = reflector
        self.told = told

    @property
    def sizes(self):
        """What was told last."""
        return {name: one.size for name, one in self.told[-1].items()} if self.told else None

    async def until(self, condition):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in the reflector, which has no event for it
            await asyncio.sleep(0.002)


@pytest.fixture
def follow(monkeypatch, tmp_path):
    """Runs a coroutine function of a `Following` while a reflector follows a server that plays these scripts."""

    def run(check, *, lists, watches=(), bounds=None, **arguments):
        async def main():
            async with (
                asyncio.timeout(20),
                serving(monkeypatch, tmp_path, lists=lists, watches=watches, **(bounds or {})) as served,
            ):
                server, api = served
                told = []
                reflector = Reflector(
                    api,
                    PATH,
                    Thing,
                    changed=lambda objects: told.append(dict(objects)),
                    clock=time.monotonic,
                    random=Random(1),
                    pace=QUICK,
                    **arguments,
                )
                task = asyncio.create_task(reflector.run())
                try:
                    await check(Following(server, reflector, told))
                finally:
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)

        asyncio.run(main())

    return run


def test_a_list_of_several_pages_and_what_happens_after_it(follow):
    async def check(it):
        await it.until(lambda: len(it.told) == 2)
        assert it.told[0] == {"a": Thing(1), "b": Thing(2)}
        assert it.told[1] == {"b": Thing(3), "c": Thing(4)}, "what came together comes together"
        first, second, watch = it.server.requests[:3]
        assert dict(first.query) == {"limit": str(module.PAGE_OBJECTS), "labelSelector": "app=x", "fieldSelector": "f=1"}
        assert second.query["continue"] == "more"
        assert watch.query["resourceVersion"] == "9"
        assert watch.query["allowWatchBookmarks"] == "true"
        assert watch.query["labelSelector"] == "app=x"
        assert (it.reflector.synced, it.reflector.lists, it.reflector.failing, dict(it.reflector.errors)) == (True, 1, "", {})

    events = event("DELETED", "a", 10) + event("MODIFIED", "b", 11, size=3) + event("ADDED", "c", 12, size=4)
    follow(
        check,
        lists=[listing(9, thing("a", 1, size=1), more="more"), listing(9, thing("b", 2, size=2))],
        watches=[streams(events, then=silence)],
        label_selector="app=x",
        field_selector="f=1",
    )


def test_an_empty_collection_is_told_of(follow):
    async def check(it):
        await it.until(lambda: it.told == [{}])
        assert it.reflector.synced

    follow(check, lists=[says(200, {"metadata": {"resourceVersion": "1"}, "items": None})])


def test_a_touch_that_changes_no_field_in_use_is_not_told(follow):
    async def check(it):
        await it.until(lambda: len(it.told) == 2)
        assert it.told[1]["a"] is it.told[0]["a"]
        assert it.sizes == {"a": 1, "b": 2}

    touch = event("MODIFIED", "a", 6, size=1, other="changed")
    bookmark = event("BOOKMARK", "", 7)
    follow(
        check,
        lists=[listing(5, thing("a", 5, size=1))],
        watches=[streams(touch, bookmark, then=None), streams(event("ADDED", "b", 8, size=2), then=silence)],
    )


def test_a_watch_goes_on_where_the_last_one_ended(follow):
    async def check(it):
        await it.until(lambda: len(it.server.watched) == 5)
        assert it.server.watched == ["5", "6", "20", "20", "21"]
        assert it.server.listed == 1
        assert it.sizes == {"a": 3}

    follow(
        check,
        lists=[listing(5, thing("a", 5, size=1))],
        watches=[
            streams(event("MODIFIED", "a", 6, size=2)),
            streams(event("BOOKMARK", "", 20)),
            streams(),
            streams(event("MODIFIED", "a", 21, size=3)),
        ],
    )


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (streams(event("MODIFIED", "a", 6, size=2), event("MODIFIED", "a", 7, size=3)[:-9]), "Truncated"),
        (hangs_up, "Unreachable"),
        (refuses(500, "InternalError"), "InternalError"),
        (refuses(403, "Forbidden"), "Forbidden"),
        (refuses(429, "TooManyRequests"), "TooManyRequests"),
        (says(502, b"bad gateway"), "BadGateway"),
    ],
)
def test_a_watch_that_breaks_goes_on_without_a_list(follow, broken, reason):
    async def check(it):
        await it.until(lambda: it.sizes == {"a": 9})
        assert it.server.listed == 1
        assert it.reflector.errors[reason] == 1
        assert it.reflector.failing == ""

    follow(
        check, lists=[listing(5, thing("a", 5, size=1))], watches=[broken, streams(event("MODIFIED", "a", 9, size=9), then=silence)]
    )


def test_a_watch_in_which_nothing_comes_is_given_up(follow):
    async def check(it):
        await it.until(lambda: it.sizes == {"a": 9})
        assert it.reflector.errors["TimedOut"] >= 1
        assert it.server.listed == 1

    follow(
        check,
        lists=[listing(5, thing("a", 5, size=1))],
        watches=[silence, streams(event("MODIFIED", "a", 9, size=9), then=silence)],
        bounds={"idle_s": 0.05},
    )


EXPIRED = b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old resource version"}}\n'


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (streams(EXPIRED), "Expired"),
        (refuses(410, "Gone"), "Gone"),
        (streams(b"no json\n"), "Malformed"),
        (streams(b'{"type":"ADDED","object":{"metadata":{"name":7}}}\n'), "Malformed"),
        (streams(b'{"type":"ERROR","object":{"code":500,"reason":"InternalError"}}\n'), "InternalError"),
    ],
)
def test_a_version_that_is_lost_is_listed_again_and_only_what_changed_is_told(follow, broken, reason):
    async def check(it):
        await it.until(lambda: it.sizes == {"a": 1, "b": 2})
        assert len(it.told) == 2, "the same again is no news"
        assert it.told[1]["a"] is it.told[0]["a"]
        assert it.server.watched == ["5", "8"]
        assert it.reflector.errors[reason] == 1
        assert it.reflector.lists == 2

    follow(
        check,
        lists=[listing(5, thing("a", 5, size=1)), listing(8, thing("a", 5, size=1))],
        watches=[broken, streams(event("ADDED", "b", 9, size=2), then=silence)],
    )


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (refuses(403, "Forbidden"), "Forbidden"),
        (refuses(500, "InternalError"), "InternalError"),
        (refuses(410, "Expired"), "Expired"),
        (says(200, b"\xff no json"), "Malformed"),
        (says(200, {"metadata": {}, "items": []}), "Malformed"),
        (says(200, {"items": []}), "Malformed"),
        (hangs_up, "Unreachable"),
    ],
)
def test_a_list_that_fails_is_tried_again(follow, broken, reason):
    async def check(it):
        await it.until(lambda: it.told)
        assert it.sizes == {"a": 1}
        assert it.reflector.errors[reason] == 1

    follow(check, lists=[broken, listing(5, thing("a", 5, size=1))])


def test_a_page_that_fails_loses_nothing(follow):
    async def check(it):
        await it.until(lambda: it.told)
        assert it.sizes == {"a": 1, "b": 2}

    follow(
        check,
        lists=[
            listing(5, thing("a", 5, size=1), more="more"),
            refuses(410, "Expired"),
            listing(6, thing("a", 5, size=1), more="more"),
            listing(6, thing("b", 6, size=2)),
        ],
    )


def test_an_outage_is_said_once_and_changes_nothing(follow, caplog):
    async def check(it):
        await it.until(lambda: it.reflector.errors["Unavailable"] >= 5)
        assert it.reflector.failing == "Unavailable"
        assert it.sizes == {"a": 1}
        assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
            "the API server cannot be followed"
        ]

    follow(check, lists=[listing(5, thing("a", 5, size=1))], watches=[streams(), *[refuses(503, "Unavailable")] * 1000])


def test_a_collection_that_does_not_exist_is_known_not_to_and_found_when_it_does(follow, caplog):
    caplog.set_level(logging.INFO)

    async def check(it):
        await it.until(lambda: len(it.told) == 2)
        assert it.told == [{}, {"a": Thing(1)}]
        assert not it.reflector.absent
        assert it.reflector.errors == {}
        assert sum("no such collection" in record.message for record in caplog.records) == 1

    follow(check, lists=[*[refuses(404, "NotFound")] * 4, listing(5, thing("a", 5, size=1))])


def test_what_is_known_is_not_given_up_for_one_not_found(follow):
    async def check(it):
        await it.until(lambda: it.reflector.errors["NotFound"] == 2 and it.server.watched == ["5", "5"])
        assert it.told == [{"a": Thing(1)}]

    follow(
        check,
        lists=[listing(5, thing("a", 5, size=1)), refuses(404, "NotFound"), listing(5, thing("a", 5, size=1))],
        watches=[refuses(404, "NotFound"), silence],
    )


@pytest.mark.parametrize(
    "broken", [refuses(503, "Unavailable"), says(502, b"bad gateway"), refuses(403, "Forbidden"), refuses(410, "Expired"), hangs_up]
)
def test_what_is_known_is_not_given_up_for_one_not_found_after_other_failures(follow, broken):
    async def check(it):
        await it.until(lambda: it.server.watched[5:] == ["6"])
        assert it.told == [{"a": Thing(1)}]
        assert it.reflector.errors["NotFound"] == 3
        assert not it.reflector.absent

    missing = refuses(404, "NotFound")
    follow(
        check,
        lists=[listing(5, thing("a", 5, size=1)), missing, broken, missing, listing(6, thing("a", 5, size=1))],
        watches=[*[refuses(503, "Unavailable")] * 4, missing, silence],
    )


def test_not_found_is_counted_anew_once_something_is_there(follow):
    async def check(it):
        await it.until(lambda: it.server.watched[3:] == ["8"])
        assert it.told == [{"a": Thing(1)}]
        assert it.reflector.errors["NotFound"] == 3

    follow(
        check,
        lists=[listing(version, thing("a", 5, size=1)) for version in (5, 6, 7, 8)],
        watches=[*[refuses(404, "NotFound")] * 3, silence],
    )


def test_a_collection_that_is_removed_is_given_up_when_that_is_said_three_times(follow):
    async def check(it):
        await it.until(lambda: it.reflector.absent)
        assert it.reflector.errors["NotFound"] == module.ABSENT_SURE - 1
        assert it.told == [{"a": Thing(1)}, {}]

    missing = refuses(404, "NotFound")
    follow(check, lists=[listing(5, thing("a", 5, size=1)), missing], watches=[refuses(503, "Unavailable"), missing])


def test_a_collection_that_is_removed_is_given_up(follow):
    async def check(it):
        await it.until(lambda: it.reflector.absent)
        assert it.told == [{"a": Thing(1)}, {}]

    follow(check, lists=[listing(5, thing("a", 5, size=1)), refuses(404, "NotFound")], watches=[refuses(404, "NotFound")])


def test_an_object_that_cannot_be_read_stays_as_it_was_and_holds_nobody_up(follow):
    async def check(it):
        await it.until(lambda: it.told and it.sizes.get("c") == 3)
        assert it.sizes == {"a": 1, "c": 3}
        assert it.reflector.errors == {"Malformed": 2}
        assert it.server.listed == 1

    follow(
        check,
        lists=[listing(5, thing("a", 5, size=1), thing("b", 5, size="large"))],
        watches=[streams(event("MODIFIED", "a", 6, size="large") + event("ADDED", "c", 7, size=3), then=silence)],
    )


def test_there_is_a_most_of_objects(follow, monkeypatch):
    monkeypatch.setattr(module, "OBJECTS_MAX", 2)

    async def check(it):
        await it.until(lambda: it.told and it.sizes.get("b") == 9)
        assert it.sizes == {"a": 1, "b": 9}
        assert it.reflector.errors == {"TooMany": 2}

    follow(
        check,
        lists=[listing(5, *(thing(name, 5, size=1) for name in "abc"))],
        watches=[streams(event("ADDED", "d", 6) + event("MODIFIED", "b", 7, size=9), then=silence)],
    )


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("/api/v1/namespaces/ns/pods", "pods"),
        ("/apis/inference.networking.k8s.io/v1/namespaces/ns/inferencepools", "inferencepools.inference.networking.k8s.io"),
    ],
)
def test_a_resource_has_the_name_that_kubectl_gives_it(path, resource):
    reflector = Reflector(None, path, Thing, changed=print, clock=time.monotonic, random=Random())
    assert reflector.resource == resource
