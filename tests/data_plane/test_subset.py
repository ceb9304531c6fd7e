"""The gateway's subset hint narrows the choice; where it leaves nobody, the client is told so."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from epp.standalone.launcher import Envoy
from epp.standalone.options import SUBSET_KEY, SUBSET_NAMESPACE, Mode
from tests.data_plane.clients import request
from tests.data_plane.rig import RANDOM

BODY = b'{"model": "m", "prompt": "hello"}'
Open = Callable[..., Envoy]
MODES = (Mode.FULL_DUPLEX, Mode.LEAN, Mode.BUFFERED)


@pytest.fixture(scope="module")
def hinted(lab, fleet) -> Iterator[Open]:
    """Opens a gateway that puts this subset hint on every request, before a picker that draws at random."""
    with lab.picker(fleet.ports, config=RANDOM) as picker, ExitStack() as stack:
        yield lambda value, mode=Mode.FULL_DUPLEX: stack.enter_context(lab.gateway(picker, mode=mode, request_metadata=hint(value)))


def hint(value: object) -> dict[str, dict[str, object]]:
    return {SUBSET_NAMESPACE: {SUBSET_KEY: value}}


def ports_used(gateway, times: int = 12) -> set[int]:
    """Where requests with and without a body go."""
    used = set()
    for _ in range(times):
        answers = (request(gateway, "POST", "/v1/completions", BODY), request(gateway, "GET", "/v1/models"))
        assert [answer.status for answer in answers] == [200, 200]
        used |= {answer.port for answer in answers}
    return used


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_a_list_narrows_the_choice(hinted, fleet, mode):
    chosen = fleet.ports[1:3]
    gateway = hinted([f"127.0.0.1:{port}" for port in chosen], mode)
    assert ports_used(gateway) == set(chosen)


def test_a_string_narrows_the_choice(hinted, fleet):
    first, _, last = fleet.ports
    gateway = hinted(f"127.0.0.1:{first}, 127.0.0.1:{last}")
    assert ports_used(gateway) == {first, last}


def test_a_bare_address_allows_all_its_ports(hinted, fleet):
    assert ports_used(hinted(["127.0.0.1"])) == set(fleet.ports)


def test_members_that_are_not_of_the_pool_are_ignored(hinted, fleet):
    gateway = hinted(["10.9.9.9:80", f"127.0.0.1:{fleet.ports[0]}"])
    assert ports_used(gateway, times=4) == {fleet.ports[0]}


@pytest.mark.parametrize(
    "value", [[], "", ["10.9.9.9:80"], "10.9.9.9:80"], ids=["empty", "empty-string", "no-match", "no-match-string"]
)
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_nobody_left_is_503_with_the_reason(hinted, mode, value):
    gateway = hinted(value, mode)
    for answer in (request(gateway, "POST", "/v1/completions", BODY), request(gateway, "GET", "/v1/models")):
        assert answer.status == 503
        assert answer.header("x-llm-d-request-dropped-reason") == "rejected-no-endpoints"
        assert answer.body.startswith(b"inference error: ServiceUnavailable - ")
