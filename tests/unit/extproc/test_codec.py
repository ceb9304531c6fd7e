"""Messages to events and answers to messages, where the pump's tests do not look."""

import pytest

from epp.errors import WireError
from epp.extproc.codec import CHUNK_BYTES_MAX, decode, encode
from epp.extproc.events import (
    AnswerHeaders,
    BodyMode,
    RequestBody,
    RequestHeaders,
    ResponseBody,
    ResponseHeaders,
    Route,
    Side,
    StreamBody,
)
from epp.extproc.fast_decode import split_body
from epp.pb import ext_proc_pb2 as pb


def headers(**fields) -> pb.ProcessingRequest:
    message = pb.ProcessingRequest()
    for key, value in fields.items():
        message.request_headers.headers.headers.add(key=key, **value)
    message.request_headers.SetInParent()
    return message


def test_header_values_come_raw_or_as_text_and_names_in_any_case():
    event = decode(
        headers(A={"raw_value": b"1"}, b={"value": "2"}, c={"raw_value": b"\xe9"}, a={"raw_value": b"3"}).SerializeToString()
    )
    assert isinstance(event, RequestHeaders)
    assert event.head.headers == {"a": "3", "b": "2", "c": "\xe9"}
    assert (event.head.path, event.head.method, event.end, event.modes) == ("/", "POST", False, None)


def test_the_path_is_taken_from_where_a_gateway_without_pseudo_headers_puts_it():
    message = headers(**{"X-Original-Path": {"value": "/v1/messages"}})
    assert decode(message.SerializeToString()).head.path == "/v1/messages"


@pytest.mark.parametrize(
    ("number", "mode"),
    [
        (0, BodyMode.NONE),
        (1, BodyMode.STREAMED),
        (3, BodyMode.BUFFERED_PARTIAL),
        (5, BodyMode.FULL_DUPLEX),
        (9, BodyMode.FULL_DUPLEX),
    ],
)
def test_modes(number, mode):
    message = headers()
    message.protocol_config.request_body_mode = number
    modes = decode(message.SerializeToString()).modes
    assert (modes.request, modes.response) == (mode, BodyMode.NONE)


@pytest.mark.parametrize(("text", "status"), [("200", 200), ("", 0), ("abc", 0), ("-1", 0), ("²", 0)])
def test_status(text, status):
    message = pb.ProcessingRequest()
    message.response_headers.headers.headers.add(key=":status", value=text)
    event = decode(message.SerializeToString())
    assert isinstance(event, ResponseHeaders)
    assert event.status == status


def with_metadata(message: pb.ProcessingRequest, *, empty: bool = False) -> bytes:
    message.metadata_context.SetInParent()
    if not empty:
        message.metadata_context.filter_metadata["envoy.lb"].fields["x-gateway-destination-endpoint"].string_value = "1.1.1.1:1"
    return message.SerializeToString()


def test_metadata_behind_a_piece_is_stepped_over_where_nobody_reads_it():
    response = pb.ProcessingRequest(response_body=pb.HttpBody(body=b"x", end_of_stream=True))
    assert split_body(with_metadata(response, empty=True)) == (Side.RESPONSE, b"x", True)
    assert split_body(with_metadata(response)) == (Side.RESPONSE, b"x", True)
    request = pb.ProcessingRequest(request_body=pb.HttpBody(body=b"x"))
    assert split_body(with_metadata(request, empty=True)) == (Side.REQUEST, b"x", False)
    assert split_body(with_metadata(request)) is None
    assert decode(with_metadata(request)) == RequestBody(b"x", False)


def test_what_else_a_piece_may_come_with_is_read_by_protobuf():
    for message in (
        pb.ProcessingRequest(response_body=pb.HttpBody(body=b"x", grpc_message_compressed=True)),
        pb.ProcessingRequest(response_body=pb.HttpBody(body=b"x"), observability_mode=True),
    ):
        assert split_body(message.SerializeToString()) is None
        assert decode(message.SerializeToString()) == ResponseBody(b"x", False)


def test_an_explicit_false_or_empty_field_is_read_too():
    assert decode(b"\x2a\x04\x0a\x00\x10\x00") == ResponseBody(b"", False)
    assert decode(b"\x2a\x04\x0a\x00\x10\x01") == ResponseBody(b"", True)
    assert decode(b"\x2a\x00") == ResponseBody(b"", False)


@pytest.mark.parametrize(
    "garbage", [b"\x2a", b"\x2a\x80", b"\x2a\x85\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", b"\x2a\x03\x0a\x09x"]
)
def test_what_is_no_message_is_a_wire_error(garbage):
    with pytest.raises(WireError):
        decode(garbage)


def test_a_long_body_is_cut_and_ends_once():
    data = bytes(CHUNK_BYTES_MAX * 2 + 1)
    messages = encode(StreamBody(Side.RESPONSE, data, True))
    chunks = [pb.ProcessingResponse.FromString(m).response_body.response.body_mutation.streamed_response for m in messages]
    assert [len(chunk.body) for chunk in chunks] == [CHUNK_BYTES_MAX, CHUNK_BYTES_MAX, 1]
    assert [chunk.end_of_stream for chunk in chunks] == [False, False, True]


def test_nothing_is_sent_for_nothing():
    assert encode(StreamBody(Side.RESPONSE, b"", False)) == ()


def test_equal_answers_are_encoded_once_and_different_ones_are_different():
    one = encode(AnswerHeaders(Side.REQUEST, Route("1.1.1.1:1")))
    assert encode(AnswerHeaders(Side.REQUEST, Route("1.1.1.1:1")))[0] is one[0]
    others = {encode(AnswerHeaders(Side.REQUEST, route))[0] for route in (Route("1.1.1.1:2"), Route("1.1.1.1:1", ("x",)), None)}
    others.add(encode(AnswerHeaders(Side.RESPONSE))[0])
    assert len(others | {one[0]}) == 5


def test_header_values_go_back_as_they_came():
    answer = AnswerHeaders(Side.RESPONSE, headers=(("a", "\xe9"), ("b", "€")))
    mutation = pb.ProcessingResponse.FromString(encode(answer)[0]).response_headers.response.header_mutation
    assert [option.header.raw_value for option in mutation.set_headers] == [b"\xe9", "€".encode()]
