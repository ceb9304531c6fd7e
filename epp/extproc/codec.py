"""Serialized ext_proc messages to events, and answers to serialized messages; with `fast_decode` all that knows generated classes.

What comes most often does not go through protobuf: pieces of bodies and headers as Envoy sends them are read by `fast_decode`, and
the few bytes around a chunk that goes back are written by hand.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import assert_never

from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Value

from epp.errors import RequestError, WireError
from epp.extproc.events import (
    Answer,
    AnswerBody,
    AnswerHeaders,
    AnswerTrailers,
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
from epp.extproc.fast_decode import Bytes, modes_of, read_field, split_body, split_headers
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

_OVERWRITE = pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


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
    headers = split_headers(message)
    if headers is not None:
        side, fields, end, modes = headers
        return _request_headers(fields, None, end, modes) if side is Side.REQUEST else _response_headers(fields, "", end, modes)
    try:
        request = pb.ProcessingRequest.FromString(message)
    except DecodeError:
        raise WireError("not a ProcessingRequest") from None
    read = _READERS.get(request.WhichOneof("request") or "")
    return read(request) if read is not None else None


def _request_headers(fields: dict[str, str], subset: tuple[str, ...] | None, end: bool, modes: Modes | None) -> RequestHeaders:
    get = fields.get
    head = RequestHead(
        # Gateways that are no Envoy may send no pseudo headers.
        path=get(":path") or get("x-original-path") or get("x-forwarded-path") or "/",
        method=get(":method", "POST"),
        headers=fields,
        subset=subset,
        request_id=get("x-request-id", ""),
    )
    return RequestHeaders(head, end, modes)


def _response_headers(fields: dict[str, str], served: str, end: bool, modes: Modes | None) -> ResponseHeaders:
    status = fields.get(":status", "")
    return ResponseHeaders(int(status) if status.isascii() and status.isdigit() else 0, fields, end, served, modes)


def _read_request_headers(request: pb.ProcessingRequest) -> RequestHeaders:
    return _request_headers(
        _fields(request.request_headers), _subset(request), request.request_headers.end_of_stream, _modes(request)
    )


def _read_response_headers(request: pb.ProcessingRequest) -> ResponseHeaders:
    found = _metadata(request, NAMESPACE, SERVED)
    served = found.string_value if found is not None else ""
    return _response_headers(_fields(request.response_headers), served, request.response_headers.end_of_stream, _modes(request))


def _fields(message: pb.HttpHeaders) -> dict[str, str]:
    return dict(map(read_field, message.headers.headers))


def _modes(request: pb.ProcessingRequest) -> Modes | None:
    return modes_of(request.protocol_config) if request.HasField("protocol_config") else None


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
    "request_headers": _read_request_headers,
    "request_body": lambda request: RequestBody(request.request_body.body, request.request_body.end_of_stream, _subset(request)),
    "request_trailers": lambda _: RequestTrailers(),
    "response_headers": _read_response_headers,
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
