"""While a decision is waited for, the picker listens on: to the client that leaves, to Envoy that gives up, to the decision."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from epp.standalone.launcher import Envoy
from epp.standalone.options import Mode
from tests.data_plane.clients import new_id, opened, request, reset, whole
from tests.data_plane.rig import Picker, eventually

BODY = b'{"model": "m", "prompt": "hello"}'
PROGRAM = Path(__file__).with_name("waiting_picker.py")
MODES = (Mode.FULL_DUPLEX, Mode.LEAN, Mode.BUFFERED)


@pytest.fixture(scope="module")
def gate_directory(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("gate")


@pytest.fixture(scope="module")
def waiting_picker(lab, fleet, gate_directory) -> Iterator[Picker]:
    with lab.picker(fleet.ports, program=[str(PROGRAM)], environment={"EPP_TEST_GATE": str(gate_directory)}) as picker:
        yield picker


@pytest.fixture(scope="module")
def before_it(lab, waiting_picker) -> Iterator[Callable[..., Envoy]]:
    """Opens a gateway in front of that picker."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(lab.gateway(waiting_picker, **options))


@pytest.fixture
def gate(waiting_picker, gate_directory) -> Iterator[Path]:
    """Where a request waits, empty at the start; at the end nothing may be in flight."""
    for file in gate_directory.iterdir():
        file.unlink()
    yield gate_directory
    eventually(lambda: waiting_picker.in_flight() == 0, "nothing in flight after the test")


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_a_decision_that_comes_late_is_as_good(before_it, fleet, gate, mode):
    test_id = new_id()
    with opened(before_it(mode=mode), "POST", "/v1/completions", BODY, [("x-test-id", test_id)]) as connection:
        eventually((gate / "waiting").exists, "it waits")
        assert fleet.received(test_id) == []
        (gate / "go").touch()
        assert whole(connection.getresponse()).status == 200
    assert fleet.received(test_id)[0].sha256 == hashlib.sha256(BODY).hexdigest()


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_a_client_that_leaves_ends_the_wait(before_it, waiting_picker, fleet, gate, mode):
    test_id, gateway = new_id(), before_it(mode=mode)
    with opened(gateway, "POST", "/v1/completions", BODY, [("x-test-id", test_id)]) as connection:
        eventually((gate / "waiting").exists, "it waits")
        reset(connection)
    eventually((gate / "given-up").exists, "the wait is given up")
    assert waiting_picker.in_flight() == 0
    (gate / "go").touch()
    assert request(gateway, "POST", "/v1/completions", BODY).status == 200, "served as ever"
    assert fleet.received(test_id) == []


@pytest.mark.parametrize(
    ("mode", "patience"),
    [
        (Mode.FULL_DUPLEX, {"stream_idle_timeout_s": 0.5}),
        (Mode.LEAN, {"stream_idle_timeout_s": 0.5}),
        (Mode.BUFFERED, {"message_timeout_s": 0.5}),
    ],
    ids=["full-duplex", "lean", "buffered"],
)
def test_a_gateway_that_gives_up_ends_the_wait(before_it, fleet, gate, mode, patience):
    test_id = new_id()
    answer = request(before_it(mode=mode, **patience), "POST", "/v1/completions", BODY, [("x-test-id", test_id)])
    assert answer.status == 504
    eventually((gate / "given-up").exists, "the wait is given up")
    assert fleet.received(test_id) == []
