"""One fleet of model servers, one picker and one Envoy per mode for the whole directory; their logs only where a test fails."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from epp.standalone.launcher import Envoy
from epp.standalone.options import Mode
from tests.data_plane.rig import Lab, Picker, eventually
from tests.data_plane.upstream import Fleet

LOG_LINES = 60
LAB = pytest.StashKey[Lab]()

OpenGateway = Callable[..., Envoy]


@pytest.fixture(scope="session", params=["native", "grpcio"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Lab:
    """Everything here runs twice: with pickers on either transport."""
    pytestconfig.stash[LAB] = Lab(tmp_path_factory.mktemp("data-plane"), transport=request.param)
    return pytestconfig.stash[LAB]


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    fleet = Fleet(3)
    yield fleet
    fleet.close()


@pytest.fixture(scope="session")
def shared_picker(lab: Lab, fleet: Fleet) -> Iterator[Picker]:
    with lab.picker(fleet.ports) as picker:
        yield picker


@pytest.fixture(scope="session")
def open_gateway(lab: Lab, shared_picker: Picker) -> Iterator[OpenGateway]:
    """An Envoy in front of the shared picker, with these options; one for each set of options, kept."""
    opened: dict[str, Envoy] = {}
    with ExitStack() as stack:

        def open_one(**options) -> Envoy:
            key = repr(sorted(options.items(), key=lambda item: item[0]))
            if key not in opened:
                opened[key] = stack.enter_context(lab.gateway(shared_picker, **options))
            return opened[key]

        yield open_one


@pytest.fixture
def picker(shared_picker: Picker) -> Iterator[Picker]:
    """The shared picker, of which every test must leave nothing in flight."""
    yield shared_picker
    eventually(lambda: shared_picker.in_flight() == 0, "nothing in flight after the test")


@pytest.fixture
def gateway(picker: Picker, open_gateway: OpenGateway) -> Envoy:
    """The full duplex gateway, for what does not depend on the mode."""
    return open_gateway(mode=Mode.FULL_DUPLEX)


@pytest.fixture(params=Mode, ids=lambda mode: mode.value)
def any_gateway(request: pytest.FixtureRequest, picker: Picker, open_gateway: OpenGateway) -> Envoy:
    """A gateway of each mode."""
    return open_gateway(mode=request.param)


@pytest.fixture(autouse=True)
def _logs_of_this_test(lab: Lab) -> None:
    """Forget the processes of tests before, which have ended."""
    lab.children = [child for child in lab.children if child.exit_code is None]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = yield
    if report.failed and LAB in item.config.stash:
        for child in item.config.stash[LAB].children:
            tail = "\n".join(child.tail().splitlines()[-LOG_LINES:])
            report.sections.append((f"log of {child.name} {child.pid}", tail))
    return report
