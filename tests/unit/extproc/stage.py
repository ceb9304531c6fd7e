"""Stand-ins for what surrounds a stream: a gateway's messages, the transport's outlet, a director that can be held up."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from epp.errors import RequestError
from epp.extproc.events import BodyMode
from epp.model.decision import Decision, Outcome, ScoreSheet
from epp.model.endpoint import Endpoint
from epp.model.request import Api, InferenceRequest, RequestHead
from epp.pb import ext_proc_pb2 as pb

ENDPOINT = Endpoint(name="pool/a", address="10.0.0.1", port=8000)
OTHER = Endpoint(name="pool/b", address="fd00::2", port=8000)

FULL, BUFFERED, PARTIAL, STREAMED, NONE = (
    BodyMode.FULL_DUPLEX,
    BodyMode.BUFFERED,
    BodyMode.BUFFERED_PARTIAL,
    BodyMode.STREAMED,
    BodyMode.NONE,
)


def sheet() -> ScoreSheet:
    slots = np.array([0, 2], dtype=np.int64)
    return ScoreSheet(
        profile="default", slots=slots, totals=np.array([1.5, 0.25]), endpoints=(ENDPOINT, None, OTHER), candidates=slots
    )


def decision(
    head: RequestHead | None = None, *, model: str = "m", target: str = "", span=None, fallbacks: Sequence[Endpoint] = ()
) -> Decision:
    request = InferenceRequest(head=head or RequestHead(), api=Api.CHAT, model=model, target_model=target or model, model_span=span)
    return Decision(request=request, endpoint=ENDPOINT, slot=0, fallbacks=tuple(fallbacks), sheet=sheet())


class StubDirector:
    """Answers at once with `make`, or, after `hold`, when told to. Notes everything it is told."""

    def __init__(self, make: Callable[[RequestHead, bytes | None], Decision | RequestError] | None = None) -> None:
        self.make = make or (lambda head, _: decision(head))
        self.asked: list[tuple[RequestHead, bytes | None]] = []
        self.decided: list[Decision] = []
        self.finished: list[tuple[Decision, Outcome]] = []
        self.first_tokens = 0
        self.cancelled = 0
        self._held = False
        self._answer: Callable[[Decision | RequestError], None] | None = None

    def hold(self) -> None:
        self._held = True

    def release(self) -> None:
        """Answer what is held, even if it was cancelled: a race that must not leak."""
        assert self._answer is not None
        self._reply(self._answer)

    def schedule(self, head, body, answer):
        self.asked.append((head, body))
        if self._held:
            self._answer = answer
            return self._cancel
        self._reply(answer)
        return None

    def first_token(self, decision: Decision) -> None:
        self.first_tokens += 1

    def finish(self, decision: Decision, outcome: Outcome) -> None:
        self.finished.append((decision, outcome))

    @property
    def outcomes(self) -> list[Outcome]:
        return [outcome for _, outcome in self.finished]

    def _reply(self, answer) -> None:
        made = self.make(*self.asked[-1])
        if isinstance(made, Decision):
            self.decided.append(made)
        answer(made)

    def _cancel(self) -> None:
        self.cancelled += 1


class ListOutlet:
    """Keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed = False
        self.failed: tuple[int, str] | None = None

    def send(self, message: bytes) -> None:
        assert not self.closed, "sent after close"
        self.sent.append(message)

    def close(self) -> None:
        self.closed = True

    def fail(self, code: int, message: str) -> None:
        self.failed = (code, message)

    def pending_bytes(self) -> int:
        return 0

    @property
    def responses(self) -> list[pb.ProcessingResponse]:
        return [pb.ProcessingResponse.FromString(message) for message in self.sent]

    def take(self) -> list[pb.ProcessingResponse]:
        responses = self.responses
        self.sent.clear()
        return responses


HEADERS = {":path": "/v1/chat/completions", ":method": "POST", "content-type": "application/json", "x-request-id": "r-1"}


def request_headers(
    headers: Mapping[str, str] = HEADERS, *, end: bool = False, modes: tuple[BodyMode, BodyMode] | None = (FULL, FULL), subset=None
) -> bytes:
    message = pb.ProcessingRequest()
    _fill(message.request_headers, headers, end)
    _say_modes(message, modes)
    hint(message, subset)
    return message.SerializeToString()


def response_headers(
    headers: Mapping[str, str] | None = None, *, status: str = "200", end: bool = False, modes=None, served: str = ""
) -> bytes:
    message = pb.ProcessingRequest()
    _fill(message.response_headers, {":status": status, "server": "uvicorn", **(headers or {})}, end)
    _say_modes(message, modes)
    if served:
        fields = message.metadata_context.filter_metadata["envoy.lb"].fields
        fields["x-gateway-destination-endpoint-served"].string_value = served
    return message.SerializeToString()


def local_reply(status: str = "503") -> bytes:
    message = pb.ProcessingRequest()
    _fill(message.response_headers, {":status": status, "content-type": "text/plain", "content-length": "9"}, end=False)
    return message.SerializeToString()


def request_body(data: bytes = b"", *, end: bool = False, subset=None) -> bytes:
    message = pb.ProcessingRequest(request_body=pb.HttpBody(body=data, end_of_stream=end))
    hint(message, subset)
    return message.SerializeToString()


def response_body(data: bytes = b"", *, end: bool = False) -> bytes:
    return pb.ProcessingRequest(response_body=pb.HttpBody(body=data, end_of_stream=end)).SerializeToString()


REQUEST_TRAILERS = pb.ProcessingRequest(request_trailers=pb.HttpTrailers()).SerializeToString()
RESPONSE_TRAILERS = pb.ProcessingRequest(response_trailers=pb.HttpTrailers()).SerializeToString()


def hint(message: pb.ProcessingRequest, subset) -> None:
    """Put a subset hint into a message: a str as a string, a sequence as a list, None not at all."""
    if subset is None:
        return
    value = message.metadata_context.filter_metadata["envoy.lb.subset_hint"].fields["x-gateway-destination-endpoint-subset"]
    if isinstance(subset, str):
        value.string_value = subset
        return
    value.list_value.SetInParent()
    for item in subset:
        value.list_value.append(item)


def streamed(responses: Sequence[pb.ProcessingResponse], side: str = "request_body") -> tuple[bytes, list[bool]]:
    """Return the body that was streamed back on one side, and the end marks of its chunks."""
    parts = [getattr(response, side) for response in responses if response.WhichOneof("response") == side]
    chunks = [part.response.body_mutation.streamed_response for part in parts]
    assert all(part.response.body_mutation.HasField("streamed_response") for part in parts)
    return b"".join(chunk.body for chunk in chunks), [chunk.end_of_stream for chunk in chunks]


def kinds(responses: Sequence[pb.ProcessingResponse]) -> list[str]:
    return [response.WhichOneof("response") for response in responses]


def set_headers(mutation: pb.HeaderMutation) -> dict[str, str]:
    assert all(not option.header.value for option in mutation.set_headers), "Envoy makes an empty header of `value`"
    return {option.header.key: option.header.raw_value.decode() for option in mutation.set_headers}


def _fill(part: pb.HttpHeaders, headers: Mapping[str, str], end: bool) -> None:
    for key, value in headers.items():
        part.headers.headers.add(key=key, raw_value=value.encode())
    part.end_of_stream = end


def _say_modes(message: pb.ProcessingRequest, modes: tuple[BodyMode, BodyMode] | None) -> None:
    if modes is not None:
        message.protocol_config.SetInParent()
        message.protocol_config.request_body_mode = int(modes[0])
        message.protocol_config.response_body_mode = int(modes[1])
