"""Keeps Envoy's list of endpoints in step with the pool file that the picker follows on its own.

The two learn of a change at different moments, so Envoy is told of a new endpoint at once and forgets an old one only after
`LINGER_S`: whatever the picker decides in between, Envoy knows the endpoint.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from epp.errors import ConfigError
from epp.model.endpoint import Endpoint
from epp.standalone.endpoints import endpoints_json, write
from epp.standalone.options import SocketAddress

LINGER_S = 5.0
"""Longer than the picker takes to notice that its file has changed."""

ReadPool = Callable[[Path], Sequence[Endpoint]]
"""Reads a pool file. Raises ConfigError when it cannot be used."""


class Follower:
    """One pool file and the endpoint file made from it.

    Args:
        pool_file: what is followed.
        endpoints_file: what Envoy reads.
        read_pool: how the pool file is read.
    """

    def __init__(self, pool_file: Path, endpoints_file: Path, read_pool: ReadPool) -> None:
        self._pool_file = pool_file
        self._endpoints_file = endpoints_file
        self._read_pool = read_pool
        self._identity: tuple[int, int, int] | None = None
        self._listed: tuple[SocketAddress, ...] = ()
        self._leaving: dict[SocketAddress, float] = {}
        """Endpoints that the file lists no more -> when Envoy is to forget them, monotonic seconds."""
        self._written: tuple[SocketAddress, ...] | None = None

    def start(self, now_s: float) -> int:
        """Write Envoy's list for the first time; return how many endpoints there are.

        Raises:
            ConfigError: the pool file cannot be used.
            OSError: it cannot be read.
        """
        self._identity = self._look()
        self._take(self._read_pool(self._pool_file), now_s)
        return len(self._listed)

    def poll(self, now_s: float) -> str:
        """Follow a change, if there is one; return what is wrong with the file, empty when nothing is new or nothing wrong.

        A file that cannot be used changes nothing: the picker keeps its endpoints too.
        """
        trouble = ""
        try:
            if (identity := self._look()) != self._identity:
                self._identity = identity
                self._take(self._read_pool(self._pool_file), now_s)
        except (ConfigError, OSError) as error:
            trouble = f"{self._pool_file}: {error}"
        self._write(now_s)
        return trouble

    def _look(self) -> tuple[int, int, int] | None:
        """Return what tells one state of the file from the next; None while there is no file."""
        try:
            stat = self._pool_file.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size

    def _take(self, endpoints: Sequence[Endpoint], now_s: float) -> None:
        listed = tuple(dict.fromkeys(SocketAddress(host=one.address, port=one.port) for one in endpoints))
        gone = [address for address in self._listed if address not in listed]
        self._leaving.update(dict.fromkeys(gone, now_s + LINGER_S))
        self._listed = listed
        self._write(now_s)

    def _write(self, now_s: float) -> None:
        """Bring the endpoint file up to date, touching it only when it changes."""
        self._leaving = {
            address: until_s for address, until_s in self._leaving.items() if until_s > now_s and address not in self._listed
        }
        members = (*self._listed, *self._leaving)
        if members != self._written:
            write(self._endpoints_file, endpoints_json(members))
            self._written = members
