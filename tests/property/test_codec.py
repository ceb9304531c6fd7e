"""The framing written by hand, against protobuf."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from epp.errors import WireError
from epp.extproc.codec import CHUNK_BYTES_MAX, decode, encode, frame_chunk, split_body
from epp.extproc.events import RequestBody, ResponseBody, Side, StreamBody
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
