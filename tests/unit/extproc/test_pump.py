"""Whole streams through the pump, as bytes: what a gateway sends, and what it gets."""

import tracemalloc

import pytest

from epp.errors import BadRequest, NoEndpoint, Overloaded
from epp.model.budget import Budget
from epp.model.decision import Outcome
from epp.pb import ext_proc_pb2 as pb
from tests.unit.extproc.one_stream import BODY, DESTINATION, Stream, picked, routed
from tests.unit.extproc.stage import (
    BUFFERED,
    FULL,
    HEADERS,
    NONE,
    OTHER,
    PARTIAL,
    REQUEST_TRAILERS,
    STREAMED,
    StubDirector,
    decision,
    kinds,
    local_reply,
    request_body,
    request_headers,
    response_body,
    response_headers,
    set_headers,
    streamed,
)

# ---- full duplex: what a GAIE gateway sends


def test_a_post_is_held_until_its_end_and_goes_on_byte_for_byte():
    stream = Stream()
    assert stream.say(request_headers(), request_body(BODY)) == []
    answers = stream.say(request_body(end=True))
    assert kinds(answers) == ["request_headers", "request_body"]
    assert picked(answers[0]) == "10.0.0.1:8000"
    assert streamed(answers) == (BODY, [True])
    ((head, body),) = stream.director.asked
    assert (head.path, head.method, head.request_id, body) == ("/v1/chat/completions", "POST", "r-1", BODY)


def test_the_end_may_come_with_data():
    assert streamed(Stream().say(request_headers(), request_body(BODY, end=True))) == (BODY, [True])


def test_an_empty_body_gives_one_empty_chunk_with_the_end():
    stream = Stream()
    assert streamed(stream.say(request_headers(), request_body(end=True))) == (b"", [True])
    assert stream.director.asked[0][1] == b""


def test_trailers_end_the_body_and_are_answered_after_it():
    stream = Stream()
    assert stream.say(request_headers(), request_body(BODY)) == []
    answers = stream.say(REQUEST_TRAILERS)
    assert kinds(answers) == ["request_headers", "request_body", "request_trailers"]
    assert streamed(answers) == (BODY, [False])


def test_trailers_without_a_body_are_answered():
    stream = Stream()
    stream.say(request_headers())
    assert kinds(stream.say(REQUEST_TRAILERS)) == ["request_headers", "request_trailers"]


def test_a_get_is_picked_from_its_headers():
    stream = Stream()
    (answer,) = stream.say(request_headers({":path": "/v1/models", ":method": "GET"}, end=True, subset=["10.0.0.1:8000"]))
    assert picked(answer) == "10.0.0.1:8000"
    ((head, body),) = stream.director.asked
    assert (head.method, head.subset, body) == ("GET", ("10.0.0.1:8000",), None)


def test_a_repeated_end_of_the_body_is_not_answered():
    stream = Stream()
    stream.say(request_headers(), request_body(BODY, end=True))
    assert stream.say(request_body(end=True), request_body(b"x", end=True)) == []
    assert len(stream.director.asked) == 1


@pytest.mark.parametrize(("size", "chunks"), [(61_999, 1), (62_000, 1), (62_001, 2), (124_000, 2), (300_000, 5)])
def test_long_bodies_are_cut(size, chunks):
    body = bytes(range(256)) * (size // 256 + 1)
    back, ends = streamed(Stream().say(request_headers(), request_body(body[:size], end=True)))
    assert back == body[:size]
    assert ends == [False] * (chunks - 1) + [True]


def test_a_body_over_the_cap_is_refused_and_the_stream_closed():
    stream = Stream(body_bytes_max=10)
    stream.say(request_headers(), request_body(b"12345678"))
    (answer,) = stream.say(request_body(b"901"))
    assert answer.immediate_response.status.code == 413
    assert stream.outlet.closed
    assert stream.say(request_body(b"more", end=True)) == []
    stream.pump.end()
    assert stream.director.asked == []
    assert stream.director.finished == []


def test_bodies_of_all_streams_have_a_bound_and_make_room_when_they_are_decided_or_gone():
    held = Budget(20)
    first, second = Stream(held=held), Stream(held=held)
    first.say(request_headers(), request_body(b"123456789012"))
    (answer,) = second.say(request_headers(), request_body(b"123456789"))
    assert answer.immediate_response.status.code == 429
    assert dict(set_headers(answer.immediate_response.headers))["retry-after"] == "1"
    assert held.held == 12
    assert second.say(request_body(b"1", end=True)) == []
    assert picked(first.say(request_body(b"1234567", end=True))[0])
    assert held.held == 0
    gone = Stream(held=held)
    gone.say(request_headers(), request_body(b"12345678901234567890"))
    gone.pump.end()
    assert held.held == 0


def test_a_body_in_tiny_pieces_is_held_in_little_more_than_its_size():
    stream, pieces = Stream(), 5000
    stream.say(request_headers(), request_body(b"["))
    tracemalloc.start()
    try:
        for _ in range(pieces):
            stream.pump.receive(request_body(b"1,"))
            stream.pump.receive(request_body(b""))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 20 * pieces, "piece by piece it would be 700"
    assert streamed(stream.say(request_body(b"1]", end=True)))[0] == b"[" + b"1," * pieces + b"1]"


def test_fallbacks_follow_the_first_choice_with_ipv6_in_brackets():
    stream = Stream(StubDirector(lambda head, _: decision(head, fallbacks=[OTHER])))
    assert picked(stream.say(request_headers(end=True))[0]) == "10.0.0.1:8000,[fd00::2]:8000"


def test_scores_are_published_when_asked_for():
    (answer,) = Stream(emit_endpoint_scores=True).say(request_headers(end=True))
    assert dict(answer.dynamic_metadata["envoy.lb"]["x-gateway-destination-endpoint-scores"].items()) == {
        "10.0.0.1:8000": 1.5,
        "[fd00::2]:8000": 0.25,
    }


def test_control_headers_that_are_present_are_removed_and_no_others():
    headers = {**HEADERS, "x-slo-ttft-ms": "200", "x-gateway-inference-objective": "fast", "cookie": "a=b"}
    (answer,) = Stream().say(request_headers(headers, end=True))
    mutation = answer.request_headers.response.header_mutation
    assert list(mutation.remove_headers) == ["x-gateway-inference-objective", "x-slo-ttft-ms"]
    assert list(set_headers(mutation)) == [DESTINATION]


def test_headers_are_echoed_as_the_reference_does_when_asked_for():
    stream = Stream(echo_headers=True)
    headers = {**HEADERS, "x-slo-ttft-ms": "200", "content-length": "56"}
    answers = stream.say(request_headers(headers), request_body(BODY, end=True))
    echoed = set_headers(answers[0].request_headers.response.header_mutation)
    assert echoed == {DESTINATION: "10.0.0.1:8000", "Content-Length": str(len(BODY)), **HEADERS}
    (answer,) = stream.say(response_headers({"x-a": "b", "content-length": "3"}))
    assert set_headers(answer.response_headers.response.header_mutation) == {
        "x-went-into-resp-headers": "true",
        ":status": "200",
        "server": "uvicorn",
        "x-a": "b",
    }


def test_only_the_model_is_replaced_and_its_name_is_put_back():
    body = b'{ "seed":123456789012345678901, "model" : "m", "model2":"m", "x":1.10 }'
    at = body.index(b'"m"')
    stream = Stream(StubDirector(lambda head, _: decision(head, model="m", target="big/one", span=(at, at + 3))))
    answers = stream.say(request_headers({**HEADERS, "content-length": str(len(body))}), request_body(body, end=True))
    assert streamed(answers) == (b'{ "seed":123456789012345678901, "model" : "big/one", "model2":"m", "x":1.10 }', [True])
    assert list(answers[0].request_headers.response.header_mutation.remove_headers) == ["content-length"]
    (answer,) = stream.say(response_headers({"content-type": "text/event-stream; charset=utf-8"}))
    assert list(answer.response_headers.response.header_mutation.remove_headers) == ["content-length"]
    answers = stream.say(
        response_body(b'data: {"id":"1","mod'),
        response_body(b'el":"big\\/one","choices":[{"text":"\\"model\\":\\"big/one\\""}]}\n\ndata: [DO'),
        response_body(b"NE]\n\n", end=True),
    )
    back, ends = streamed(answers, "response_body")
    assert back == b'data: {"id":"1","model":"m","choices":[{"text":"\\"model\\":\\"big/one\\""}]}\n\ndata: [DONE]\n\n'
    assert ends == [False] * (len(ends) - 1) + [True]


# ---- subset hints


@pytest.mark.parametrize(
    ("hint", "subset"),
    [
        (None, None),
        ([], ()),
        ("", ()),
        ("10.0.0.1:80, [fd00::1]:80 ,", ("10.0.0.1:80", "[fd00::1]:80")),
        (["10.0.0.1:80", " 10.0.0.2 ,10.0.0.3:80"], ("10.0.0.1:80", "10.0.0.2", "10.0.0.3:80")),
        ([3.0, None, "10.0.0.1"], ("10.0.0.1",)),
    ],
)
def test_a_subset_hint_is_read_in_every_shape(hint, subset):
    on_headers, on_body = Stream(), Stream()
    on_headers.say(request_headers(subset=hint), request_body(BODY, end=True))
    on_body.say(
        request_headers(subset=None if hint is None else ["1.1.1.1"]), request_body(BODY), request_body(end=True, subset=hint)
    )
    assert on_headers.director.asked[0][0].subset == subset
    assert on_body.director.asked[0][0].subset == subset


# ---- the other body modes


def test_buffered_gets_the_destination_with_the_body():
    stream = Stream()
    (first,) = stream.say(request_headers(modes=(BUFFERED, BUFFERED)))
    assert first.WhichOneof("response") == "request_headers"
    assert not first.HasField("dynamic_metadata")
    assert (first.mode_override.request_body_mode, first.mode_override.response_body_mode) == (BUFFERED, NONE)
    (second,) = stream.say(request_body(BODY, end=True))
    assert picked(second, "request_body") == "10.0.0.1:8000"
    assert not second.request_body.response.HasField("body_mutation")


def test_buffered_with_a_new_model_sends_the_body_with_its_length():
    stream = Stream(StubDirector(lambda head, _: decision(head, target="longer", span=(9, 12))))
    _, answer = stream.say(request_headers(modes=(BUFFERED, FULL)), request_body(BODY, end=True))
    common = answer.request_body.response
    assert common.body_mutation.body == BODY.replace(b'"m"', b'"longer"')
    assert set_headers(common.header_mutation)["content-length"] == str(len(BODY) + 5)


def test_no_other_mode_is_asked_for_when_only_one_body_is_buffered_or_it_is_switched_off():
    assert not Stream().say(request_headers(modes=(BUFFERED, FULL)))[0].HasField("mode_override")
    assert not Stream(skip_response_body=False).say(request_headers(modes=(BUFFERED, BUFFERED)))[0].HasField("mode_override")


def test_buffered_with_trailers_only_is_refused():
    (first, second) = Stream().say(request_headers(modes=(BUFFERED, NONE)), REQUEST_TRAILERS)
    assert first.WhichOneof("response") == "request_headers"
    assert second.immediate_response.status.code == 400


def test_buffered_trailers_after_the_body_are_answered():
    stream = Stream()
    stream.say(request_headers(modes=(BUFFERED, NONE)), request_body(BODY))
    assert stream.director.asked[0][1] == BODY
    assert kinds(stream.say(REQUEST_TRAILERS)) == ["request_trailers"]


@pytest.mark.parametrize(("end", "seen"), [(True, BODY), (False, None)])
def test_a_body_cut_by_envoy_is_not_looked_at(end, seen):
    stream = Stream()
    _, answer = stream.say(request_headers(modes=(PARTIAL, NONE)), request_body(BODY, end=end))
    assert picked(answer, "request_body") == "10.0.0.1:8000"
    assert stream.director.asked[0][1] == seen


def test_streamed_is_picked_from_the_headers_and_each_chunk_is_answered():
    stream = Stream()
    (answer,) = stream.say(request_headers(modes=(STREAMED, STREAMED)))
    assert picked(answer) == "10.0.0.1:8000"
    answers = stream.say(request_body(b"a"), request_body(b"b", end=True), REQUEST_TRAILERS)
    assert kinds(answers) == ["request_body", "request_body", "request_trailers"]
    assert all(not answer.request_body.HasField("response") for answer in answers)
    answers = stream.say(response_headers(), response_body(b"x"), response_body(b"y", end=True))
    assert kinds(answers) == ["response_headers", "response_body", "response_body"]
    assert stream.end() == Outcome(end="complete", status=200, response_bytes=2)
    assert stream.director.first_tokens == 1


def test_streamed_chunks_that_come_early_wait_for_the_headers_answer():
    director = StubDirector()
    director.hold()
    stream = Stream(director)
    assert stream.say(request_headers(modes=(STREAMED, NONE)), request_body(b"a"), request_body(b"b", end=True)) == []
    director.release()
    assert kinds(stream.say()) == ["request_headers", "request_body", "request_body"]


def test_without_a_request_body_the_headers_decide():
    stream = Stream()
    (answer,) = stream.say(request_headers(modes=(NONE, NONE)))
    assert picked(answer) == "10.0.0.1:8000"
    assert kinds(stream.say(REQUEST_TRAILERS)) == ["request_trailers"]


def test_a_gateway_that_does_not_say_gets_full_duplex_unless_told_otherwise():
    assert streamed(Stream().say(request_headers(modes=None), request_body(BODY, end=True))) == (BODY, [True])
    plain = Stream(mode_default=BUFFERED)
    assert kinds(plain.say(request_headers(modes=None), request_body(BODY, end=True))) == ["request_headers", "request_body"]
    forced = Stream(mode_forced=BUFFERED).say(request_headers(modes=(FULL, FULL)))
    assert kinds(forced) == ["request_headers"]


# ---- waiting


def test_a_client_that_leaves_while_waiting_ends_the_wait():
    director = StubDirector()
    director.hold()
    stream = Stream(director)
    assert stream.say(request_headers(end=True)) == []
    stream.pump.end()
    assert director.cancelled == 1
    assert director.finished == []


def test_an_answer_of_envoy_ends_the_wait():
    director = StubDirector()
    director.hold()
    stream = Stream(director)
    stream.say(request_headers(), request_body(BODY, end=True))
    assert kinds(stream.say(local_reply("504"))) == ["response_headers"]
    assert director.cancelled == 1
    assert kinds(stream.say(response_body(b"late", end=True))) == ["response_body"]
    stream.pump.end()
    assert director.finished == []


def test_a_decision_that_comes_too_late_is_given_back():
    director = StubDirector()
    director.hold()
    stream = Stream(director)
    stream.say(request_headers(end=True))
    stream.pump.end()
    director.release()
    assert stream.say() == []
    assert director.outcomes == [Outcome(end="client-gone")]


def test_a_decision_that_comes_later_is_sent_then():
    director = StubDirector()
    director.hold()
    stream = Stream(director)
    assert stream.say(request_headers(), request_body(BODY, end=True), request_body(end=True)) == []
    director.release()
    assert streamed(stream.say()) == (BODY, [True])
    assert not stream.outlet.closed


def test_a_gateway_that_has_said_all_is_answered_all_the_same_and_then_the_stream_ends():
    director = StubDirector()
    director.hold()
    stream = Stream(director)
    stream.say(request_headers(modes=None), request_body(BODY, end=True))
    assert stream.pump.half_close()
    assert director.cancelled == 0
    director.release()
    assert streamed(stream.say()) == (BODY, [True])
    assert stream.outlet.closed
    assert stream.end().end == "released"


def test_a_gateway_that_has_said_all_and_was_answered_ends_the_stream():
    stream = Stream()
    stream.say(request_headers(modes=None), request_body(BODY, end=True))
    assert not stream.pump.half_close()
    assert stream.end().end == "released"


def test_an_envoy_that_has_said_all_while_we_decide_has_lost_its_client():
    director = StubDirector()
    director.hold()
    stream = Stream(director)
    stream.say(request_headers(), request_body(BODY, end=True))
    assert not stream.pump.half_close()
    stream.pump.end()
    assert director.cancelled == 1


# ---- errors


@pytest.mark.parametrize(
    ("error", "status", "text", "headers"),
    [
        (BadRequest("no model"), 400, b"inference error: BadRequest - no model", {}),
        (
            NoEndpoint("none", reason="rejected-no-endpoints"),
            503,
            b"inference error: ServiceUnavailable - none",
            {"x-llm-d-request-dropped-reason": "rejected-no-endpoints"},
        ),
        (
            Overloaded("full", reason="rejected-saturated", retry_after_s=2),
            429,
            b"inference error: ResourceExhausted - full",
            {"x-llm-d-request-dropped-reason": "rejected-saturated", "retry-after": "2"},
        ),
    ],
)
def test_a_refusal_becomes_an_http_answer(error, status, text, headers):
    stream = Stream(StubDirector(lambda *_: error))
    (answer,) = stream.say(request_headers(), request_body(BODY, end=True))
    immediate = answer.immediate_response
    assert (immediate.status.code, immediate.body, set_headers(immediate.headers)) == (status, text, headers)
    assert immediate.details.startswith("epp ")
    assert stream.outlet.closed
    stream.pump.end()
    assert stream.director.finished == []


class BrokenDirector(StubDirector):
    def schedule(self, head, body, answer):
        raise ZeroDivisionError


def test_a_defect_in_the_director_is_a_500(caplog):
    stream = Stream(BrokenDirector())
    (answer,) = stream.say(request_headers(end=True))
    assert answer.immediate_response.status.code == 500
    assert "went wrong" in caplog.text
    stream.pump.end()


def test_a_defect_in_the_account_escapes_nowhere(caplog):
    director = StubDirector()
    director.finish = lambda *_: 1 / 0
    stream = routed(director)
    stream.pump.end()
    assert "went wrong" in caplog.text


@pytest.mark.parametrize(
    "garbage", [b"\xff", b"\x22\xff", b"\x2a\x05\x0a\x7f", b"\x12\x03\x0a\x01", b"\x0a\xff\xff\xff\xff\xff\xff\xff"]
)
def test_garbage_is_a_500(garbage):
    stream = Stream()
    (answer,) = stream.say(garbage)
    assert answer.immediate_response.status.code == 500
    assert stream.outlet.closed


def test_garbage_after_the_pick_is_accounted_as_an_error():
    stream = routed()
    stream.say(b"\xff")
    assert stream.end() == Outcome(end="error", status=500)


def test_messages_that_say_nothing_known_are_ignored():
    stream = Stream()
    assert stream.say(b"", b"\xfa\x07\x01x", pb.ProcessingRequest(observability_mode=True).SerializeToString()) == []
    assert streamed(stream.say(request_headers(), request_body(BODY, end=True))) == (BODY, [True])


def test_a_message_out_of_turn_is_a_protocol_error():
    (answer,) = Stream().say(request_body(b"x"))
    assert answer.immediate_response.status.code == 500
    assert b"protocol error" in answer.immediate_response.body
    stream = routed()
    stream.say(request_headers())
    assert stream.end().end == "error"
