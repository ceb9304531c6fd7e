"""The framing written by hand, against protobuf."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from epp.errors import WireError
from epp.extproc.codec import CHUNK_BYTES_MAX, decode, encode, frame_chunk
from epp.extproc.events import BodyMode, Modes, RequestBody, RequestHeaders, ResponseBody, ResponseHeaders, Side, StreamBody
from epp.extproc.fast_decode import HEADER_KEPT_BYTES, split_body, split_headers
from epp.pb import ext_proc_pb2 as pb

# Sizes around every change of a length's length, without making Hypothesis draw the bytes.
SIZES = st.one_of(st.integers(0, 300), st.integers(16_300, 16_500), st.integers(CHUNK_BYTES_MAX - 40, CHUNK_BYTES_MAX))
BODIES = st.one_of(st.binary(max_size=50), SIZES.map(bytes))
SIDES = st.sampled_from(Side)


def reply(side: Side, data: bytes, end: bool) -> pb.ProcessingResponse:
    """Return, made by protobuf, the answer that carries a chunk."""
    chunk = pb.StreamedBodyResponse(body=data, end_of_stream=end)
    body = pb.BodyResponse(response=pb.CommonResponse(body_mutation=pb.BodyMutation(streamed_response=chunk)))
    return pb.ProcessingResponse(**{"request_body" if side is Side.REQUEST else "response_body": body})


# What Envoy puts behind: nothing, empty metadata, or what it forwards of a request.
METADATA = st.none() | st.dictionaries(st.sampled_from(["envoy.lb", "other"]), st.text(max_size=60), max_size=2)


def request(side: Side, data: bytes, end: bool, metadata: dict[str, str] | None = None) -> bytes:
    body = pb.HttpBody(body=data, end_of_stream=end)
    message = pb.ProcessingRequest(**{"request_body" if side is Side.REQUEST else "response_body": body})
    if metadata is not None:
        message.metadata_context.SetInParent()
        for namespace, value in metadata.items():
            message.metadata_context.filter_metadata[namespace].fields["key"].string_value = value
    return message.SerializeToString()


@given(SIDES, BODIES, st.booleans())
def test_a_chunk_is_framed_as_protobuf_would(side, data, end):
    assert frame_chunk(side, data, end=end) == reply(side, data, end).SerializeToString()


@given(SIDES, BODIES, st.booleans(), METADATA)
def test_a_piece_is_read_as_protobuf_would(side, data, end, metadata):
    message = request(side, data, end, metadata)
    if side is Side.RESPONSE or not metadata:
        assert split_body(message) == (side, data, end)
    event = decode(message)
    assert (type(event), event.data, event.end) == (RequestBody if side is Side.REQUEST else ResponseBody, data, end)


@given(SIDES, st.integers(0, 400_000), st.booleans())
def test_a_long_body_comes_out_whole(side, size, end):
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    chunks = []
    for message in encode(StreamBody(side, data, end)):
        response = pb.ProcessingResponse.FromString(message)
        part = response.request_body if side is Side.REQUEST else response.response_body
        chunks.append(part.response.body_mutation.streamed_response)
    assert b"".join(chunk.body for chunk in chunks) == data
    assert all(len(chunk.body) <= CHUNK_BYTES_MAX for chunk in chunks)
    assert [chunk.end_of_stream for chunk in chunks] == [False] * (len(chunks) - 1) + [end] * bool(chunks)
    assert chunks or not (data or end)


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """A message with some bytes changed, cut or added: garbage that nearly is none."""
    message = bytearray(request(draw(SIDES), draw(st.binary(max_size=20)), draw(st.booleans()), draw(METADATA)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(message)))
        message[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=3))
    return bytes(message)


@given(st.one_of(st.binary(max_size=60), mangled()))
@example(b"\x2a\x80\x00")
@example(b"\x2a\x03\x0a\x81\x00")
@example(b"\x22\x04\x0a\x00\x10\x01\x22\x00")
@example(b"\x2a\x02\x0a\x01\x42\x00")
def test_garbage_is_read_as_protobuf_reads_it(message):
    try:
        parsed = pb.ProcessingRequest.FromString(message)
    except DecodeError:
        piece = split_body(message)
        if piece is not None:  # nonsense in metadata that nobody reads
            assert b"\x42" in message
            assert piece[0] is Side.RESPONSE
            return
        with pytest.raises(WireError):
            decode(message)
        return
    event = decode(message)
    match parsed.WhichOneof("request"):
        case "request_body":
            assert isinstance(event, RequestBody)
            assert (event.data, event.end) == (parsed.request_body.body, parsed.request_body.end_of_stream)
        case "response_body":
            assert event == ResponseBody(parsed.response_body.body, parsed.response_body.end_of_stream)
        case None:
            assert event is None
        case _:
            assert event is not None


FIELDS = st.lists(
    st.tuples(
        st.sampled_from([":path", "X-Request-Id", "x-request-id", "authorization", "cookie"]) | st.text(max_size=20),
        st.binary(max_size=40) | st.sampled_from([b"", b"y" * 130, b"z" * HEADER_KEPT_BYTES, bytes(20_000)]),
        st.text(max_size=5),
    ),
    max_size=6,
)
MODES = st.none() | st.tuples(st.integers(0, 7), st.integers(0, 7))


def headers(side: Side, fields, end: bool, modes, metadata: dict[str, str] | None) -> pb.ProcessingRequest:
    message = pb.ProcessingRequest()
    part = message.request_headers if side is Side.REQUEST else message.response_headers
    part.SetInParent()
    part.end_of_stream = end
    for key, raw, value in fields:
        part.headers.headers.add(key=key, raw_value=raw, value=value)
    if modes is not None:
        message.protocol_config.SetInParent()
        message.protocol_config.request_body_mode, message.protocol_config.response_body_mode = modes
    if metadata is not None:
        message.metadata_context.SetInParent()
        for namespace, value in metadata.items():
            message.metadata_context.filter_metadata[namespace].fields["key"].string_value = value
    return message


def mode(number: int) -> BodyMode:
    return BodyMode(number) if number < 5 else BodyMode.FULL_DUPLEX


@given(SIDES, FIELDS, st.booleans(), MODES, METADATA)
def test_headers_are_read_as_protobuf_would(side, fields, end, modes, metadata):
    message = headers(side, fields, end, modes, metadata).SerializeToString()
    expected = {key.lower(): raw.decode("latin-1") or value for key, raw, value in fields}
    said = None if modes is None else Modes(mode(modes[0]), mode(modes[1]))
    found = split_headers(message)
    if metadata:
        assert found is None
    elif fields:
        assert found is not None
    event = decode(message)
    assert isinstance(event, RequestHeaders if side is Side.REQUEST else ResponseHeaders)
    assert (event.head.headers if side is Side.REQUEST else event.headers) == expected
    assert (event.end, event.modes) == (end, said)


@given(SIDES, FIELDS, MODES, st.integers(0, 400), st.binary(max_size=3), st.integers(0, 3))
def test_headers_that_are_broken_mean_what_protobuf_takes_them_for(side, fields, modes, at, patch, cut):
    whole = headers(side, fields, False, modes, None).SerializeToString()
    message = whole[:at] + patch + whole[at + cut :]
    found = split_headers(message)
    if found is None:
        return
    parsed = pb.ProcessingRequest.FromString(message)  # what is read by hand is no garbage to protobuf
    part = parsed.request_headers if found.side is Side.REQUEST else parsed.response_headers
    assert found.fields == {one.key.lower(): one.raw_value.decode("latin-1") or one.value for one in part.headers.headers}
    assert found.end == part.end_of_stream
    assert (found.modes is not None) == parsed.HasField("protocol_config")
