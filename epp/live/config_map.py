"""A configuration in a ConfigMap, watched through the API server: there within a moment, and with the name that Events need.

A mounted ConfigMap says the same a minute or two later, so while this source has one (`has_text`), the file is not listened to.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Self

import msgspec

from epp.errors import ApiError, ConfigError
from epp.kube.client import Api
from epp.kube.objects import Object
from epp.kube.reflector import Reflector
from epp.live.taker import Taker


class Metadata(Object, frozen=True):
    """Which ConfigMap it is."""

    name: str
    uid: str = ""


class ConfigMap(Object, frozen=True):
    """What a ConfigMap holds."""

    metadata: Metadata
    data: dict[str, str] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigMapRef:
    """Where a configuration is."""

    namespace: str
    name: str
    key: str = ""
    """Empty: the only one there is."""

    def __str__(self) -> str:
        """As people write it."""
        return f"ConfigMap {self.namespace}/{self.name}"

    @property
    def collection(self) -> str:
        """Path of what it is in."""
        return f"/api/v1/namespaces/{self.namespace}/configmaps"

    def text(self, found: ConfigMap | None) -> str:
        """Return the configuration.

        Raises:
            ConfigError: it is not there, or which entry is meant cannot be told.
        """
        if found is None:
            raise ConfigError(f"{self} does not exist")
        if self.key and self.key not in found.data:
            raise ConfigError(f"{self} has no entry {self.key!r}; there are: {', '.join(sorted(found.data)) or 'none'}")
        if not self.key and len(found.data) != 1:
            raise ConfigError(f"{self} has {len(found.data)} entries; name one, as --config-map {self.name}/<entry>")
        return found.data[self.key] if self.key else next(iter(found.data.values()))


class ConfigMapSource:
    """Follows a ConfigMap. An asynchronous context manager: its connection to the API server.

    Args:
        ref: which.
        clock: monotonic seconds.
        random: spreads waits.
    """

    def __init__(self, ref: ConfigMapRef, *, clock: Callable[[], float], random: Random) -> None:
        self.api = Api()
        self.ref = ref
        self.uid = ""
        """Of the object that was last seen; empty before the first."""
        self.has_text = False
        """Whether the API server has a configuration for us, as far as we know."""
        self.watch = Reflector(
            self.api,
            ref.collection,
            ConfigMap,
            field_selector=f"metadata.name={ref.name}",
            changed=self._changed,
            clock=clock,
            random=random,
        )
        self._found: ConfigMap | None = None
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Find the API server.

        Raises:
            ConfigError: there is none to be found.
        """
        await self.api.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the connection."""
        await self.api.__aexit__(kind, error, trace)

    @property
    def name(self) -> str:
        """What it is called in the status."""
        return str(self.ref)

    async def read(self) -> str:
        """Return the configuration to start with.

        Raises:
            ConfigError: it is not there, or the API server does not say.
        """
        try:
            found = msgspec.json.decode(await self.api.get(f"{self.ref.collection}/{self.ref.name}"), type=ConfigMap)
        except ApiError as error:
            raise ConfigError(f"{self.ref} cannot be read: {error}") from None
        except msgspec.MsgspecError as error:
            raise ConfigError(f"{self.ref} cannot be read: {error}") from None
        text = self.ref.text(found)
        self._note(found)
        return text

    async def run(self, take: Taker) -> None:
        """Offer the text of every change, the first included, until cancelled; of several at once the last."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.watch.run(), name=f"watch of {self.ref}")
            while True:
                await self._news.wait()
                self._news.clear()
                try:
                    text = self.ref.text(self._found)
                except ConfigError as error:
                    take.lost(error, self.name)
                else:
                    await take.offer(text, self.name)

    def _changed(self, objects: Mapping[str, ConfigMap]) -> None:
        self._note(objects.get(self.ref.name))
        self._news.set()

    def _note(self, found: ConfigMap | None) -> None:
        self._found = found
        if found is not None:
            self.uid = found.metadata.uid
        try:
            self.ref.text(found)
        except ConfigError:
            self.has_text = False
        else:
            self.has_text = True
