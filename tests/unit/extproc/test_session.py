"""The session above its two halves: what it settles between them, and the one outcome."""

import pytest

from epp.errors import NoEndpoint, RequestError
from epp.extproc.events import (
    AnswerHeaders,
    AnswerTrailers,
    Decided,
    Finish,
    GiveUp,
    Modes,
    Refused,
    Reject,
    RequestBody,
    RequestHeaders,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
    Schedule,
    Side,
    StreamBody,
)
from epp.extproc.session import Session
from epp.model.decision import Outcome
from epp.model.request import RequestHead
from tests.unit.extproc.stage import FULL, NONE, decision

HEAD = RequestHead(path="/v1/completions", method="GET")
BOTH_FULL = Modes(FULL, FULL)


def routed(modes: Modes | None = BOTH_FULL) -> Session:
    session = Session()
    assert session.receive(RequestHeaders(HEAD, True, modes)) == [Schedule(HEAD, None)]
    (answer,) = session.receive(Decided(decision(HEAD)))
    assert isinstance(answer, AnswerHeaders)
    return session


def test_a_request_and_its_response():
    session = Session()
    assert session.receive(RequestHeaders(HEAD, False, BOTH_FULL)) == []
    assert session.receive(RequestBody(b"ab", False)) == []
    assert session.receive(RequestBody(b"c", True)) == [Schedule(HEAD, b"abc")]
    answer, body = session.receive(Decided(decision(HEAD)))
    assert answer.route.destination == "10.0.0.1:8000"
    assert body == StreamBody(Side.REQUEST, b"abc", True)
    assert session.receive(ResponseHeaders(200, {"server": "x"}, False)) == [AnswerHeaders(Side.RESPONSE)]
    passed, finish = session.receive(ResponseBody(b"", True))
    assert passed == StreamBody(Side.RESPONSE, b"", True)
    assert finish == Finish(Outcome(end="complete", status=200))
    assert session.close() is None


def test_close_gives_the_outcome_once():
    session = routed()
    assert session.close() == Outcome(end="client-gone")
    assert session.close() is None
    assert session.receive(ResponseTrailers()) == []


def test_a_stream_on_which_nothing_was_said_has_an_outcome_too():
    assert Session().close() == Outcome(end="client-gone")


def test_refused_is_the_end():
    session = Session()
    session.receive(RequestHeaders(HEAD, True))
    error = NoEndpoint("none")
    assert session.receive(Refused(error)) == [Reject(error), Finish(Outcome(end="rejected", status=503))]
    assert session.receive(RequestBody(b"", True)) == []
    assert session.close() is None


def test_a_failure_gives_up_the_wait():
    session = Session()
    session.receive(RequestHeaders(HEAD, True))
    error = RequestError("broken")
    assert session.fail(error) == [GiveUp(), Reject(error), Finish(Outcome(end="error", status=500))]
    assert session.fail(error) == []


def test_an_early_answer_gives_up_the_wait_and_is_passed_on():
    session = Session()
    session.receive(RequestHeaders(HEAD, True, BOTH_FULL))
    actions = session.receive(ResponseHeaders(504, {}, False))
    assert actions == [GiveUp(), AnswerHeaders(Side.RESPONSE), Finish(Outcome(end="local-reply", status=504))]


@pytest.mark.parametrize("mark", ["server", "date", "x-envoy-upstream-service-time"])
def test_a_5xx_with_a_mark_of_an_upstream_is_the_model_servers(mark):
    session = routed()
    assert session.receive(ResponseHeaders(503, {mark: "x"}, False)) == [AnswerHeaders(Side.RESPONSE)]


def test_lean_is_released_at_once_and_still_answers_trailers():
    session = routed(Modes(FULL, NONE))
    assert session.receive(ResponseHeaders(200, {}, False))[1:] == [Finish(Outcome(end="released", status=200))]
    assert session.receive(ResponseTrailers()) == [AnswerTrailers(Side.RESPONSE)]
    assert session.close() is None


def test_responses_without_their_headers_are_passed_on():
    session = routed()
    assert session.receive(ResponseBody(b"x", False))[0] == StreamBody(Side.RESPONSE, b"x", False)
    assert session.receive(ResponseTrailers())[0] == AnswerTrailers(Side.RESPONSE)
    assert session.close() is None
