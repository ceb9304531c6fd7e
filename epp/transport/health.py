"""The gRPC health service, over the one `HealthState`: Check, List and Watch, as handlers for either transport.

Source: grpc/health/v1/health.proto and doc/health-checking.md of grpc.
"""

from collections.abc import Callable

from google.protobuf.message import DecodeError, Message

from epp.model.stream import Outlet, StreamHandler
from epp.pb import health_pb2 as pb
from epp.telemetry.health import HealthState, Serving
from epp.transport.routes import Route

SERVICE = "/grpc.health.v1.Health/"
INVALID_ARGUMENT, NOT_FOUND, RESOURCE_EXHAUSTED = 3, 5, 8


class HealthService:
    """The three methods.

    Args:
        state: what is asked.
        watchers_max: most Watch streams open at once.
    """

    def __init__(self, state: HealthState, *, watchers_max: int) -> None:
        self.state = state
        self._watchers_max = watchers_max
        self._open: set[_Watch] = set()

    def routes(self) -> dict[str, Route]:
        """Return who answers what."""
        return {
            SERVICE + "Check": Route(accept=lambda outlet: _Unary(outlet, self._check)),
            SERVICE + "List": Route(accept=lambda outlet: _Unary(outlet, self._list)),
            SERVICE + "Watch": Route(accept=self._watch),
        }

    def close(self) -> None:
        """End the Watch streams, which would otherwise use up the whole grace of a stopping server."""
        for watch in tuple(self._open):
            watch.outlet.close()

    def _check(self, message: bytes, outlet: Outlet) -> None:
        answer = self.state.answer(pb.HealthCheckRequest.FromString(message).service)
        if answer is Serving.SERVICE_UNKNOWN:
            outlet.fail(NOT_FOUND, "unknown service")
        else:
            _reply(outlet, _response(answer))

    def _list(self, message: bytes, outlet: Outlet) -> None:
        pb.HealthListRequest.FromString(message)
        _reply(outlet, pb.HealthListResponse(statuses={name: _response(self.state.answer(name)) for name in self.state.services}))

    def _watch(self, outlet: Outlet) -> StreamHandler:
        return _Watch(outlet, self)

    def join(self, watch: "_Watch") -> bool:
        """Count a Watch stream; return whether there is room for it."""
        if len(self._open) >= self._watchers_max:
            return False
        self._open.add(watch)
        return True

    def leave(self, watch: "_Watch") -> None:
        """Make room."""
        self._open.discard(watch)


class _Unary:
    """One question, one answer."""

    def __init__(self, outlet: Outlet, answer: Callable[[bytes, Outlet], None]) -> None:
        self._outlet = outlet
        self._answer = answer

    def receive(self, message: bytes) -> None:
        try:
            self._answer(message, self._outlet)
        except DecodeError:
            self._outlet.fail(INVALID_ARGUMENT, "not a request of the health service")
        self._outlet.close()

    def half_close(self) -> bool:
        return False

    def end(self) -> None:
        """Nothing to account for."""


class _Watch:
    """Sends the status of a service at once and after every change, until the peer leaves."""

    def __init__(self, outlet: Outlet, service: HealthService) -> None:
        self.outlet = outlet
        self._service = service
        self._name: str | None = None
        self._sent: Serving | None = None
        self._unwatch: Callable[[], None] = lambda: None

    def receive(self, message: bytes) -> None:
        if self._name is not None:
            self.outlet.fail(INVALID_ARGUMENT, "one request a call")
            return
        try:
            self._name = pb.HealthCheckRequest.FromString(message).service
        except DecodeError:
            self.outlet.fail(INVALID_ARGUMENT, "not a request of the health service")
            return
        if not self._service.join(self):
            self.outlet.fail(RESOURCE_EXHAUSTED, "too many watchers")
            return
        self._unwatch = self._service.state.watch(self._look)
        self._look()

    def half_close(self) -> bool:
        return True

    def end(self) -> None:
        self._unwatch()
        self._unwatch = lambda: None
        self._service.leave(self)

    def _look(self) -> None:
        answer = self._service.state.answer(self._name or "")
        if answer is not self._sent:
            self._sent = answer
            self.outlet.send(_response(answer).SerializeToString())


def _response(answer: Serving) -> pb.HealthCheckResponse:
    return pb.HealthCheckResponse(status=answer.name)


def _reply(outlet: Outlet, message: Message) -> None:
    outlet.send(message.SerializeToString())
