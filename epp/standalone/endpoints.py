"""The file through which Envoy follows the pool: written whole, put in place by rename, so that no reader meets half of it."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from envoy_data_plane.envoy.service.discovery.v3 import DiscoveryResponse
from envoy_data_plane.google.protobuf import Any

from epp.standalone.clusters import assignment
from epp.standalone.messages import to_json
from epp.standalone.options import POOL_CLUSTER, SocketAddress


def endpoints_json(addresses: Iterable[SocketAddress]) -> str:
    """Return the endpoint discovery response that lists `addresses` as the pool."""
    return to_json(DiscoveryResponse(resources=[Any.pack(assignment(POOL_CLUSTER, addresses))]))


def write(path: Path, text: str) -> None:
    """Replace the file at `path` with one that holds `text`, in one step.

    The temporary file lies in the same directory, since a rename is atomic only within a file system.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
