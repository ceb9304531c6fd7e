"""Keeps up with a collection of the Kubernetes API: list it, then watch it, for ever, and hand over the whole after every change.

    Reflector(api, "/api/v1/namespaces/ns/pods", Pod, label_selector="app=x", changed=take, clock=..., random=...)

`changed` is called with everything there is, by name: once when the first list is complete, then whenever an object that differs
*in the fields of `kind`* has come, changed or gone; changes that arrive together come together. What did not change is the same
object as before, so that `is` tells. An API server that is away changes nothing: what was last known stays.

What it protects from, each of which has brought a controller down somewhere: a watch that ends again and again at once (never a
busy loop), one that says nothing any more, an expired version (410: list again), a collection that does not exist yet (404: a log
line and patience), an object that cannot be read (its last good state stays, the others are not held up), and more objects than
fit (`OBJECTS_MAX`).

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import aclosing
from random import Random
from typing import Generic, TypeVar

import msgspec

from epp.errors import ApiError
from epp.kube.backoff import CLOSED, GONE, NOT_FOUND, Backoff, Pace
from epp.kube.client import Api, Status

OBJECTS_MAX = 10_000
"""Objects kept at most; more than twice as many endpoints as a pool can have."""
PAGE_OBJECTS = 100
"""Objects asked for at a time: a page of pods then takes a few milliseconds to read."""
ABSENT_SURE = 3
"""How often in a row the server must say that there is no such collection before what was in it is given up: one that has just
started may not know its custom resources yet."""
MALFORMED = "Malformed"
"""What came is not what the API says it sends."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


class _Metadata(msgspec.Struct, frozen=True):
    name: str = ""
    version: str = msgspec.field(name="resourceVersion", default="")


class _Named(msgspec.Struct, frozen=True):
    """What every object has."""

    metadata: _Metadata


class _ListMetadata(msgspec.Struct, frozen=True):
    version: str = msgspec.field(name="resourceVersion", default="")
    continued: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct, frozen=True):
    metadata: _ListMetadata
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


_named = msgspec.json.Decoder(_Named)
_page = msgspec.json.Decoder(_Page)
_event = msgspec.json.Decoder(_Event)
_status = msgspec.json.Decoder(Status)


class Reflector(Generic[T]):
    """Follows one collection.

    Args:
        api: entered.
        path: of the collection, in one namespace (objects are told apart by their names).
        kind: msgspec struct of the fields that matter; must not hold `resourceVersion`, or every touch is a change.
        label_selector: which objects; empty for all.
        field_selector: likewise, such as `metadata.name=x`.
        changed: called with all objects by name; not to be changed or kept over an await.
        clock: monotonic seconds.
        random: spreads waits.
        pace: how long things take.
    """

    def __init__(  # noqa: PLR0913 - all but three by name
        self,
        api: Api,
        path: str,
        kind: type[T],
        *,
        label_selector: str = "",
        field_selector: str = "",
        changed: Callable[[Mapping[str, T]], None],
        clock: Callable[[], float],
        random: Random,
        pace: Pace | None = None,
    ) -> None:
        self.path = path
        self.synced = False
        """Whether what is there is known: a list was complete once, or the server said that there is no such collection."""
        self.absent = False
        """Whether the server knows no such collection; after a custom resource is installed it will."""
        self.failing = ""
        """Why the server cannot be followed now; empty while it can."""
        self.last_contact_s = -float("inf")
        """When the server was last heard from. A quiet watch hears about once a minute."""
        self.lists = 0
        """How often everything was listed."""
        self.errors: Counter[str] = Counter()
        """What went wrong, by reason."""
        selectors = {"labelSelector": label_selector, "fieldSelector": field_selector}
        self._query: dict[str, str | int] = {name: text for name, text in selectors.items() if text}
        self._api = api
        self._decode = msgspec.json.Decoder(kind).decode
        self._changed = changed
        self._clock = clock
        self._backoff = Backoff(pace or Pace(), random)
        self._objects: dict[str, T] = {}
        self._version = ""
        """Up to where the collection is known; empty: it must be listed."""
        self._complaint = ""
        self._denials = 0
        """How often in a row the server has said that there is no such collection."""

    @property
    def resource(self) -> str:
        """What is followed, as `pods` or `inferencepools.inference.networking.k8s.io`."""
        _, root, group, *_, plural = self.path.split("/")
        return plural if root == "api" else f"{plural}.{group}"

    @property
    def objects(self) -> Mapping[str, T]:
        """What is known, by name."""
        return self._objects

    async def run(self) -> None:
        """Follow the collection until cancelled."""
        while True:
            start_s = self._clock()
            try:
                if not self._version:
                    await self._list()
                    start_s = self._clock()
                await self._watch()
                error = ApiError(0, CLOSED, "")
            except ApiError as caught:
                error = caught
            until_s = self._clock() if error.reason == CLOSED else self.last_contact_s
            wait_s = self._backoff.after(error, lasted_s=until_s - start_s)
            self._ended(error)
            await asyncio.sleep(wait_s)

    async def _list(self) -> None:
        """Learn everything, page by page, and make that what is known."""
        found: dict[str, T] = {}
        continued, version = "", ""
        while True:
            page = _read_page(await self._api.get(self.path, **self._query, limit=PAGE_OBJECTS, **_next(continued)))
            self._heard()
            for item in page.items or ():
                self._put(found, item)
            continued, version = page.metadata.continued, page.metadata.version
            if not continued:
                break
        if not version:
            raise ApiError(0, MALFORMED, "a list without a version")
        self.lists += 1
        self._version = version
        self._take(found)

    async def _watch(self) -> None:
        """Follow changes from the known version on, until the server ends the watch."""
        query = self._query | {"resourceVersion": self._version, "timeoutSeconds": self._backoff.watch_s()}
        async with aclosing(self._api.stream(self.path, **query, watch="true", allowWatchBookmarks="true")) as batches:
            async for lines in batches:
                self._heard()
                if lines:
                    self._apply(lines)

    def _apply(self, lines: list[bytes]) -> None:
        """Take over the events of some lines; those before a bad one count."""
        objects = self._objects.copy()
        try:
            for line in lines:
                self._event(objects, line)
        finally:
            self._replace(objects)

    def _event(self, objects: dict[str, T], line: bytes) -> None:
        try:
            event = _event.decode(line)
            if event.type == "ERROR":
                self._version = ""
                status = _status.decode(event.object)
                raise ApiError(status.code, status.reason or "Error", status.message)
            metadata = _named.decode(event.object).metadata
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._version = ""
            raise ApiError(0, MALFORMED, f"a line of a watch: {error}") from None
        if event.type == "DELETED":
            objects.pop(metadata.name, None)
        elif event.type in {"ADDED", "MODIFIED"}:
            self._put(objects, event.object)
        # What else there is (BOOKMARK) only moves the version.
        self._version = metadata.version or self._version

    def _put(self, objects: dict[str, T], raw: msgspec.Raw) -> None:
        """Put an object in its place, the known one if it says the same."""
        name = ""
        try:
            name = _named.decode(raw).metadata.name
            new = self._decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self.errors[MALFORMED] += 1
            _log.error("an object cannot be read", extra={"path": self.path, "object": name, "error": str(error)})
            if name not in self._objects:
                return
            new = self._objects[name]
        known = self._objects.get(name)
        if name not in objects and len(objects) >= OBJECTS_MAX:
            self.errors["TooMany"] += 1
            _log.error("too many objects, one is left out", extra={"path": self.path, "object": name, "most": OBJECTS_MAX})
            return
        objects[name] = known if known is not None and known == new else new

    def _take(self, objects: dict[str, T]) -> None:
        """Make this what is known, and say so the first time even if there is nothing."""
        first, self.synced = not self.synced, True
        if first:
            self._objects = objects
            self._changed(objects)
        else:
            self._replace(objects)

    def _replace(self, objects: dict[str, T]) -> None:
        """Make this what is known, and say so if it differs."""
        before, self._objects = self._objects, objects
        if len(before) != len(objects) or any(before.get(name) is not one for name, one in objects.items()):
            self._changed(objects)

    def _heard(self) -> None:
        """Note that the server is there."""
        self.last_contact_s = self._clock()
        self.absent = False
        self._denials = 0
        if self.failing:
            _log.info("the API server is followed again", extra={"path": self.path})
            self.failing = self._complaint = ""

    def _ended(self, error: ApiError) -> None:
        """Take note of why the server is not followed now."""
        self._denials = self._denials + 1 if error.status == NOT_FOUND else 0
        if error.reason == CLOSED:
            return
        if error.status in {GONE, NOT_FOUND}:
            self._version = ""
        if error.status == NOT_FOUND and (not self._objects or self._denials >= ABSENT_SURE):
            self._miss()
            return
        self.errors[error.reason] += 1
        if error.status == GONE:
            _log.info("the watch has expired, listing again", extra={"path": self.path})
        else:
            self.failing = error.reason
            if error.reason != self._complaint:
                _log.warning("the API server cannot be followed", extra={"path": self.path, "error": str(error)})
            self._complaint = error.reason

    def _miss(self) -> None:
        """There is no such collection: that is known too."""
        if not self.absent:
            _log.info("the API server has no such collection; it will be looked for again", extra={"path": self.path})
        self.absent = True
        self.last_contact_s = self._clock()
        self.failing = self._complaint = ""
        self._take({})


def _read_page(body: bytes) -> _Page:
    try:
        return _page.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(0, MALFORMED, f"a list: {error}") from None


def _next(continued: str) -> dict[str, str | int]:
    return {"continue": continued} if continued else {}
