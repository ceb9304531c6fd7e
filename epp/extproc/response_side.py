"""The response half of a session: passes everything on, and takes note on the way of what became of the request.

Nothing here may hold a response up: headers are answered at once, also those of answers that Envoy made itself while the picker was
still thinking; chunks go back as they come. The one exception is a response whose request was sent on under another model name:
there the name is put back, which holds back at most one line of SSE, or one JSON document.
"""

from collections.abc import Callable, Mapping
from enum import IntEnum, auto
from typing import Any

from epp.errors import ProtocolError
from epp.extproc.events import (
    Action,
    AnswerBody,
    AnswerHeaders,
    AnswerTrailers,
    BodyMode,
    FirstToken,
    ResponseBody,
    ResponseEvent,
    ResponseHeaders,
    ResponseTrailers,
    Side,
    StreamBody,
)
from epp.extproc.options import WireOptions
from epp.extproc.splice import ModelRestorer
from epp.extproc.usage import UsageWindow
from epp.model.decision import Decision


class ResponseState(IntEnum):
    """How far the response has come."""

    IDLE = auto()
    """Nothing has come."""
    PASSING = auto()
    """The body is coming. Where response headers are not sent to us, it comes first."""
    OVER = auto()
    """The end has come, or no more is sent to us."""


# What is not here is a protocol error. The names are methods of ResponseSide.
TRANSITIONS: Mapping[tuple[ResponseState, type[ResponseEvent]], str] = {
    (ResponseState.IDLE, ResponseHeaders): "_begin",
    (ResponseState.IDLE, ResponseBody): "_pass_body",
    (ResponseState.IDLE, ResponseTrailers): "_pass_trailers",
    (ResponseState.PASSING, ResponseBody): "_pass_body",
    (ResponseState.PASSING, ResponseTrailers): "_pass_trailers",
    (ResponseState.OVER, ResponseBody): "_ignore",
    (ResponseState.OVER, ResponseTrailers): "_pass_trailers",
}

# Set by the router when an upstream has answered, or by the HTTP servers that model servers are built on. Envoy's own answers get
# `date` and `server` only after they have passed us.
_UPSTREAM_MARKS = ("x-envoy-upstream-service-time", "date", "server")
_NOT_ECHOED = frozenset({"content-length", "x-gateway-destination-endpoint", "x-gateway-destination-endpoint-served"})


class ResponseSide:
    """The response of one stream. `receive` takes its events in order and returns what to do.

    Raises:
        ProtocolError: from `receive`, for an event that its state does not allow.
    """

    __slots__ = ("_first", "_options", "_renamed", "_restorer", "end", "local", "mode", "served", "state", "status", "window")

    def __init__(self, options: WireOptions) -> None:
        self._options = options
        self.window = UsageWindow(options.usage_head_bytes, options.usage_tail_bytes)
        self._restorer: ModelRestorer | None = None
        self._renamed: Decision | None = None
        self._first = True
        self.state = ResponseState.IDLE
        self.mode = options.mode_default
        self.local = False
        """The answer is Envoy's own."""
        self.status = 0
        self.served = ""
        self.end = ""
        """How the request ended, once the response tells; as in `Outcome.end`."""

    def receive(self, event: ResponseEvent) -> list[Action]:
        """Return what `event` makes necessary."""
        step = _STEPS.get((self.state, type(event)))
        if step is None:
            raise ProtocolError(f"{type(event).__name__} while the response is {self.state.name}")
        return step(self, event)

    def expect(self, decision: Decision) -> None:
        """Take note of the decision that this will be the response to."""
        request = decision.request
        if request.model and request.model_span is not None and request.target_model != request.model:
            self._renamed = decision

    # ---- steps

    def _begin(self, event: ResponseHeaders) -> list[Action]:
        self.status, self.served = event.status, event.served
        self.local = self.local or _made_by_envoy(event)
        if self._renamed is not None and not self.local:
            self._restorer = self._restorer_for(self._renamed, event.headers)
        self.state = ResponseState.PASSING
        if event.end or self.mode is BodyMode.NONE:
            self._end("complete" if event.end else "released")
        elif self.local:
            self.end = "local-reply"
        # A gateway may be set up to keep the length in full duplex (`allow_content_length_header`); a renamed body has another.
        remove = ("content-length",) if self._restorer is not None and self.mode is BodyMode.FULL_DUPLEX else ()
        return [AnswerHeaders(Side.RESPONSE, headers=self._headers(event), remove=remove)]

    def _pass_body(self, event: ResponseBody) -> list[Action]:
        self.state = ResponseState.PASSING
        self.window.feed(event.data)
        # An error's text is no token: it comes at once, and would make whoever fails look fast.
        answers_prompt = self.status < 400 and not self.local
        first = self._first and bool(event.data) and answers_prompt and not self.mode.buffered
        answers = self._body_answer(event) if self._restorer is None else self._restored(self._restorer, event)
        if event.end:
            self._end("complete")
        if not first:
            return answers
        self._first = False
        return [*answers, FirstToken()]

    def _pass_trailers(self, _: ResponseTrailers) -> list[Action]:
        rest = b"" if self._restorer is None or self.state is ResponseState.OVER else self._restorer.feed(b"", end=True)
        answers: list[Action] = [StreamBody(Side.RESPONSE, rest, end=False)] if rest else []
        self._end("complete")
        return [*answers, AnswerTrailers(Side.RESPONSE)]

    def _ignore(self, _: ResponseEvent) -> list[Action]:
        return []

    # ---- parts of steps

    def _headers(self, event: ResponseHeaders) -> tuple[tuple[str, str], ...]:
        """Return the headers to set: none, unless an option says so."""
        options = self._options
        echoed = _echo(event.headers) if options.echo_headers else ()
        served = ((options.served_header, event.served),) if options.served_header and event.served else ()
        return echoed + served

    def _end(self, end: str) -> None:
        self.state = ResponseState.OVER
        self.end = self.end or ("local-reply" if self.local else end)

    def _body_answer(self, event: ResponseBody) -> list[Action]:
        if self.mode is BodyMode.FULL_DUPLEX:
            return [StreamBody(Side.RESPONSE, event.data, event.end)]
        return [AnswerBody(Side.RESPONSE)]

    def _restored(self, restorer: ModelRestorer, event: ResponseBody) -> list[Action]:
        data = restorer.feed(event.data, end=event.end or self.mode.buffered)
        if self.mode is BodyMode.FULL_DUPLEX:
            return [StreamBody(Side.RESPONSE, data, event.end)]
        return [AnswerBody(Side.RESPONSE, body=None if data == event.data else data)]

    def _restorer_for(self, decision: Decision, headers: Mapping[str, str]) -> ModelRestorer | None:
        """Return who puts the model name back: not in STREAMED, where a chunk is answered alone, nor where the body is encoded."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if self.mode is BodyMode.STREAMED or "content-encoding" in headers or kind not in {"application/json", "text/event-stream"}:
            return None
        return ModelRestorer(
            served=decision.request.target_model,
            asked=decision.request.model,
            events=kind == "text/event-stream",
            bytes_max=self._options.restore_bytes_max,
        )


_STEPS: Mapping[tuple[ResponseState, type[ResponseEvent]], Callable[[ResponseSide, Any], list[Action]]] = {
    key: getattr(ResponseSide, name) for key, name in TRANSITIONS.items()
}


def _made_by_envoy(event: ResponseHeaders) -> bool:
    """Return whether a 5xx is Envoy's own: no connection, no healthy host, a timeout."""
    return event.status >= 500 and not any(mark in event.headers for mark in _UPSTREAM_MARKS)


def _echo(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the headers as the reference picker sets them again."""
    return (("x-went-into-resp-headers", "true"), *((name, value) for name, value in headers.items() if name not in _NOT_ECHOED))
