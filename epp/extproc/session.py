"""The life of one ext_proc stream, without I/O: events in, actions out.

A stream carries one HTTP request and its response. Each half is a small state machine with its transitions in a table at the top of
its file: `request_side` gathers, asks and answers; `response_side` passes on and takes note. The session puts them together: it
tells each how its body comes, ends the wait when Envoy has answered the client itself, turns what the tables do not allow into an
error answer, and hands out the one outcome.

    pump --event--> Session.receive --actions--> pump           Schedule  ->  Decided | Refused, now or later
    pump --end of stream--> Session.close --outcome--> pump     Finish    ->  the outcome, when it is known before the end

It never awaits, keeps no time and knows no protobuf.
"""

from epp.errors import ProtocolError, RequestError
from epp.extproc.events import (
    Action,
    BodyMode,
    Decided,
    Event,
    Finish,
    Modes,
    Reject,
    RequestHeaders,
    ResponseBody,
    ResponseEvent,
    ResponseHeaders,
    ResponseTrailers,
)
from epp.extproc.options import DEFAULTS, WireOptions
from epp.extproc.request_side import RequestSide, RequestState
from epp.extproc.response_side import ResponseSide, ResponseState
from epp.model.budget import Budget
from epp.model.decision import Decision, Outcome

_RESPONSE_EVENTS = (ResponseBody, ResponseHeaders, ResponseTrailers)


class Session:
    """One stream.

    Args:
        options: bounds and defaults.
        held: the bodies of all streams, of which it counts its own; None: those of this one alone.
    """

    __slots__ = ("_closed", "_finished", "_modes_known", "_options", "request", "response")

    def __init__(self, options: WireOptions = DEFAULTS, held: Budget | None = None) -> None:
        self._options = options
        self.request = RequestSide(self._options, Budget(options.body_bytes_max) if held is None else held)
        self.response = ResponseSide(self._options)
        self._modes_known = False
        self._closed = False
        self._finished = False

    @property
    def decision(self) -> Decision | None:
        """Where the request was sent, once it was."""
        return self.request.decision

    @property
    def of_envoy(self) -> bool:
        """Whether the gateway says how bodies come, as Envoy does since 1.34 and as nobody else is known to."""
        return self._modes_known

    def receive(self, event: Event) -> list[Action]:
        """Return what is to be done about `event`, in order. Never raises; after a `Reject` nothing is to be done any more."""
        if self._closed:
            return []
        try:
            actions = self._advance(event)
        except ProtocolError as error:
            return self.fail(RequestError(f"ext_proc protocol error: {error}"))
        if actions and isinstance(last := actions[-1], Reject):
            self._closed = True
            return actions + self._finish("rejected", last.error.status)
        if self.response.end and not self._finished:
            return actions + self._finish(self.response.end)
        return actions

    def fail(self, error: RequestError) -> list[Action]:
        """Return what is to be done when something of ours or of the peer's has broken: answer with `error`, and be done."""
        if self._closed:
            return []
        self._closed = True
        return [*self.request.give_up(), Reject(error), *self._finish("error", error.status)]

    def close(self) -> Outcome | None:
        """The stream is over. Return how the request ended, unless a `Finish` has said it already."""
        self._closed = True
        finish = self._finish("released" if self._out_of_sight() else "client-gone")
        self.request.drop_body()
        return finish[0].outcome if finish else None

    def _advance(self, event: Event) -> list[Action]:
        if isinstance(event, _RESPONSE_EVENTS):
            begins = self.response.state is ResponseState.IDLE
            return self._begin_response(event) if begins else self.response.receive(event)
        if isinstance(event, RequestHeaders):
            if self.response.state is not ResponseState.IDLE:
                raise ProtocolError("RequestHeaders after the response has begun")
            self._learn_modes(event.modes)
        actions = self.request.receive(event)
        if isinstance(event, Decided):
            self.response.expect(event.decision)
        return actions

    def _begin_response(self, event: ResponseEvent) -> list[Action]:
        """Take the first of the response. Before the decision it is Envoy's own (a timeout), and still wants our answer."""
        given_up: list[Action] = []
        if self.request.undecided:
            self.response.local = True
            given_up = self.request.give_up()
        if isinstance(event, ResponseHeaders):
            self._learn_modes(event.modes)
        return given_up + self.response.receive(event)

    def _learn_modes(self, said: Modes | None) -> None:
        """Set how both bodies come: as an option forces, as the gateway says, or as assumed."""
        self._modes_known = self._modes_known or said is not None
        forced = self._options.mode_forced
        if forced is not None:
            self.request.mode = self.response.mode = forced
        elif said is not None:
            self.request.mode, self.response.mode = said.request, said.response
        if self._options.skip_response_body and self.request.mode.buffered and self.response.mode.buffered:
            self.request.ask = Modes(self.request.mode, BodyMode.NONE)

    def _out_of_sight(self) -> bool:
        """Whether the stream could end without the request having ended: what is left of it is not sent to us."""
        if self.request.state is not RequestState.PASSING:
            return False
        if self.response.state is ResponseState.IDLE:
            return not self._modes_known or self.response.mode is BodyMode.NONE
        return self.request.ask is not None and self.response.window.size == 0

    def _finish(self, end: str, status: int = 0) -> list[Finish]:
        if self._finished:
            return []
        self._finished = True
        response = self.response
        return [
            Finish(
                Outcome(
                    end=end,
                    status=status or response.status,
                    usage=response.window.find(),
                    served=response.served,
                    response_bytes=response.window.size,
                )
            )
        ]
