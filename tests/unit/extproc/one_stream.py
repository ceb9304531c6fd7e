"""One stream driven message by message, for the tests of the pump."""

from epp.extproc.options import WireOptions
from epp.extproc.pump import Pump
from epp.model.budget import Budget
from epp.model.decision import Outcome
from epp.pb import ext_proc_pb2 as pb
from tests.unit.extproc.stage import (
    FULL,
    ListOutlet,
    StubDirector,
    request_body,
    request_headers,
    set_headers,
)

BODY = b'{"model":"m","prompt":"Hi","seed":123456789012345678901}'
DESTINATION = "x-gateway-destination-endpoint"


class Stream:
    """One stream, driven message by message."""

    def __init__(self, director: StubDirector | None = None, held: Budget | None = None, **options) -> None:
        self.director = director or StubDirector()
        self.outlet = ListOutlet()
        self.pump = Pump(self.outlet, self.director, WireOptions(**options), held)

    def say(self, *messages: bytes) -> list[pb.ProcessingResponse]:
        for message in messages:
            self.pump.receive(message)
        return self.outlet.take()

    def end(self) -> Outcome:
        self.pump.end()
        (outcome,) = self.director.outcomes
        return outcome


def picked(response: pb.ProcessingResponse, part: str = "request_headers") -> str:
    """Return the destination in an answer, after a look that header and metadata agree."""
    common = getattr(response, part).response
    header = set_headers(common.header_mutation)[DESTINATION]
    assert response.dynamic_metadata["envoy.lb"][DESTINATION] == header
    assert common.clear_route_cache
    assert all(
        option.append_action == pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD for option in common.header_mutation.set_headers
    )
    return header


def routed(director: StubDirector | None = None, *, modes=(FULL, FULL), **options) -> Stream:
    """Return a stream whose request has been sent on."""
    stream = Stream(director, **options)
    assert stream.say(request_headers(modes=modes), request_body(BODY, end=True))
    return stream
