"""The request half of a session: gathers what the decision needs, asks for it, answers Envoy with it.

Which answers Envoy wants depends on how it sends the body (`BodyMode`):

    mode               picks from         the destination goes with      the body is answered by
    NONE, or no body   the headers        the headers answer             -
    STREAMED           the headers        the headers answer             one message each
    BUFFERED           headers and body   the body answer                that message
    BUFFERED_PARTIAL   the same, but from the headers alone when Envoy has cut the body
    FULL_DUPLEX        headers and body   the headers answer, held back  the whole body, streamed

In STREAMED, Envoy sends no body before its headers are answered, and after that they are gone: a strategy sees no prompt there. In
the BUFFERED modes it sends the body only when the headers have been answered but keeps them until the body is answered too.
"""

from collections.abc import Callable, Mapping
from enum import IntEnum, auto
from typing import Any

from msgspec.structs import replace

from epp.errors import BadRequest, BodyTooLarge, Overloaded, ProtocolError, RequestError
from epp.extproc.events import (
    Action,
    AnswerBody,
    AnswerHeaders,
    AnswerTrailers,
    BodyMode,
    Decided,
    GiveUp,
    Modes,
    Refused,
    Reject,
    RequestBody,
    RequestEvent,
    RequestHeaders,
    RequestTrailers,
    Route,
    Schedule,
    Side,
    StreamBody,
)
from epp.extproc.options import WireOptions
from epp.extproc.splice import splice_model
from epp.model.budget import Budget
from epp.model.decision import Decision, ScoreSheet
from epp.model.request import RequestHead


class RequestState(IntEnum):
    """How far the request has come."""

    IDLE = auto()
    """Nothing has come."""
    GATHERING = auto()
    """The headers have; the body is coming."""
    DECIDING = auto()
    """The director has been asked."""
    PASSING = auto()
    """The destination has been sent; body messages and trailers may still want their answers."""
    OVER = auto()
    """Answered by somebody else; what still comes is not answered."""


# What is not here is a protocol error. The names are methods of RequestSide.
TRANSITIONS: Mapping[tuple[RequestState, type[RequestEvent]], str] = {
    (RequestState.IDLE, RequestHeaders): "_begin",
    (RequestState.GATHERING, RequestBody): "_gather",
    (RequestState.GATHERING, RequestTrailers): "_end_by_trailers",
    (RequestState.DECIDING, RequestBody): "_hold",
    (RequestState.DECIDING, RequestTrailers): "_hold",
    (RequestState.DECIDING, Decided): "_pass_on",
    (RequestState.DECIDING, Refused): "_refuse",
    (RequestState.PASSING, RequestBody): "_pass_late",
    (RequestState.PASSING, RequestTrailers): "_pass_late",
    (RequestState.OVER, RequestBody): "_ignore",
    (RequestState.OVER, RequestTrailers): "_ignore",
}

# Said to the picker, not to the model server; removed where present. `x-gateway-destination-endpoint` is overwritten anyway.
CONTROL_HEADERS = frozenset(
    {
        "x-llm-d-inference-fairness-id",
        "x-gateway-inference-fairness-id",
        "x-llm-d-inference-objective",
        "x-gateway-inference-objective",
        "x-llm-d-model-name-rewrite",
        "x-gateway-model-name-rewrite",
        "x-gateway-destination-endpoint-subset",
        "x-gateway-destination-endpoint-served",
        "x-llm-d-slo-ttft-ms",
        "x-slo-ttft-ms",
        "x-llm-d-slo-tpot-ms",
        "x-slo-tpot-ms",
        "x-llm-d-video-fps",
        "x-llm-d-video-duration-seconds",
        "x-llm-d-video-resolution",
        "x-llm-d-request-dropped-reason",
    }
)
BODIED_METHODS = frozenset({"POST", "PUT", "PATCH"})
"""Without a body, these have an empty one (RFC 9110, 8.6)."""
SMALL_BYTES = 1024
"""A piece of a body from this size on is kept as it came."""
# Never echoed: ours, and those that describe the body on this hop.
_NOT_ECHOED = CONTROL_HEADERS | {"x-gateway-destination-endpoint", "content-length"}


class RequestSide:
    """The request of one stream. `receive` takes its events in order and returns what to do.

    Args:
        options: bounds and defaults.
        held: the bodies of all streams.

    Raises:
        ProtocolError: from `receive`, for an event that its state does not allow.
    """

    __slots__ = ("_body", "_head", "_headers_answered", "_held", "_late", "_options", "_pieces", "_size", "ask", "decision", "mode",
                 "state")  # fmt: skip

    def __init__(self, options: WireOptions, held: Budget) -> None:
        self._options = options
        self._held = held
        self.state = RequestState.IDLE
        self.mode = options.mode_default
        self.ask: Modes | None = None
        """Other body modes to ask for."""
        self.decision: Decision | None = None
        self._head = RequestHead()
        self._headers_answered = False
        self._pieces: list[bytes | bytearray | memoryview] = []
        self._size = 0
        """Of the body so far; counted in `held`."""
        self._body: bytes | None = None
        self._late: list[Action] = []
        """Answers that wait for the decision to go out first. Envoy's own buffer limit bounds them."""

    def receive(self, event: RequestEvent) -> list[Action]:
        """Return what `event` makes necessary."""
        step = _STEPS.get((self.state, type(event)))
        if step is None:
            raise ProtocolError(f"{type(event).__name__} while the request is {self.state.name}")
        return step(self, event)

    @property
    def undecided(self) -> bool:
        """Whether Envoy waits for a destination."""
        return self.state in {RequestState.GATHERING, RequestState.DECIDING}

    def give_up(self) -> list[Action]:
        """Want no decision any more: somebody else has answered the client."""
        waiting = self.state is RequestState.DECIDING
        self.state = RequestState.OVER
        self.drop_body()
        return [GiveUp()] if waiting else []

    def drop_body(self) -> None:
        """Hold nothing any more."""
        self._held.give_back(self._size)
        self._size = 0
        self._pieces, self._body, self._late = [], None, []

    # ---- steps, in the order of the table

    def _begin(self, event: RequestHeaders) -> list[Action]:
        self._head = event.head
        if event.end and event.head.method in BODIED_METHODS:
            self.state = RequestState.DECIDING
            return [Schedule(self._head, b"")]  # there is no body, and a parser that needs one says so; nor is there one to send
        if event.end or self.mode in {BodyMode.NONE, BodyMode.STREAMED}:
            return self._schedule(None)
        self.state = RequestState.GATHERING
        self._headers_answered = self.mode.buffered
        return [AnswerHeaders(Side.REQUEST, modes=self.ask)] if self._headers_answered else []

    def _gather(self, event: RequestBody) -> list[Action]:
        size = len(event.data)
        if self._size + size > self._options.body_bytes_max:
            return self._reject(BodyTooLarge(f"the request body is over {self._options.body_bytes_max} bytes"))
        if not self._held.take(size):
            return self._reject(Overloaded("too many request bodies are under way", reason="rejected-saturated", retry_after_s=1))
        self._size += size
        self._keep(event.data)
        if event.subset is not None:
            self._head = replace(self._head, subset=event.subset)
        if self.mode is BodyMode.FULL_DUPLEX and not event.end:
            return []
        cut = self.mode is BodyMode.BUFFERED_PARTIAL and not event.end
        return self._schedule(None if cut else b"".join(self._pieces))

    def _end_by_trailers(self, _: RequestTrailers) -> list[Action]:
        if self._headers_answered:
            return self._reject(BadRequest("the request ended without a body"))
        self._late = [AnswerTrailers(Side.REQUEST)]
        return self._schedule(b"".join(self._pieces))

    def _hold(self, event: RequestBody | RequestTrailers) -> list[Action]:
        self._late += self._pass_late(event)
        return []

    def _pass_on(self, event: Decided) -> list[Action]:
        self.state = RequestState.PASSING
        self.decision = event.decision
        body = None if self._body is None else _renamed(self._body, event.decision)
        changed = body is not self._body
        route = self._route(event.decision, body, changed=changed)
        answers: list[Action]
        if self._headers_answered:
            answers = [AnswerBody(Side.REQUEST, route, body if changed else None)]
        elif body is None:
            answers = [AnswerHeaders(Side.REQUEST, route, modes=self.ask)]
        else:
            ended = not self._late  # else by trailers, which wait there
            answers = [AnswerHeaders(Side.REQUEST, route), StreamBody(Side.REQUEST, body, ended)]
        answers += self._late
        self.drop_body()
        return answers

    def _refuse(self, event: Refused) -> list[Action]:
        return self._reject(event.error)

    def _pass_late(self, event: RequestBody | RequestTrailers) -> list[Action]:
        """Answer what comes when the decision needs nothing more.

        In full duplex and BUFFERED that is a repeated end of the body (envoyproxy/envoy#46237): an answer would be one too many.
        """
        if isinstance(event, RequestBody):
            return [AnswerBody(Side.REQUEST)] if self.mode is BodyMode.STREAMED else []
        return [] if self.mode is BodyMode.FULL_DUPLEX else [AnswerTrailers(Side.REQUEST)]

    def _ignore(self, _: RequestEvent) -> list[Action]:
        return []

    # ---- parts of steps

    def _keep(self, piece: bytes | memoryview) -> None:
        """Add a piece to the body. Small ones go into one buffer: each by itself would take a hundred times its size."""
        pieces = self._pieces
        if len(piece) >= SMALL_BYTES:
            pieces.append(piece)
        elif pieces and isinstance(last := pieces[-1], bytearray):
            last += piece
        elif piece:
            pieces.append(bytearray(piece))

    def _schedule(self, body: bytes | None) -> list[Action]:
        self.state = RequestState.DECIDING
        self._body = body
        self._pieces = []
        return [Schedule(self._head, body)]

    def _reject(self, error: RequestError) -> list[Action]:
        self.state = RequestState.OVER
        self.drop_body()
        return [Reject(error)]

    def _route(self, decision: Decision, body: bytes | None, *, changed: bool) -> Route:
        options, headers = self._options, self._head.headers
        remove = CONTROL_HEADERS.intersection(headers)
        if changed and not self._headers_answered:
            remove |= {"content-length"}  # Envoy does it too in full duplex, unless `allow_content_length_header` is set
        return Route(
            ",".join([endpoint.authority for endpoint in (decision.endpoint, *decision.fallbacks)]),
            tuple(sorted(remove)),
            _echo(headers, body) if options.echo_headers and body is not None else (),
            _scores(decision.sheet) if options.emit_endpoint_scores else (),
        )


_STEPS: Mapping[tuple[RequestState, type[RequestEvent]], Callable[[RequestSide, Any], list[Action]]] = {
    key: getattr(RequestSide, name) for key, name in TRANSITIONS.items()
}


def _renamed(body: bytes, decision: Decision) -> bytes:
    """Return the body with the model that the decision names, or the same body when it is sent on as it came."""
    request = decision.request
    if request.model_span is None or request.target_model == request.model:
        return body
    return splice_model(body, request.model_span, request.target_model)


def _echo(headers: Mapping[str, str], body: bytes) -> tuple[tuple[str, str], ...]:
    """Return the headers as the reference picker sets them again, its spelling included."""
    length = (("Content-Length", str(len(body))),) if body else ()
    return (*length, *((name, value) for name, value in headers.items() if name not in _NOT_ECHOED))


def _scores(sheet: ScoreSheet) -> tuple[tuple[str, float], ...]:
    pairs = ((sheet.endpoints[slot], total) for slot, total in zip(sheet.slots.tolist(), sheet.totals.tolist(), strict=True))
    return tuple((endpoint.authority, total) for endpoint, total in pairs if endpoint is not None)
