"""What Envoy tells the session of a stream, and what the session wants done: two closed unions.

`codec` makes events of bytes and bytes of answers, `pump` carries out the other actions. They are structs and not dataclasses
because several are made for every message: a frozen struct costs a fraction of a frozen dataclass.
"""

from collections.abc import Mapping
from enum import Enum, IntEnum, auto

from msgspec import Struct

from epp.errors import RequestError
from epp.model.decision import Decision, Outcome
from epp.model.request import RequestHead


class BodyMode(IntEnum):
    """How Envoy sends a body to us; the numbers are Envoy's `BodySendMode`."""

    NONE = 0
    """It does not."""
    STREAMED = 1
    """Chunk by chunk; each is answered by one message before Envoy passes it on."""
    BUFFERED = 2
    """As one message, which is answered by one message."""
    BUFFERED_PARTIAL = 3
    """The same, but cut at Envoy's buffer limit; the rest passes by."""
    FULL_DUPLEX = 4
    """Chunk by chunk, and Envoy keeps no copy: what is not sent back is lost."""

    @property
    def buffered(self) -> bool:
        """Whether the body is held by Envoy until we have answered for it, so that headers may still change with its answer."""
        return BodyMode.BUFFERED <= self <= BodyMode.BUFFERED_PARTIAL


class Side(Enum):
    """Which of the two HTTP messages of a stream is meant."""

    REQUEST = auto()
    RESPONSE = auto()

    __hash__ = object.__hash__  # members are singletons; an Enum's own hash is a Python call, several for every request


class Modes(Struct, frozen=True):
    """What the gateway says about both bodies in its first message (`protocol_config`)."""

    request: BodyMode
    response: BodyMode


# ---- events: from Envoy


class RequestHeaders(Struct, frozen=True):
    """The request has begun. `modes` is None where the gateway does not say (before Envoy 1.34, NGINX)."""

    head: RequestHead
    end: bool
    modes: Modes | None = None


class RequestBody(Struct, frozen=True):
    """A piece of the request's body. `subset` is a subset hint that came with it; None means that none did."""

    data: bytes | memoryview
    end: bool
    subset: tuple[str, ...] | None = None


class RequestTrailers(Struct, frozen=True):
    """The request has ended with trailers."""


class ResponseHeaders(Struct, frozen=True):
    """The response has begun: the model server's, or one that Envoy made itself."""

    status: int
    headers: Mapping[str, str]
    end: bool
    served: str = ""
    """`ip:port` that answered, when the gateway says so."""
    modes: Modes | None = None


class ResponseBody(Struct, frozen=True):
    """A piece of the response's body."""

    data: bytes
    end: bool


class ResponseTrailers(Struct, frozen=True):
    """The response has ended with trailers."""


# ---- events: from the director


class Decided(Struct, frozen=True):
    """The answer to `Schedule`: where the request goes."""

    decision: Decision


class Refused(Struct, frozen=True):
    """The answer to `Schedule`: it goes nowhere."""

    error: RequestError


# ---- actions: answers to Envoy


class Route(Struct, frozen=True):
    """Where the request goes, for the proxy: goes with the first answer after the decision."""

    destination: str
    """`ip:port[,ip:port...]`, the first is preferred."""
    remove: tuple[str, ...] = ()
    """Request headers that must not reach the model server."""
    headers: tuple[tuple[str, str], ...] = ()
    """Request headers to set beside the destination."""
    scores: tuple[tuple[str, float], ...] = ()
    """Score of each rated endpoint, where it is to be published."""


class AnswerHeaders(Struct, frozen=True):
    """Pass the headers on."""

    side: Side
    route: Route | None = None
    headers: tuple[tuple[str, str], ...] = ()
    """Response headers to set."""
    remove: tuple[str, ...] = ()
    """Response headers to remove."""
    modes: Modes | None = None
    """Ask for other body modes than configured (`mode_override`)."""


class AnswerBody(Struct, frozen=True):
    """Pass one body message on: as it was, or with `body` in its place. Not for full duplex."""

    side: Side
    route: Route | None = None
    body: bytes | None = None


class StreamBody(Struct, frozen=True):
    """Send a body in full duplex; the codec cuts it into chunks."""

    side: Side
    data: bytes
    end: bool


class AnswerTrailers(Struct, frozen=True):
    """Pass the trailers on."""

    side: Side


class Reject(Struct, frozen=True):
    """Answer the client ourselves; nothing follows."""

    error: RequestError


Answer = AnswerHeaders | AnswerBody | StreamBody | AnswerTrailers | Reject

# ---- actions: for the director


class Schedule(Struct, frozen=True):
    """Ask where the request goes; answered by `Decided` or `Refused`, now or later."""

    head: RequestHead
    body: bytes | None
    """None when the request has no body, or none that can be seen before the decision."""


class GiveUp(Struct, frozen=True):
    """The decision is no longer wanted."""


class FirstToken(Struct, frozen=True):
    """The first byte of the response's body has come."""


class Finish(Struct, frozen=True):
    """The request is over as far as it can be seen. Once per stream."""

    outcome: Outcome


RequestEvent = RequestHeaders | RequestBody | RequestTrailers | Decided | Refused
ResponseEvent = ResponseHeaders | ResponseBody | ResponseTrailers
Event = RequestEvent | ResponseEvent
Action = Answer | Schedule | GiveUp | FirstToken | Finish
