"""Responses as bytes: how they pass through, and how a stream is seen to end."""

from epp.model.decision import Outcome, Usage
from tests.unit.extproc.one_stream import Stream, routed
from tests.unit.extproc.stage import (
    BUFFERED,
    FULL,
    NONE,
    RESPONSE_TRAILERS,
    StubDirector,
    decision,
    kinds,
    local_reply,
    response_body,
    response_headers,
    set_headers,
    streamed,
)


def test_a_response_is_passed_on_chunk_by_chunk_and_its_usage_noted():
    stream = routed()
    assert kinds(stream.say(response_headers(served="10.0.0.1:8000"))) == ["response_headers"]
    chunks = [
        b'data: {"choices":[]}\n\n',
        b'data: {"usage":{"prompt_tok',
        b'ens":7,"completion_tokens":2}}\n\n',
        b"data: [DONE]\n\n",
    ]
    for chunk in chunks:
        assert streamed(stream.say(response_body(chunk)), "response_body") == (chunk, [False])
    assert stream.director.finished == []
    assert streamed(stream.say(response_body(end=True)), "response_body") == (b"", [True])
    assert stream.end() == Outcome(
        end="complete",
        status=200,
        usage=Usage(prompt_tokens=7, completion_tokens=2),
        served="10.0.0.1:8000",
        response_bytes=sum(map(len, chunks)),
    )
    assert stream.director.first_tokens == 1
    assert not stream.outlet.closed


def test_the_client_is_told_who_answered_when_asked_for():
    stream = routed(served_header="x-served")
    (answer,) = stream.say(response_headers(served="10.0.0.1:8000"))
    assert set_headers(answer.response_headers.response.header_mutation) == {"x-served": "10.0.0.1:8000"}
    (answer,) = routed(served_header="x-served").say(response_headers())
    assert not answer.response_headers.HasField("response")


def test_response_trailers_end_it_too():
    stream = routed()
    answers = stream.say(response_headers(), response_body(b"x"), RESPONSE_TRAILERS)
    assert kinds(answers) == ["response_headers", "response_body", "response_trailers"]
    assert stream.end().end == "complete"


def test_a_response_without_a_body_is_complete_at_once():
    stream = routed()
    assert kinds(stream.say(response_headers(status="204", end=True))) == ["response_headers"]
    assert stream.director.outcomes == [Outcome(end="complete", status=204)]
    stream.end()


def test_lean_is_released_with_the_response_headers():
    stream = routed(modes=(FULL, NONE))
    stream.say(response_headers())
    assert stream.director.outcomes == [Outcome(end="released", status=200)]
    assert kinds(stream.say(RESPONSE_TRAILERS)) == ["response_trailers"]
    assert stream.end().end == "released"


def test_a_gateway_that_sends_no_responses_has_its_requests_released():
    assert routed(modes=None).end() == Outcome(end="released")
    assert routed(modes=(FULL, NONE)).end() == Outcome(end="released")
    assert routed(modes=(FULL, FULL)).end() == Outcome(end="client-gone")


def test_buffered_responses_are_read_in_one_piece():
    stream = routed(modes=(BUFFERED, BUFFERED))
    answers = stream.say(response_headers(), response_body(b'{"usage":{"prompt_tokens":1}}', end=True))
    assert not answers[1].response_body.HasField("response")
    assert stream.end().usage == Usage(prompt_tokens=1)


def test_a_buffered_response_that_was_declined_is_released():
    stream = routed(modes=(BUFFERED, BUFFERED))
    stream.say(response_headers())
    assert stream.end() == Outcome(end="released", status=200)


def test_a_buffered_response_gets_the_model_name_back_with_its_length():
    director = StubDirector(lambda head, _: decision(head, model="asked", target="m", span=(9, 12)))
    stream = routed(director, modes=(BUFFERED, BUFFERED))
    _, answer = stream.say(
        response_headers({"content-type": "application/json"}),
        response_body(b'{"model":"m","usage":{"prompt_tokens":1}}', end=True),
    )
    assert answer.response_body.response.body_mutation.body == b'{"model":"asked","usage":{"prompt_tokens":1}}'
    assert set_headers(answer.response_body.response.header_mutation) == {"content-length": "45"}


def test_an_answer_made_by_envoy_is_told_apart():
    stream = routed()
    answers = stream.say(local_reply(), response_body(b"no health", end=True))
    assert kinds(answers) == ["response_headers", "response_body"]
    assert stream.end().end == "local-reply"
    assert stream.director.first_tokens == 0


def test_an_error_of_the_model_server_is_its_answer():
    stream = routed()
    stream.say(response_headers(status="500"), response_body(b"oops", end=True))
    assert stream.end() == Outcome(end="complete", status=500, response_bytes=4)


def test_the_text_of_an_error_is_no_first_token():
    stream = routed()
    stream.say(response_headers({":status": "503"}), response_body(b"no", end=True))
    assert stream.director.first_tokens == 0
    assert stream.end().status == 503


def test_a_client_that_leaves_in_mid_answer():
    stream = routed()
    stream.say(response_headers(), response_body(b"x"))
    assert stream.end() == Outcome(end="client-gone", status=200, response_bytes=1)


def test_a_response_without_a_request_is_passed_on():
    stream = Stream()
    answers = stream.say(response_headers(modes=(FULL, FULL)), response_body(b"x", end=True))
    assert kinds(answers) == ["response_headers", "response_body"]
    stream.pump.end()
    assert stream.director.finished == []
