"""Our definitions against an independent codec of Envoy's API: envoy-data-plane, pure Python, generated from Envoy's own protos.

A message made by either side is taken in by the other and given out again as the same bytes.
"""

from datetime import timedelta

import pytest
from betterproto2 import Message
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.filters.http.ext_proc import v3 as filters
from envoy_data_plane.envoy.service.ext_proc import v3 as envoy
from envoy_data_plane.envoy.type import v3 as types
from envoy_data_plane.google.protobuf import ListValue, Struct, Value
from hypothesis import given
from hypothesis import strategies as st

from epp.pb import ext_proc_pb2 as pb

TEXT = st.text(max_size=12)
BYTES = st.binary(max_size=40)
FLAGS = st.booleans()
MODES = st.sampled_from(list(filters.ProcessingModeBodySendMode))
SENDS = st.sampled_from(list(filters.ProcessingModeHeaderSendMode))


def made(kind: type[Message], **fields: st.SearchStrategy) -> st.SearchStrategy:
    return st.builds(kind, **fields)


def maybe(strategy: st.SearchStrategy) -> st.SearchStrategy:
    return st.none() | strategy


def one_of(kind: type[Message], **fields: st.SearchStrategy) -> st.SearchStrategy:
    """A message of which one field of a oneof is set, or none."""
    return st.one_of(st.builds(kind), *(st.builds(kind, **{name: strategy}) for name, strategy in fields.items()))


SCALARS = one_of(Value, string_value=TEXT, number_value=st.floats(allow_nan=False), bool_value=FLAGS)
LISTS = made(ListValue, values=st.lists(SCALARS, max_size=3))
# One field a map: beyond that their order on the wire is nobody's promise.
FLAT = made(Struct, fields=st.dictionaries(TEXT, SCALARS | st.builds(Value, list_value=LISTS), max_size=1))
STRUCTS = FLAT | made(Struct, fields=st.dictionaries(TEXT, st.builds(Value, struct_value=FLAT), max_size=1))
METADATA = made(core.Metadata, filter_metadata=st.dictionaries(TEXT, STRUCTS, max_size=1))

HEADER = made(core.HeaderValue, key=TEXT, value=TEXT, raw_value=BYTES)
HEADER_MAP = made(core.HeaderMap, headers=st.lists(HEADER, max_size=4))
HTTP_HEADERS = made(envoy.HttpHeaders, headers=maybe(HEADER_MAP), end_of_stream=FLAGS)
CHUNK = {"body": BYTES, "end_of_stream": FLAGS, "end_of_stream_without_message": FLAGS, "grpc_message_compressed": FLAGS}
HTTP_BODY = made(envoy.HttpBody, **CHUNK)
HTTP_TRAILERS = made(envoy.HttpTrailers, trailers=maybe(HEADER_MAP))

MUTATION = made(
    envoy.HeaderMutation,
    set_headers=st.lists(
        made(
            core.HeaderValueOption,
            header=maybe(HEADER),
            append=maybe(FLAGS),
            append_action=st.sampled_from(list(core.HeaderValueOptionHeaderAppendAction)),
            keep_empty_value=FLAGS,
        ),
        max_size=3,
    ),
    remove_headers=st.lists(TEXT, max_size=3),
)
STREAMED = made(envoy.StreamedBodyResponse, **CHUNK)
COMMON = made(
    envoy.CommonResponse,
    status=st.sampled_from(list(envoy.CommonResponseResponseStatus)),
    header_mutation=maybe(MUTATION),
    body_mutation=maybe(one_of(envoy.BodyMutation, body=BYTES, clear_body=FLAGS, streamed_response=STREAMED)),
    trailers=maybe(HEADER_MAP),
    clear_route_cache=FLAGS,
)
IMMEDIATE = made(
    envoy.ImmediateResponse,
    status=maybe(made(types.HttpStatus, code=st.sampled_from(list(types.StatusCode)))),
    headers=maybe(MUTATION),
    body=BYTES,
    grpc_status=maybe(made(envoy.GrpcStatus, status=st.integers(0, 2**32 - 1))),
    details=TEXT,
)


@st.composite
def requests(draw: st.DrawFn) -> envoy.ProcessingRequest:
    message = draw(
        one_of(
            envoy.ProcessingRequest,
            request_headers=HTTP_HEADERS,
            response_headers=HTTP_HEADERS,
            request_body=HTTP_BODY,
            response_body=HTTP_BODY,
            request_trailers=HTTP_TRAILERS,
            response_trailers=HTTP_TRAILERS,
        )
    )
    message.metadata_context = draw(maybe(METADATA))
    message.attributes = draw(st.dictionaries(TEXT, STRUCTS, max_size=1))
    message.observability_mode = draw(FLAGS)
    message.protocol_config = draw(
        maybe(
            made(
                envoy.ProtocolConfiguration,
                request_body_mode=MODES,
                response_body_mode=MODES,
                send_body_without_waiting_for_header_response=FLAGS,
            )
        )
    )
    return message


@st.composite
def responses(draw: st.DrawFn) -> envoy.ProcessingResponse:
    headers, body = made(envoy.HeadersResponse, response=maybe(COMMON)), made(envoy.BodyResponse, response=maybe(COMMON))
    trailers = made(envoy.TrailersResponse, header_mutation=maybe(MUTATION))
    message = draw(
        one_of(
            envoy.ProcessingResponse,
            request_headers=headers,
            response_headers=headers,
            request_body=body,
            response_body=body,
            request_trailers=trailers,
            response_trailers=trailers,
            immediate_response=IMMEDIATE,
            streamed_immediate_response=one_of(
                envoy.StreamedImmediateResponse, headers_response=HTTP_HEADERS, body_response=STREAMED, trailers_response=HEADER_MAP
            ),
        )
    )
    message.dynamic_metadata = draw(maybe(STRUCTS))
    message.mode_override = draw(
        maybe(
            made(
                filters.ProcessingMode,
                request_header_mode=SENDS,
                response_header_mode=SENDS,
                request_body_mode=MODES,
                response_body_mode=MODES,
                request_trailer_mode=SENDS,
                response_trailer_mode=SENDS,
            )
        )
    )
    message.override_message_timeout = draw(maybe(st.integers(1, 10**6).map(lambda seconds: timedelta(seconds=seconds))))
    message.request_drain = draw(FLAGS)
    return message


def agree(theirs: Message, ours: type) -> None:
    """Assert that bytes of either codec come out of the other unchanged, with nothing in them that ours does not know."""
    wire = bytes(theirs)
    taken = ours.FromString(wire)
    given_out = taken.SerializeToString(deterministic=True)
    assert given_out == _in_field_order(wire)
    taken.DiscardUnknownFields()
    assert taken.SerializeToString(deterministic=True) == given_out
    assert bytes(type(theirs).parse(given_out)) == wire


def _in_field_order(wire: bytes) -> bytes:
    """Return a message with its top-level fields by number: betterproto2 writes them as its class lists them."""
    fields, at = [], 0
    while at < len(wire):
        start = at
        tag, at = _number(wire, at)
        if tag & 7 == 2:
            size, at = _number(wire, at)
            at += size
        else:
            assert tag & 7 == 0
            _, at = _number(wire, at)
        fields.append((tag >> 3, wire[start:at]))
    return b"".join(field for _, field in sorted(fields, key=lambda field: field[0]))


def _number(wire: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (wire[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if wire[at - 1] < 0x80:
            return value, at


@given(requests())
def test_what_envoy_sends(message):
    agree(message, pb.ProcessingRequest)


@pytest.mark.filterwarnings("ignore:HeaderValueOption.append is deprecated")
@given(responses())
def test_what_envoy_is_sent(message):
    agree(message, pb.ProcessingResponse)
