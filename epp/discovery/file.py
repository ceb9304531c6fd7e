"""Endpoints from a list in a file: for pools without Kubernetes. The format is that of the reference's `file-discovery`.

    endpoints:
    - {name: vllm-0, address: 10.0.0.7, port: "8000", labels: {llm-d.ai/role: decode}}
    - {name: vllm-1, namespace: other, address: "fd00::7", port: 8000}

YAML or JSON. The composition root runs `FileDiscovery`, which hands over the whole list, and with `watch` again after every change.

What it protects from: a file that is caught half written, empty or gone, and one with a mistake in it. The pool then stays as it
was, and the log says so once per change. Only at the start, when there is no pool to keep, is a bad file the end.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from epp.config.file_watch import FileWatch, read_text
from epp.config.reading import read_yaml
from epp.config.typed import convert
from epp.errors import ConfigError
from epp.model.endpoint import Endpoint, join_host_port

WATCH_INTERVAL_S = 0.5
"""How often a watched file is looked at."""

_log = logging.getLogger(__name__)


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One endpoint, as it stands in the file."""

    name: Annotated[str, Meta(min_length=1)]
    namespace: Annotated[str, Meta(min_length=1)] = "default"
    address: str
    port: Annotated[int, Meta(ge=1, le=65_535)] | Annotated[str, Meta(pattern=r"^[0-9]{1,5}$")]
    labels: dict[str, str] | None = None


class _Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file."""

    endpoints: list[_Entry]


def read_endpoints(path: Path) -> tuple[Endpoint, ...]:
    """Return the endpoints that a file lists, in its order; blocks for the time it takes to read it.

    Raises:
        ConfigError: the file cannot be read, is empty or too long, or something in it is wrong; carries the path of the field.
    """
    text = read_text(path)
    try:
        return parse_endpoints(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse_endpoints(text: str) -> tuple[Endpoint, ...]:
    """Return the endpoints of a file's text. An empty list is a list; an empty text is a mistake.

    Raises:
        ConfigError: something in it is wrong; carries the path of the field.
    """
    tree = read_yaml(text)
    if tree is None:
        raise ConfigError("empty")
    document = convert(tree, _Document, "")
    endpoints = tuple(_endpoint(entry, f"endpoints[{index}]") for index, entry in enumerate(document.endpoints))
    _refuse_duplicates(endpoints)
    return endpoints


def _endpoint(entry: _Entry, path: str) -> Endpoint:
    try:
        address = ip_address(entry.address.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise ConfigError(f"{entry.address!r} is not an IPv4 or IPv6 address", f"{path}.address") from None
    port = int(entry.port)
    if not 1 <= port <= 65_535:
        raise ConfigError("not a port: wanted 1 to 65535", f"{path}.port")
    return Endpoint(name=f"{entry.namespace}/{entry.name}", address=str(address), port=port, labels=entry.labels or {})


def _refuse_duplicates(endpoints: Sequence[Endpoint]) -> None:
    names: dict[str, int] = {}
    authorities: dict[str, int] = {}
    for index, endpoint in enumerate(endpoints):
        authority = join_host_port(endpoint.address, endpoint.port)
        if (first := names.setdefault(endpoint.name, index)) != index:
            raise ConfigError(f"the name {endpoint.name!r} is that of endpoints[{first}] too", f"endpoints[{index}].name")
        if (first := authorities.setdefault(authority, index)) != index:
            other = endpoints[first].name
            raise ConfigError(
                f"{endpoint.name!r} is at {authority}, as {other!r} (endpoints[{first}]) is", f"endpoints[{index}].address"
            )


class FileDiscovery:
    """Follows a file.

    Args:
        path: of the file.
        watch: whether to look at it again.
        found: called with the whole list: first, and after every change that can be read.
    """

    def __init__(self, path: Path, *, watch: bool, found: Callable[[Sequence[Endpoint]], None]) -> None:
        self._path = path
        self._watch = watch
        self._found = found
        self._file = FileWatch(path)
        self._complaint = ""

    async def run(self) -> None:
        """Report the list, and with `watch` again after every change; without, return.

        Raises:
            ConfigError: the file is bad at the start.
        """
        self._file = FileWatch(self._path)
        self._found(read_endpoints(self._path))
        while self._watch:
            await asyncio.sleep(WATCH_INTERVAL_S)
            await self.look_again()

    async def look_again(self) -> None:
        """Report the list if the file has changed, has settled since the last look, and is good; if it is bad complain, once."""
        if not self._file.changed():
            return
        try:
            # Off the loop: a long list takes a good part of a second.
            endpoints = await asyncio.to_thread(read_endpoints, self._path)
        except ConfigError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                _log.error("the list of endpoints is bad, the last good one stays", extra={"error": self._complaint})
            return
        self._complaint = ""
        self._found(endpoints)
