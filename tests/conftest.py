"""What more than one directory of tests stands on: signals as a terminal has them, and a control plane, started once if wanted."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.kube.control_plane import ControlPlane


def pytest_configure() -> None:
    """Take SIGINT, and so have the processes that tests start take it: a shell has what it runs in the background ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A real kube-apiserver with its etcd. Skips, or fails with `EPP_NOTHING_SKIPPED`, where they cannot be had."""
    from tests.kube.assets import find
    from tests.kube.control_plane import ControlPlane

    plane = ControlPlane(find(), tmp_path_factory.mktemp("control-plane"))
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()
