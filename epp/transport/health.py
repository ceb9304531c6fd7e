"""The gRPC health service, over the one `HealthState`: Check, List and Watch.

Registered beside ext_proc on the main port, where Envoy's `grpc_health_check` asks, and alone on a plaintext port, where the
kubelet's probe asks (it cannot speak TLS). Source: grpc/health/v1/health.proto and doc/health-checking.md of grpc.
"""

import asyncio

import grpc
import grpc.aio

from epp.pb import health_pb2 as pb
from epp.telemetry.health import SERVICES, HealthState, Serving

SERVICE = "/grpc.health.v1.Health/"
WATCHERS_MAX = 256
"""Open Watch streams for each port; the next is RESOURCE_EXHAUSTED. Check has no such limit."""


class HealthService(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The three methods as a generic handler for a grpc.aio server.

    Args:
        state: what is asked.
        watchers_max: most Watch streams open at once.
    """

    def __init__(self, state: HealthState, *, watchers_max: int = WATCHERS_MAX) -> None:
        self._state = state
        self._watchers_max = watchers_max
        self._open: set[asyncio.Event] = set()
        """One event for each open Watch, set when it has something to look at."""
        self._closed = False
        named = pb.HealthCheckRequest.FromString
        encode = pb.HealthCheckResponse.SerializeToString
        self._methods = {
            SERVICE + "Check": grpc.unary_unary_rpc_method_handler(self._check, named, encode),
            SERVICE + "List": grpc.unary_unary_rpc_method_handler(
                self._list, pb.HealthListRequest.FromString, pb.HealthListResponse.SerializeToString
            ),
            SERVICE + "Watch": grpc.unary_stream_rpc_method_handler(self._watch, named, encode),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return the handler of a health method, None for any other."""
        return self._methods.get(handler_call_details.method)

    def close(self) -> None:
        """End the Watch streams, which would otherwise use up the whole grace of a stopping server."""
        self._closed = True
        for changed in self._open:
            changed.set()

    async def _check(self, request: pb.HealthCheckRequest, context: grpc.aio.ServicerContext) -> pb.HealthCheckResponse:
        answer = self._state.answer(request.service)
        if answer is Serving.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return pb.HealthCheckResponse(status=answer.name)

    async def _list(self, _request: pb.HealthListRequest, _context: grpc.aio.ServicerContext) -> pb.HealthListResponse:
        statuses = {name: pb.HealthCheckResponse(status=self._state.answer(name).name) for name in SERVICES}
        return pb.HealthListResponse(statuses=statuses)

    async def _watch(self, request: pb.HealthCheckRequest, context: grpc.aio.ServicerContext) -> None:
        """Send the status now and after every change, the last one only when the peer is slow, until it leaves."""
        if len(self._open) >= self._watchers_max:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watchers")
        changed = asyncio.Event()
        self._open.add(changed)
        unwatch = self._state.watch(changed.set)
        sent: Serving | None = None
        try:
            while not self._closed:
                changed.clear()
                answer = self._state.answer(request.service)
                if answer is not sent:
                    await context.write(pb.HealthCheckResponse(status=answer.name))
                    sent = answer
                await changed.wait()
        finally:
            unwatch()
            self._open.discard(changed)


class HealthServer:
    """The health service alone, in plaintext, on a port of its own."""

    def __init__(self, state: HealthState, *, watchers_max: int = WATCHERS_MAX) -> None:
        self._service = HealthService(state, watchers_max=watchers_max)
        self._server: grpc.aio.Server | None = None

    async def start(self, host: str = "[::]", port: int = 9003) -> int:
        """Listen and answer. Returns the bound port.

        Raises:
            OSError: the port cannot be bound.
        """
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers([self._service])
        bound = bind(server, f"{host}:{port}", None)
        await server.start()
        self._server = server
        return bound

    async def stop(self) -> None:
        """Stop at once; probes need no grace."""
        if self._server is not None:
            await self._server.stop(None)


def bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    """Return the port bound. Raises OSError, where grpc raises a bare RuntimeError."""
    try:
        return int(server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials))
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {str(error).partition(';')[0]}") from error  # the rest is about debugging grpc
