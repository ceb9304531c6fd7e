"""The chart and the real Helm; and for what is installed for real, the control plane of `tests/kube`."""

import json
import os
import subprocess
import sys

import pytest

from tests.chart.gke_definitions import DEFINITIONS
from tests.chart.installed import Release
from tests.chart.rendered import ROOT, Chart
from tests.data_plane.rig import eventually
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


@pytest.fixture
def release(namespace, pods, tmp_path) -> Release:
    """Installed, with a pod to pick."""
    pods.add()
    (port,) = pods.ports
    return Release(namespace, tmp_path, f"pool.selector.app={pods.labels['app']}", f"pool.targetPorts[0].number={port}")


@pytest.fixture(scope="session")
def promtool() -> str:
    """Prometheus' own checker; skips, or fails with `EPP_NOTHING_SKIPPED`, where it cannot be had."""
    done = subprocess.run([sys.executable, str(ROOT / "hack" / "promtool.py")], capture_output=True, text=True, check=False)
    if done.returncode:
        why = f"ALERTS AND DASHBOARD ARE NOT CHECKED: {done.stderr.strip()}"
        if "EPP_NOTHING_SKIPPED" in os.environ:
            pytest.fail(why, pytrace=False)
        pytest.skip(why)
    return done.stdout.strip()


@pytest.fixture(scope="session")
def definitions(control_plane):
    """What gateways, the Prometheus Operator and cert-manager bring; of Istio's only the one that the chart makes."""
    control_plane.install("gateway-api", "prometheus", "cert-manager")
    rules = [one for one in control_plane.assets.definitions("istio") if one["spec"]["names"]["plural"] == "destinationrules"]
    for definition in (*rules, *DEFINITIONS):
        control_plane.kubectl("apply", "--filename", "-", stdin=json.dumps(definition))
        group, version = definition["spec"]["group"], definition["spec"]["versions"][0]["name"]
        path = f"/apis/{group}/{version}/{definition['spec']['names']['plural']}"
        eventually(lambda path=path: control_plane.api.answers(path), path)
