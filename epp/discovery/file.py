"""Endpoints from a list in a file, followed when it changes (minimal; see the format of `file-discovery`)."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from epp.errors import ConfigError
from epp.model.endpoint import Endpoint

WATCH_INTERVAL_S = 0.5


def read_endpoints(path: Path) -> tuple[Endpoint, ...]:
    """Return the endpoints of a file."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or not isinstance(document.get("endpoints"), list):
        raise ConfigError("needs a list", "endpoints")
    return tuple(
        Endpoint(
            name=f"{entry.get('namespace', 'default')}/{entry['name']}",
            address=entry["address"],
            port=int(entry["port"]),
            labels=entry.get("labels") or {},
        )
        for entry in document["endpoints"]
    )


class FileDiscovery:
    """Follows the file."""

    def __init__(self, path: Path, *, watch: bool, found: Callable[[Sequence[Endpoint]], None]) -> None:
        self._path, self._watch, self._found = path, watch, found

    async def run(self) -> None:
        """Report the list, and again after every change."""
        seen: object = None
        while True:
            state = self._path.stat()
            if (state.st_mtime_ns, state.st_ino) != seen:
                seen = (state.st_mtime_ns, state.st_ino)
                self._found(read_endpoints(self._path))
            await asyncio.sleep(WATCH_INTERVAL_S if self._watch else 3600)
