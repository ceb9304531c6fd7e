"""The table of the request half, walked in full."""

import itertools
from typing import get_args

import pytest

from epp.errors import NoEndpoint, ProtocolError
from epp.extproc.events import (
    AnswerHeaders,
    BodyMode,
    Decided,
    Refused,
    RequestBody,
    RequestEvent,
    RequestHeaders,
    RequestTrailers,
    Schedule,
)
from epp.extproc.options import WireOptions
from epp.extproc.request_side import CONTROL_HEADERS, TRANSITIONS, RequestSide, RequestState
from epp.model.budget import Budget
from epp.model.request import RequestHead
from tests.unit.extproc.stage import decision

EVENTS = {
    RequestHeaders: RequestHeaders(RequestHead(), False),
    RequestBody: RequestBody(b"x", True),
    RequestTrailers: RequestTrailers(),
    Decided: Decided(decision()),
    Refused: Refused(NoEndpoint("none")),
}
# How each state is reached, and where each transition leads, in full duplex.
WAY_TO = {
    RequestState.IDLE: [],
    RequestState.GATHERING: [RequestHeaders],
    RequestState.DECIDING: [RequestHeaders, RequestBody],
    RequestState.PASSING: [RequestHeaders, RequestBody, Decided],
    RequestState.OVER: [RequestHeaders, RequestBody, Refused],
}
LEADS_TO = {
    (RequestState.IDLE, RequestHeaders): RequestState.GATHERING,
    (RequestState.GATHERING, RequestBody): RequestState.DECIDING,
    (RequestState.GATHERING, RequestTrailers): RequestState.DECIDING,
    (RequestState.DECIDING, Decided): RequestState.PASSING,
    (RequestState.DECIDING, Refused): RequestState.OVER,
}


def reach(state: RequestState) -> RequestSide:
    side = RequestSide(WireOptions(), Budget(1 << 20))
    for event in WAY_TO[state]:
        side.receive(EVENTS[event])
    assert side.state is state
    return side


def test_every_event_has_a_sample():
    assert set(get_args(RequestEvent)) == set(EVENTS)
    assert set(RequestState) == set(WAY_TO)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(RequestState, EVENTS)))
def test_every_pair(state, event):
    side = reach(state)
    if (state, event) in TRANSITIONS:
        side.receive(EVENTS[event])
        assert side.state is LEADS_TO.get((state, event), state)
    else:
        with pytest.raises(ProtocolError, match=event.__name__):
            side.receive(EVENTS[event])
        assert side.state is state


def test_the_body_is_let_go_of():
    for state in (RequestState.PASSING, RequestState.OVER):
        side = reach(state)
        assert (side._body, side._pieces, side._late) == (None, [], [])


@pytest.mark.parametrize("mode", BodyMode)
@pytest.mark.parametrize(("method", "body"), [("POST", b""), ("PUT", b""), ("GET", None), ("HEAD", None), ("DELETE", None)])
def test_a_request_that_ends_with_its_headers(mode, method, body):
    side = RequestSide(WireOptions(mode_default=mode), Budget(1 << 20))
    head = RequestHead(method=method)
    assert side.receive(RequestHeaders(head, True)) == [Schedule(head, body)]
    (answer,) = side.receive(EVENTS[Decided])
    assert isinstance(answer, AnswerHeaders), "no body came, so none is sent"


def test_what_the_proxy_needs_is_not_removed():
    assert "content-length" not in CONTROL_HEADERS
    assert "x-gateway-destination-endpoint" not in CONTROL_HEADERS
