"""One ext_proc stream between a transport and the director: message bytes in, message bytes out.

The transport calls `receive` for every message and `end` once. The pump decodes, feeds the session and does what it says. It never
awaits: while the director thinks, messages keep coming and may end the thinking. It is also the wall between a request and the
server: whatever goes wrong with one stream is answered on that stream.
"""

import logging
from collections.abc import Callable
from typing import Protocol, assert_never

from epp.errors import RequestError, WireError
from epp.extproc.codec import decode, encode
from epp.extproc.events import (
    Action,
    AnswerBody,
    AnswerHeaders,
    AnswerTrailers,
    Decided,
    Event,
    Finish,
    FirstToken,
    GiveUp,
    Refused,
    Reject,
    Schedule,
    StreamBody,
)
from epp.extproc.options import DEFAULTS, WireOptions
from epp.extproc.session import Session
from epp.model.budget import Budget
from epp.model.decision import Decision, Outcome
from epp.model.request import RequestHead
from epp.model.stream import Outlet

_LOG = logging.getLogger(__name__)
_INTERNAL = 13
"""gRPC status INTERNAL."""


class Director(Protocol):
    """What a stream needs of `epp.director.Director`."""

    def schedule(
        self, head: RequestHead, body: bytes | None, answer: Callable[[Decision | RequestError], None]
    ) -> Callable[[], None] | None:
        """Decide where a request goes, and call `answer` now or later. Returns how to give up a wait."""

    def first_token(self, decision: Decision) -> None:
        """The first byte of the response body has come."""

    def finish(self, decision: Decision, outcome: Outcome) -> None:
        """The request is over; called exactly once per decision."""


class Pump:
    """What answers one stream; a `model.stream.StreamHandler`.

    Args:
        outlet: the way back.
        director: who decides.
        options: bounds and defaults.
        held: the bodies of all streams; None: those of this one alone.
    """

    __slots__ = ("_asked", "_cancel", "_director", "_half_closed", "_outlet", "_session")

    def __init__(self, outlet: Outlet, director: Director, options: WireOptions = DEFAULTS, held: Budget | None = None) -> None:
        self._outlet = outlet
        self._director = director
        self._session = Session(options, held)
        self._asked = False
        self._half_closed = False
        self._cancel: Callable[[], None] | None = None

    def receive(self, message: bytes) -> None:
        """Take one serialized ProcessingRequest. Never raises."""
        try:
            event = decode(message)
        except WireError as error:
            self._fail(RequestError(f"ext_proc message: {error}"))
            return
        if event is not None:
            self._advance(event)

    def half_close(self) -> bool:
        """The gateway has said all it will. From Envoy that means that the client has gone; others (NGINX) want the pick still."""
        self._half_closed = True
        return self._asked and not self._session.of_envoy

    def end(self) -> None:
        """The stream is over: give up what is waited for, and settle the account. Never raises."""
        try:
            self._give_up()
            outcome = self._session.close()
            if outcome is not None:
                self._finish(outcome)
        except Exception:  # noqa: BLE001  the transport must live on, and nobody is left to answer
            _LOG.exception("the end of a stream went wrong")

    def _advance(self, event: Event) -> None:
        try:
            for action in self._session.receive(event):
                self._do(action)
        except Exception:  # noqa: BLE001  a defect met by one request must not take the others down
            _LOG.exception("a request went wrong")
            self._fail(RequestError("internal error"))

    def _fail(self, error: RequestError) -> None:
        """Answer with `error`; if even that fails, end the stream."""
        try:
            for action in self._session.fail(error):
                self._do(action)
        except Exception:  # noqa: BLE001  as above
            _LOG.exception("the failure of a request could not be answered")
            self._outlet.fail(_INTERNAL, "internal error")

    def _do(self, action: Action) -> None:
        match action:
            case StreamBody() | AnswerHeaders() | AnswerBody() | AnswerTrailers():  # first, since most are
                for message in encode(action):
                    self._outlet.send(message)
            case Schedule():
                self._schedule(action)
            case GiveUp():
                self._give_up()
            case FirstToken():
                if self._session.decision is not None:
                    self._director.first_token(self._session.decision)
            case Finish():
                self._finish(action.outcome)
            case Reject():
                self._outlet.send(encode(action)[0])
                self._outlet.close()
            case _:
                assert_never(action)

    def _schedule(self, action: Schedule) -> None:
        self._asked = True
        try:
            cancel = self._director.schedule(action.head, action.body, self._answer)
        except RequestError as error:
            self._answer(error)
            return
        if self._asked:
            self._cancel = cancel

    def _answer(self, answer: Decision | RequestError) -> None:
        """Take the director's answer, from within `schedule` or later."""
        if not self._asked:  # given up a moment ago; a decision has load reserved for it
            if isinstance(answer, Decision):
                self._director.finish(answer, Outcome(end="client-gone"))
            return
        self._asked = False
        self._cancel = None
        self._advance(Decided(answer) if isinstance(answer, Decision) else Refused(answer))
        if self._half_closed:
            self._outlet.close()

    def _give_up(self) -> None:
        cancel, self._cancel = self._cancel, None
        self._asked = False
        if cancel is not None:
            cancel()

    def _finish(self, outcome: Outcome) -> None:
        if self._session.decision is not None:
            self._director.finish(self._session.decision, outcome)
