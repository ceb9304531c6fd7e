"""Where the configuration comes from, as the flags say: a text, a file, a ConfigMap, or the latter two."""

from collections.abc import Coroutine, Iterator, Mapping
from random import Random
from time import monotonic
from types import TracebackType
from typing import Any, Self

from epp.flags import ServeOptions
from epp.kube.access import own_namespace
from epp.kube.standing import remark, standing
from epp.live.config_file import ConfigFile
from epp.live.config_map import ConfigMapRef, ConfigMapSource
from epp.live.controller import Controller
from epp.live.kube_events import KubeEvents
from epp.telemetry.state_metrics import Watched


class ConfigSources:
    """The sources. An asynchronous context manager: the connection to the API server, if it needs one.

    Args:
        options: the flags.
    """

    def __init__(self, options: ServeOptions) -> None:
        self.began_with = "flags"
        """What the source of the first configuration is called."""
        self._text = options.config_text or ""
        self._watched = options.watch_config
        self._map: ConfigMapSource | None = None
        if options.config_map:
            name, _, key = options.config_map.partition("/")
            ref = ConfigMapRef(namespace=options.pool_namespace or own_namespace(), name=name, key=key)
            self._map = ConfigMapSource(ref, clock=monotonic, random=Random())
        self._file = ConfigFile(options.config_file, self._overruled) if options.config_file is not None else None

    async def __aenter__(self) -> Self:
        """Find the API server.

        Raises:
            ConfigError: there is none to be found.
        """
        if self._map is not None:
            await self._map.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the connection."""
        if self._map is not None:
            await self._map.__aexit__(kind, error, trace)

    async def first(self) -> str:
        """Return the text to start with; of a file and a ConfigMap that of the file, which needs no API server.

        Raises:
            ConfigError: it cannot be read.
        """
        if self._file is not None:
            self.began_with = self._file.name
            return self._file.read()
        if self._map is not None:
            self.began_with = self._map.name
            return await self._map.read()
        return self._text

    def jobs(self, controller: Controller) -> Mapping[str, Coroutine[Any, Any, None]]:
        """Return the background tasks by name; they bring `controller` what comes, and tell the API server what became of it."""
        jobs: dict[str, Coroutine[Any, Any, None]] = {}
        if self._file is not None and self._watched:
            jobs["configuration file"] = self._file.run(controller)
        if self._map is not None and self._watched:
            events = KubeEvents(self._map, clock=monotonic)
            controller.tell(events.tell)
            jobs |= {"ConfigMap": self._map.run(controller), "events": events.run()}
        return jobs

    def watched(self) -> Iterator[Watched]:
        """Yield how the ConfigMap is followed, for the series."""
        if self._map is not None and self._watched:
            yield standing(self._map.watch)

    def remarks(self) -> Iterator[str]:
        """Yield what is amiss with that, for whoever asks whether we are ready."""
        if self._map is not None and (amiss := remark(self._map.watch, monotonic())):
            yield amiss

    def _overruled(self) -> bool:
        return self._map is not None and self._map.has_text
