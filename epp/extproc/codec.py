"""Serialized ext_proc messages to events, and answers to serialized messages: the only importer of the generated classes.

Most messages are pieces of bodies, and they do not go through protobuf at all: their framing is a few bytes, read and written here
by hand, so that a chunk on its way costs a copy and not a parse. In Envoy's serialization the body comes first; whatever has not
exactly the shape that is read here takes the way through protobuf.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias, assert_never

from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Value

from epp.errors import RequestError, WireError
from epp.extproc.events import (
    Answer,
    AnswerBody,
    AnswerHeaders,
    AnswerTrailers,
    BodyMode,
    Event,
    Modes,
    Reject,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
    Route,
    Side,
    StreamBody,
)
from epp.model.request import RequestHead
from epp.pb import ext_proc_pb2 as pb

DESTINATION = "x-gateway-destination-endpoint"
SCORES = "x-gateway-destination-endpoint-scores"
SERVED = "x-gateway-destination-endpoint-served"
SUBSET = "x-gateway-destination-endpoint-subset"
NAMESPACE = "envoy.lb"
SUBSET_NAMESPACE = "envoy.lb.subset_hint"
DROP_REASON = "x-llm-d-request-dropped-reason"

CHUNK_BYTES_MAX = 62_000
"""Most body bytes in one message: some implementations refuse more than 64 KiB with the framing, the reference picker uses this."""

Bytes: TypeAlias = bytes | memoryview

_OVERWRITE = pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
# GRPC (5) is answered like full duplex, and so is what Envoy may yet invent.
_MODES = {int(mode): mode for mode in BodyMode}


# ---- decode


def decode(message: bytes) -> Event | None:
    """Return the event of one serialized ProcessingRequest, or None when it holds none that is known.

    Raises:
        WireError: the bytes are not such a message.
    """
    piece = split_body(message)
    if piece is not None:
        side, data, end = piece
        return ResponseBody(data, end) if side is Side.RESPONSE else RequestBody(data, end)  # type: ignore[arg-type]  # bytes there
    try:
        request = pb.ProcessingRequest.FromString(message)
    except DecodeError:
        raise WireError("not a ProcessingRequest") from None
    read = _READERS.get(request.WhichOneof("request") or "")
    return read(request) if read is not None else None


def split_body(message: bytes) -> tuple[Side, Bytes, bool] | None:
    """Return whose body a message carries a piece of, the piece and whether it is the last; None when there is more to read in it.

    What is taken is what Envoy 1.40 sends: `22|2a <length> [0a <length> <piece>] [10 01] [42 <length> <metadata>]`, that is,
    `request_body` or `response_body`, holding `body` and `end_of_stream`, and behind it `metadata_context`. That is often empty;
    of a response it is not read, of a request it may hold a subset hint.
    """
    side = _BODY_TAGS.get(message[:1])
    if side is None:
        return None
    try:
        length, at = _varint(message, 1)
        stop = at + length
        if stop != len(message) and not _unread(message, stop, side):
            return None
        data: Bytes = b""
        if at < stop and message[at] == 0x0A:
            length, start = _varint(message, at + 1)
            at = start + length
            # Pieces of a request are put together before anybody looks at them: no copy here.
            data = message[start:at] if side is Side.RESPONSE else memoryview(message)[start:at]
    except IndexError:
        return None
    if at == stop:
        return side, data, False
    return (side, data, True) if message[at:stop] == b"\x10\x01" else None


def _unread(message: bytes, at: int, side: Side) -> bool:
    """Whether metadata that nobody reads is all that follows from `at` on."""
    if message[at] != 0x42:
        return False
    length, start = _varint(message, at + 1)
    return start + length == len(message) and (length == 0 or side is Side.RESPONSE)


_BODY_TAGS = {b"\x22": Side.REQUEST, b"\x2a": Side.RESPONSE}


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return the number that starts at `at` and where the next field starts. Raises IndexError past the end."""
    byte = message[at]
    if byte < 0x80:
        return byte, at + 1
    value = shift = 0
    while byte >= 0x80:
        value |= (byte & 0x7F) << shift
        shift += 7
        at += 1
        byte = message[at]
        if shift > 28:  # not a length that Envoy sends; protobuf will say
            raise IndexError
    return value | byte << shift, at + 1


def _request_headers(request: pb.ProcessingRequest) -> RequestHeaders:
    headers = _headers(request.request_headers)
    # Gateways that are no Envoy may send no pseudo headers.
    path = headers.get(":path") or headers.get("x-original-path") or headers.get("x-forwarded-path") or "/"
    head = RequestHead(
        path=path,
        method=headers.get(":method", "POST"),
        headers=headers,
        subset=_subset(request),
        request_id=headers.get("x-request-id", ""),
    )
    return RequestHeaders(head, request.request_headers.end_of_stream, _modes(request))


def _response_headers(request: pb.ProcessingRequest) -> ResponseHeaders:
    headers = _headers(request.response_headers)
    status = headers.get(":status", "")
    served = _metadata(request, NAMESPACE, SERVED)
    return ResponseHeaders(
        int(status) if status.isascii() and status.isdigit() else 0,
        headers,
        request.response_headers.end_of_stream,
        served.string_value if served is not None else "",
        _modes(request),
    )


def _headers(message: pb.HttpHeaders) -> dict[str, str]:
    """Return the headers with lower-case names; Envoy sends `raw_value`, others `value`."""
    return {header.key.lower(): header.raw_value.decode("latin-1") or header.value for header in message.headers.headers}


def _modes(request: pb.ProcessingRequest) -> Modes | None:
    if not request.HasField("protocol_config"):
        return None
    config = request.protocol_config
    return Modes(
        _MODES.get(config.request_body_mode, BodyMode.FULL_DUPLEX), _MODES.get(config.response_body_mode, BodyMode.FULL_DUPLEX)
    )


def _metadata(request: pb.ProcessingRequest, namespace: str, key: str) -> Value | None:
    if not request.HasField("metadata_context"):
        return None
    spaces = request.metadata_context.filter_metadata
    if namespace not in spaces or key not in spaces[namespace].fields:
        return None
    return spaces[namespace].fields[key]


def _subset(request: pb.ProcessingRequest) -> tuple[str, ...] | None:
    """Return the subset hint: a list of strings, or one, each possibly several with commas between. None when there is no hint."""
    value = _metadata(request, SUBSET_NAMESPACE, SUBSET)
    if value is None:
        return None
    values = value.list_value.values if value.HasField("list_value") else [value]
    parts = (part.strip() for one in values for part in one.string_value.split(","))
    return tuple(part for part in parts if part)


_READERS: Mapping[str, Callable[[pb.ProcessingRequest], Event]] = {
    "request_headers": _request_headers,
    "request_body": lambda request: RequestBody(request.request_body.body, request.request_body.end_of_stream, _subset(request)),
    "request_trailers": lambda _: RequestTrailers(),
    "response_headers": _response_headers,
    "response_body": lambda request: ResponseBody(request.response_body.body, request.response_body.end_of_stream),
    "response_trailers": lambda _: ResponseTrailers(),
}


# ---- encode


def encode(answer: Answer) -> Sequence[bytes]:
    """Return the serialized ProcessingResponses that make up one answer: one, or as many as its body has chunks."""
    match answer:
        case StreamBody():
            return _stream(answer)
        case AnswerHeaders():
            return (_plain_headers(answer) if _repeats(answer) else _encode_headers(answer),)
        case AnswerBody():
            return (_encode_body(answer),)
        case AnswerTrailers():
            return (_TRAILERS[answer.side],)
        case Reject():
            return (_encode_reject(answer.error),)
        case _:
            assert_never(answer)


def _stream(answer: StreamBody) -> Sequence[bytes]:
    """Return a body as messages of at most CHUNK_BYTES_MAX; the last one carries the end. Nothing for nothing."""
    data, side, size = answer.data, answer.side, len(answer.data)
    if size <= CHUNK_BYTES_MAX:
        return (frame_chunk(side, data, end=answer.end),) if data or answer.end else ()
    view = memoryview(data)
    return [
        frame_chunk(side, view[start : start + CHUNK_BYTES_MAX], end=answer.end and start + CHUNK_BYTES_MAX >= size)
        for start in range(0, size, CHUNK_BYTES_MAX)
    ]


def frame_chunk(side: Side, chunk: Bytes, *, end: bool) -> bytes:
    """Return one serialized ProcessingResponse with a `streamed_response`. Cost: one copy of the chunk."""
    prefix, suffix = _frame(side is Side.REQUEST, len(chunk), end)
    return b"".join((prefix, chunk, suffix))


@lru_cache(maxsize=4096)
def _frame(request: bool, size: int, end: bool) -> tuple[bytes, bytes]:
    """Return what stands before and after a chunk of `size` bytes.

    It is the `body` of a StreamedBodyResponse in a BodyMutation in a CommonResponse in a BodyResponse in a ProcessingResponse.
    """
    prefix = b"\x0a" + _encode_varint(size) if size else b""
    suffix = b"\x10\x01" if end else b""
    for tag in (b"\x1a", b"\x1a", b"\x0a", b"\x1a" if request else b"\x22"):
        prefix = tag + _encode_varint(len(prefix) + size + len(suffix)) + prefix
    return prefix, suffix


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _repeats(answer: AnswerHeaders) -> bool:
    """Whether the same answer is likely to be given again: it says no more than the endpoint's address."""
    return not answer.headers and (answer.route is None or not (answer.route.headers or answer.route.scores))


def _encode_headers(answer: AnswerHeaders) -> bytes:
    response = pb.ProcessingResponse()
    part = response.request_headers if answer.side is Side.REQUEST else response.response_headers
    part.SetInParent()
    if answer.headers:
        _set_headers(part.response.header_mutation, answer.headers)
    if answer.remove:
        part.response.header_mutation.remove_headers.extend(answer.remove)
    if answer.route is not None:
        _apply_route(response, part.response, answer.route)
    if answer.modes is not None:
        response.mode_override.request_body_mode = answer.modes.request.value  # type: ignore[assignment]  # an int to protobuf
        response.mode_override.response_body_mode = answer.modes.response.value  # type: ignore[assignment]
    return response.SerializeToString()


_plain_headers = lru_cache(maxsize=4096)(_encode_headers)


def _encode_body(answer: AnswerBody) -> bytes:
    response = pb.ProcessingResponse()
    part = response.request_body if answer.side is Side.REQUEST else response.response_body
    part.SetInParent()
    if answer.route is not None:
        _apply_route(response, part.response, answer.route)
    if answer.body is not None:
        # Without the new length Envoy answers 500 for a mismatch.
        _set_headers(part.response.header_mutation, (("content-length", str(len(answer.body))),))
        part.response.body_mutation.body = answer.body
    return response.SerializeToString()


def _apply_route(response: pb.ProcessingResponse, common: pb.CommonResponse, route: Route) -> None:
    """Set the destination as header and as metadata, since some gateways read only the one and some only the other."""
    mutation = common.header_mutation
    _set_headers(mutation, ((DESTINATION, route.destination), *route.headers))
    mutation.remove_headers.extend(route.remove)
    common.clear_route_cache = True
    fields = response.dynamic_metadata.fields[NAMESPACE].struct_value.fields
    fields[DESTINATION].string_value = route.destination
    for endpoint, score in route.scores:
        fields[SCORES].struct_value.fields[endpoint].number_value = score


def _set_headers(mutation: pb.HeaderMutation, headers: Sequence[tuple[str, str]]) -> None:
    """Set headers by `raw_value`: Envoy makes an empty header of `value`."""
    for name, value in headers:
        option = mutation.set_headers.add(append_action=_OVERWRITE)
        option.header.key = name
        option.header.raw_value = _raw(value)


def _raw(value: str) -> bytes:
    """Return a header value as it came; what is not latin-1 came as text."""
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        return value.encode(errors="replace")


def _encode_reject(error: RequestError) -> bytes:
    response = pb.ProcessingResponse()
    immediate = response.immediate_response
    immediate.status.code = error.status
    immediate.body = f"inference error: {error.code} - {error.message}".encode(errors="replace")
    immediate.details = f"epp {error.reason or error.code}"
    if error.reason:
        _set_headers(immediate.headers, ((DROP_REASON, error.reason),))
    if error.retry_after_s is not None:
        _set_headers(immediate.headers, (("retry-after", str(error.retry_after_s)),))
    return response.SerializeToString()


_TRAILERS = {
    Side.REQUEST: pb.ProcessingResponse(request_trailers=pb.TrailersResponse()).SerializeToString(),
    Side.RESPONSE: pb.ProcessingResponse(response_trailers=pb.TrailersResponse()).SerializeToString(),
}
