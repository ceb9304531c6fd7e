"""A namespace, pods and a rig for each test, on the one control plane of the run; logs where a test fails. See `rig.py`."""

from collections.abc import Iterator

import pytest

from tests.data_plane.rig import free_port
from tests.kube.control_plane import ControlPlane
from tests.kube.namespace import Namespace
from tests.kube.pods import Pods, Servers
from tests.kube.rig import Rig

LOG_LINES = 40
DECISION = " decided logger="
"""In a line of the picker's that says nothing to whoever looks for why a test failed; there are fifty a second."""
RIG = pytest.StashKey[Rig]()


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Namespace:
    """A new, empty namespace."""
    return control_plane.namespace()


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    servers = Servers()
    yield servers
    servers.close()


@pytest.fixture
def pods(namespace: Namespace, servers: Servers) -> Iterator[Pods]:
    """No pods yet; what is added has one label and one port that nobody else listens on."""
    with Pods(namespace, servers, labels={"app": "server"}, ports=[free_port()]) as pods:
        yield pods


@pytest.fixture
def rig(control_plane: ControlPlane, tmp_path, request: pytest.FixtureRequest) -> Rig:
    rig = Rig(control_plane, tmp_path, getattr(request, "param", "native"))
    request.node.stash[RIG] = rig
    return rig


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = yield
    if report.failed and RIG in item.stash:
        rig = item.stash[RIG]
        for child in (*rig.control_plane.children, *rig.children):
            lines = [line for line in child.tail().splitlines() if DECISION not in line]
            tail = "\n".join(lines[-LOG_LINES:])
            report.sections.append((f"log of {child.name} {child.pid}", tail))
    return report
