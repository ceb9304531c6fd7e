"""What more than one directory of tests stands on: the control plane, started once for the whole run and only when a test asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.kube.control_plane import ControlPlane


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
