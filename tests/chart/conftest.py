"""The chart and the real Helm; and for what is installed for real, the control plane of `tests/kube`."""

import pytest

from tests.chart.rendered import Chart
from tests.kube.assets import Assets, find
from tests.kube.conftest import namespace, pods, pytest_runtest_makereport, rig, servers

__all__ = ["namespace", "pods", "pytest_runtest_makereport", "rig", "servers"]


@pytest.fixture(scope="session")
def assets() -> Assets:
    """Programs and definitions; skips, or fails with `EPP_NOTHING_SKIPPED`, where they cannot be had."""
    return find()


@pytest.fixture(scope="session")
def chart(assets: Assets, tmp_path_factory: pytest.TempPathFactory) -> Chart:
    return Chart(assets.helm, tmp_path_factory.mktemp("helm"))
