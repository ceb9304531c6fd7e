"""What a stream costs without transport and without decision: bytes of Envoy's messages to bytes of our answers.

The director is a stand-in that answers at once with a decision made beforehand. The floor of each row is what protobuf alone needs
to parse the same messages and to serialize the same answers.
"""

from collections.abc import Callable

import numpy as np

from epp.extproc.pump import Pump
from epp.model.decision import Decision, Outcome, ScoreSheet
from epp.model.endpoint import Endpoint
from epp.model.request import Api, InferenceRequest, RequestHead
from epp.pb import ext_proc_pb2 as pb
from tests.bench.frame import Row, cpu_us

# As Envoy sends them for a curl behind it.
HEADERS = {
    ":authority": "llm.example.com",
    ":path": "/v1/chat/completions",
    ":method": "POST",
    ":scheme": "http",
    "user-agent": "curl/8.5.0",
    "accept": "*/*",
    "content-type": "application/json",
    "authorization": "Bearer 0123456789abcdef0123456789abcdef",
    "x-forwarded-for": "10.244.0.1",
    "x-forwarded-proto": "http",
    "x-envoy-external-address": "10.244.0.1",
    "x-request-id": "6b0d3ee9-6f0c-4d8f-8d9e-3f6a1f4a2b11",
}
PIECE_BYTES = 32 << 10
"""What Envoy reads from a socket at once, and so sends in one message."""
SSE_CHUNK = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","model":"m","choices":[{"delta":{"content":" token"}}]}\n\n'


class _Outlet:
    """Drops what is sent."""

    def send(self, message: bytes) -> None:
        self.last = message

    def close(self) -> None: ...

    def fail(self, code: int, message: str) -> None: ...

    def pending_bytes(self) -> int:
        return 0


class _Director:
    """Always the same answer."""

    def __init__(self) -> None:
        endpoint = Endpoint(name="pool/a", address="10.0.0.1", port=8000)
        slots = np.array([0])
        sheet = ScoreSheet(profile="default", slots=slots, totals=np.array([1.0]), endpoints=(endpoint,), candidates=slots)
        request = InferenceRequest(head=RequestHead(), api=Api.CHAT, model="m", target_model="m")
        self._decision = Decision(request=request, endpoint=endpoint, slot=0, sheet=sheet)

    def schedule(self, head, body, answer):
        answer(self._decision)

    def first_token(self, decision: Decision) -> None: ...

    def finish(self, decision: Decision, outcome: Outcome) -> None: ...


def measure(*, quick: bool = False) -> list[Row]:
    """Return the rows of this bench; `quick` proves that it runs, its figures mean little."""
    number, rounds = (50, 1) if quick else (2000, 7)
    rows = []
    for size, target in ((2_000, 35.0), (20_000, None), (200_000, None)):
        messages = request_messages(size)
        rows.append(
            Row(
                name=f"request phase, {size // 1000} kB body, {len(messages)} messages",
                value=cpu_us(_request_phase(messages), number=max(20, number * 2_000 // size), rounds=rounds),
                floor=cpu_us(_protobuf_floor(messages), number=max(20, number * 2_000 // size), rounds=rounds),
                floor_name="protobuf parse + serialize",
                target=target,
            )
        )
    for name, chunk in (("SSE chunk of 120 B", SSE_CHUNK), ("response chunk of 32 kB", bytes(PIECE_BYTES))):
        message = response_message(chunk)
        rows.append(
            Row(
                name=f"{name}, echoed",
                value=cpu_us(_echo(message), number=number * 5, rounds=rounds),
                floor=cpu_us(_protobuf_echo(message), number=number * 5, rounds=rounds),
                floor_name="protobuf parse + serialize",
                target=5.0 if chunk is SSE_CHUNK else None,
            )
        )
    return rows


def response_message(chunk: bytes) -> bytes:
    """Return a piece of a response as Envoy sends it: with the metadata that it forwards in every message."""
    message = pb.ProcessingRequest(response_body=pb.HttpBody(body=chunk))
    fields = message.metadata_context.filter_metadata["envoy.lb"].fields
    for key in ("x-gateway-destination-endpoint", "x-gateway-destination-endpoint-served"):
        fields[key].string_value = "10.0.0.1:8000"
    return message.SerializeToString()


def request_messages(size: int) -> list[bytes]:
    """Return a full-duplex request of `size` body bytes as Envoy sends it: headers, pieces of the body, an empty end."""
    first = pb.ProcessingRequest()
    first.protocol_config.request_body_mode = first.protocol_config.response_body_mode = pb.FULL_DUPLEX_STREAMED
    for key, value in HEADERS.items():
        first.request_headers.headers.headers.add(key=key, raw_value=value.encode())
    body = b"x" * size
    pieces = [body[start : start + PIECE_BYTES] for start in range(0, size, PIECE_BYTES)]
    bodies = [pb.HttpBody(body=piece) for piece in pieces] + [pb.HttpBody(end_of_stream=True)]
    messages = [first, *(pb.ProcessingRequest(request_body=one) for one in bodies)]
    for message in messages:
        message.metadata_context.SetInParent()
    return [message.SerializeToString() for message in messages]


def _request_phase(messages: list[bytes]) -> Callable[[], object]:
    outlet, director = _Outlet(), _Director()

    def run() -> None:
        pump = Pump(outlet, director)
        for message in messages:
            pump.receive(message)

    return run


def _protobuf_floor(messages: list[bytes]) -> Callable[[], object]:
    answers: list[bytes] = []
    outlet = _Outlet()
    outlet.send = answers.append  # type: ignore[method-assign]
    pump = Pump(outlet, _Director())
    for message in messages:
        pump.receive(message)
    parsed = [pb.ProcessingResponse.FromString(answer) for answer in answers]

    def run() -> None:
        for message in messages:
            pb.ProcessingRequest.FromString(message)
        for answer in parsed:
            answer.SerializeToString()

    return run


def _echo(message: bytes) -> Callable[[], object]:
    pump = Pump(_Outlet(), _Director())
    for one in request_messages(100):
        pump.receive(one)
    return lambda: pump.receive(message)


def _protobuf_echo(message: bytes) -> Callable[[], object]:
    def run() -> bytes:
        body = pb.ProcessingRequest.FromString(message).response_body
        answer = pb.ProcessingResponse()
        chunk = answer.response_body.response.body_mutation.streamed_response
        chunk.body = body.body
        chunk.end_of_stream = body.end_of_stream
        return answer.SerializeToString()

    return run
