"""Whatever happens to a collection and to the connection, the reflector ends with what is there, and never tells what was not."""

import asyncio
import json
from itertools import pairwise
from random import Random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.errors import ApiError
from epp.kube.backoff import Pace
from epp.kube.reflector import ABSENT_SURE, Reflector

PACE = Pace(retry_s=0.0, retry_s_max=0.0, closed_s_max=0.0, absent_s=0.0)
NAMES = "abc"
REFUSALS = {"refused": (503, "Unavailable"), "missing": (404, "NotFound")}


class Thing(msgspec.Struct, frozen=True):
    size: int


class Collection:
    """An API server with one collection, as a model: every state it was in, and what led from one to the next."""

    def __init__(self) -> None:
        self.states: list[dict[str, int]] = [{}]
        self.events: list[dict] = []
        """The n-th led to the n-th state after the first."""
        self.oldest = 0
        """Before this version nothing is remembered."""

    @property
    def version(self) -> int:
        return len(self.events)

    def change(self, name: str, size: int | None) -> None:
        now = self.states[-1]
        if size is None and name not in now:
            return
        kind = "DELETED" if size is None else "MODIFIED" if name in now else "ADDED"
        shown = now[name] if size is None else size
        after = {key: value for key, value in now.items() if key != name} | ({} if size is None else {name: size})
        self.states.append(after)
        self.events.append({"type": kind, "object": _object(name, shown, self.version + 1)})


class FakeApi:
    """Serves a collection, and misbehaves by a plan: one fault for each question."""

    def __init__(self, collection: Collection, steps, done: asyncio.Event) -> None:
        self._collection = collection
        self._steps = list(steps)
        self._done = done

    def _step(self):
        """Return how this question goes wrong, or refuse it, after the collection has changed meanwhile."""
        if not self._steps:
            return "none"
        changes, fault = self._steps.pop(0)
        for name, size in changes:
            self._collection.change(name, size)
        if fault in REFUSALS:
            raise ApiError(*REFUSALS[fault], "")
        return fault

    async def get(self, path, **query):
        await asyncio.sleep(0)
        fault = self._step()
        if fault == "expired":
            raise ApiError(410, "Expired", "")
        if fault == "garbage":
            return b"{"
        now = self._collection.states[-1]
        items = [_object(name, size, 1) for name, size in now.items()]
        return json.dumps({"metadata": {"resourceVersion": str(self._collection.version)}, "items": items}).encode()

    async def stream(self, path, **query):
        fault = self._step()
        collection, since = self._collection, int(query["resourceVersion"])
        yield []
        if fault == "expired":
            status = {"type": "ERROR", "object": {"code": 410, "reason": "Expired"}}
            yield [json.dumps(status).encode()]
            return
        lines = [json.dumps(event).encode() for event in collection.events[since:]]
        if fault == "bookmark" or (fault == "none" and not lines):
            lines.append(json.dumps({"type": "BOOKMARK", "object": _object("", 0, collection.version)}).encode())
        if fault == "again":  # what was sent already is sent again
            lines = [line for line in lines for _ in range(2)]
        if fault == "cut":
            lines = lines[: len(lines) // 2]
        if fault == "garbage":
            lines[len(lines) // 2 :] = [b"garbage"]
        for batch in [[line] for line in lines] if fault == "slow" else [lines]:
            await asyncio.sleep(0)
            yield batch
        if fault == "cut":
            raise ApiError(0, "Truncated", "")
        if not self._steps and fault == "none":
            self._done.set()
            await asyncio.Event().wait()


def _object(name: str, size: int, version: int) -> dict:
    return {"metadata": {"name": name, "resourceVersion": str(version)}, "size": size}


changes = st.lists(st.tuples(st.sampled_from(NAMES), st.none() | st.integers(0, 2)), max_size=4)
faults = st.sampled_from(["none", "none", "refused", "missing", "expired", "garbage", "bookmark", "again", "cut", "slow"])


def doubtful(steps):
    """Have the server never say so often in a row that there is no such collection that it has to be believed."""
    row = 0
    for changed, fault in steps:
        row = row + 1 if fault == "missing" else 0
        yield changed, "refused" if row == ABSENT_SURE else fault
        row %= ABSENT_SURE


@settings(deadline=None)
@given(st.lists(st.tuples(changes, faults), max_size=12))
def test_it_ends_with_what_is_there_and_tells_only_what_was_in_order(steps):
    collection, told = Collection(), []

    async def main():
        done = asyncio.Event()

        def take(objects):
            told.append({name: one.size for name, one in objects.items()})

        api = FakeApi(collection, doubtful(steps), done)
        reflector = Reflector(api, "/api/v1/namespaces/ns/things", Thing, changed=take, clock=float, random=Random(0), pace=PACE)
        task = asyncio.create_task(reflector.run())
        async with asyncio.timeout(20):
            await done.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return reflector

    reflector = asyncio.run(main())
    assert {name: one.size for name, one in reflector.objects.items()} == collection.states[-1]
    assert told[-1] == collection.states[-1]
    assert all(one != next_one for one, next_one in pairwise(told)), "no news is not told"
    place = 0
    for state in told:  # each was there once, and none after a later one
        place = collection.states.index(state, place)
    assert reflector.synced
