"""The table of the response half, walked in full."""

import itertools
from typing import get_args

import pytest

from epp.errors import ProtocolError
from epp.extproc.events import ResponseBody, ResponseEvent, ResponseHeaders, ResponseTrailers, StreamBody
from epp.extproc.options import WireOptions
from epp.extproc.response_side import TRANSITIONS, ResponseSide, ResponseState
from tests.unit.extproc.stage import STREAMED, decision

EVENTS = {
    ResponseHeaders: ResponseHeaders(200, {}, False),
    ResponseBody: ResponseBody(b"x", True),
    ResponseTrailers: ResponseTrailers(),
}
WAY_TO = {
    ResponseState.IDLE: [],
    ResponseState.PASSING: [ResponseHeaders],
    ResponseState.OVER: [ResponseHeaders, ResponseBody],
}


def reach(state: ResponseState) -> ResponseSide:
    side = ResponseSide(WireOptions())
    for event in WAY_TO[state]:
        side.receive(EVENTS[event])
    assert side.state is state
    return side


def test_every_event_has_a_sample():
    assert set(get_args(ResponseEvent)) == set(EVENTS)
    assert set(ResponseState) == set(WAY_TO)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(ResponseState, EVENTS)))
def test_every_pair(state, event):
    side = reach(state)
    if (state, event) in TRANSITIONS:
        side.receive(EVENTS[event])
        assert side.state is (ResponseState.PASSING if event is ResponseHeaders else ResponseState.OVER)
    else:
        with pytest.raises(ProtocolError, match=event.__name__):
            side.receive(EVENTS[event])


def test_what_follows_the_end_of_the_body_is_not_answered():
    assert reach(ResponseState.OVER).receive(ResponseBody(b"", True)) == []


@pytest.mark.parametrize(
    "headers", [{"content-type": "text/plain"}, {"content-type": "application/json", "content-encoding": "gzip"}, {}]
)
def test_a_name_is_put_back_only_where_it_can_be_found(headers):
    side = ResponseSide(WireOptions())
    side.expect(decision(model="a", target="b", span=(9, 12)))
    side.receive(ResponseHeaders(200, headers, False))
    assert side.receive(ResponseBody(b'{"model":"b"}', True))[0].data == b'{"model":"b"}'


def test_chunks_that_are_answered_alone_keep_the_name():
    side = ResponseSide(WireOptions())
    side.mode = STREAMED
    side.expect(decision(model="a", target="b", span=(9, 12)))
    side.receive(ResponseHeaders(200, {"content-type": "application/json"}, False))
    assert side.receive(ResponseBody(b'{"model":"b"}', True))[0].body is None


def test_what_is_held_back_goes_out_before_trailers():
    side = ResponseSide(WireOptions())
    side.expect(decision(model="a", target="b", span=(9, 12)))
    side.receive(ResponseHeaders(200, {"content-type": "application/json"}, False))
    assert side.receive(ResponseBody(b'{"model":"b"}', False))[0].data == b""
    rest, _ = side.receive(ResponseTrailers())
    assert rest == StreamBody(rest.side, b'{"model":"a"}', False)
