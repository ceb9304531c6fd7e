"""One request's life above the wire: parse, admit, match, schedule, reserve, account.

The pump of a stream calls it: `schedule` once the request is whole, `first_token` when the first byte of the answer's body passes,
`finish` exactly once whatever way the stream ended. Nothing here knows protobuf, gRPC or Envoy's phases.
"""

from collections.abc import Callable

from epp.errors import RequestError
from epp.model.decision import Decision, Outcome
from epp.model.request import RequestHead

Answer = Callable[[Decision | RequestError], None]
Cancel = Callable[[], None]


class Director:
    """Decides where requests go, and keeps account of what became of them."""

    def schedule(self, head: RequestHead, body: bytes | None, answer: Answer) -> Cancel | None:
        """Decide where a request goes.

        Args:
            head: what came before the body.
            body: the whole body; None when the request has none (GET, end of stream on the headers).
            answer: called exactly once with the decision or the error, unless cancelled: before this call returns when nothing
                has to be waited for (the usual case), later otherwise.

        Returns:
            A function that gives up the wait, or None when `answer` has already been called.
        """
        raise NotImplementedError

    def first_token(self, decision: Decision) -> None:
        """The first byte of the response body has come."""
        raise NotImplementedError

    def finish(self, decision: Decision, outcome: Outcome) -> None:
        """The request is over; called exactly once per decision."""
        raise NotImplementedError
