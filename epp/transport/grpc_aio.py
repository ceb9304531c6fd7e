"""Carries ext_proc streams as bytes over grpcio's asyncio server.

A generic handler with no (de)serializers: the bytes of a message go to `StreamHandler.receive` as they came, and what the handler
gives its `Outlet` goes back as it is. Nothing of grpc leaves this package.

Protects from: a peer that never reads (`outlet_bytes_max`), a handler that raises (the stream ends with INTERNAL, the server goes
on), Envoy's keepalive pings (grpc's default policy tears the connection down in mid-response), and a second process that binds the
same port unnoticed. There is no limit on concurrent streams: grpc refuses the excess, and Envoy turns that into a 500.
"""

import asyncio
from collections import deque

import grpc
import grpc.aio

from epp.model.stream import StreamHandler
from epp.sockets import place
from epp.transport.base import Transport, TransportOptions
from epp.transport.routes import Route, Routes, log_failure
from epp.transport.tls import server_credentials

CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcAioTransport(Transport):
    """A `Transport` over grpcio, the reference that the native one is held against."""

    def __init__(self, options: TransportOptions) -> None:
        super().__init__(options)
        self._server: grpc.aio.Server | None = None

    async def _listen(self, routes: Routes) -> int:
        options = self.options
        credentials = server_credentials(options.tls)
        server = grpc.aio.server(options=channel_arguments(options))
        server.add_generic_rpc_handlers([_Handlers(routes, options.outlet_bytes_max)])
        port = _bind(server, place(options.host, options.port), credentials)
        await server.start()
        self._server = server
        return port

    async def _leave(self, grace_s: float) -> None:
        if self._server is not None:
            await self._server.stop(grace_s)


def channel_arguments(options: TransportOptions) -> list[tuple[str, int]]:
    """Return the settings of the grpc server."""
    return [
        ("grpc.max_receive_message_length", options.message_bytes_max),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", int(options.so_reuseport)),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def _bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    """Return the port bound. Raises OSError, where grpc raises a bare RuntimeError."""
    try:
        return int(server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials))
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {str(error).partition(';')[0]}") from error  # the rest is about debugging grpc


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Finds the handler of a method, whose messages stay bytes; for any other method grpc answers UNIMPLEMENTED."""

    def __init__(self, routes: Routes, outlet_bytes_max: int) -> None:
        self._methods = {path: self._method(route, outlet_bytes_max) for path, route in routes.items()}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._methods.get(handler_call_details.method)

    def _method(self, route: Route, outlet_bytes_max: int) -> grpc.RpcMethodHandler:
        async def carry(_requests: object, context: grpc.aio.ServicerContext) -> None:
            await _Stream(context, outlet_bytes_max).run(route)

        return grpc.stream_stream_rpc_method_handler(carry)


class _Stream:
    """One stream: the outlet of its handler, and the coroutine that reads, answers and ends it.

    Whoever finds the queue idle writes it out: the reader, for what the handler queues while it receives; the flusher, a task that
    exists from the first time something is queued at another moment, for the rest. `_writing` is true while one of them has the
    duty, so there are never two writes at once and the order is that of the queue.
    """

    __slots__ = (
        "_context",
        "_end",
        "_flusher",
        "_max",
        "_over",
        "_pending",
        "_queue",
        "_reader",
        "_receiving",
        "_wake",
        "_writing",
    )

    def __init__(self, context: grpc.aio.ServicerContext, outlet_bytes_max: int) -> None:
        self._context = context
        self._max = outlet_bytes_max
        self._queue: deque[bytes] = deque()
        self._pending = 0
        self._receiving = False
        self._writing = False
        self._over = False
        """Nothing more is taken from the handler."""
        self._end: tuple[grpc.StatusCode, str] | None = None
        """The status that the handler, or we, chose to end with; None leaves it to the peer."""
        self._reader: asyncio.Task[None] | None = asyncio.current_task()
        """Whom to cancel when the stream is ended while it waits for the peer; None once it waits no more."""
        self._flusher: asyncio.Task[None] | None = None
        self._wake: asyncio.Event | None = None

    def send(self, message: bytes) -> None:
        if self._over:
            return
        self._pending += len(message)
        if self._pending > self._max:
            self._overflow()
            return
        self._queue.append(message)
        if not (self._receiving or self._writing):
            self._wake_flusher()

    def close(self) -> None:
        self._finish(grpc.StatusCode.OK, "")

    def fail(self, code: int, message: str) -> None:
        self._finish(CODES.get(code, grpc.StatusCode.UNKNOWN), message)

    def pending_bytes(self) -> int:
        return self._pending

    async def run(self, route: Route) -> None:
        """Carry the stream from its first message to its status."""
        try:
            handler = route.accept(self)
            try:
                await self._carry(handler)
            finally:
                self._over = True
                handler.end()
        except Exception as error:  # noqa: BLE001 - whatever the handler raises, only this stream may suffer from it
            self._blame(error)
        finally:
            self._reader = None
            if self._flusher is not None:
                self._flusher.cancel()
        if self._end is not None and self._end[0] is not grpc.StatusCode.OK:
            await self._context.abort(*self._end)

    async def _carry(self, handler: StreamHandler) -> None:
        """Read and write until the peer has no more to say, or the stream has been ended and the queue is out.

        Raises:
            CancelledError: the peer cancelled or reset the stream, or the server stops.
        """
        try:
            await self._read(handler)
            if self._end is None and handler.half_close() and self._end is None:
                await asyncio.get_running_loop().create_future()  # until the peer cancels or the handler ends the stream
            self._over = True
            self._reader = None
            if self._flusher is not None and self._writing:
                await self._flusher
        except grpc.aio.BaseError:
            return  # The peer has gone while we wrote; grpc tells us by cancelling a moment later, or not at all.
        except asyncio.CancelledError:
            if self._end is None:
                raise
            # Ours, to get out of a read or write that would not have come back. The operation is left to grpc, which holds on
            # to its buffers until it completes.

    async def _read(self, handler: StreamHandler) -> None:
        """Give every message to the handler, and write out what it queues meanwhile.

        Cost: this is the path of every chunk of every response, so the write is spelled out here instead of called.
        """
        read, write, queue, receive = self._context.read, self._context.write, self._queue, handler.receive
        eof = grpc.aio.EOF
        while self._end is None:
            message = await read()
            if message is eof:
                return
            self._receiving = True
            receive(message)
            self._receiving = False
            if self._writing:
                continue
            self._writing = True
            while queue:
                message = queue.popleft()
                await write(message)
                self._pending -= len(message)
            self._writing = False

    async def _flush(self, wake: asyncio.Event) -> None:
        """Write out the queue each time it is woken; then, if the stream has been ended, get the reader out of its read."""
        queue, write = self._queue, self._context.write
        try:
            while queue or not self._over:
                await wake.wait()
                wake.clear()
                while queue:
                    message = queue.popleft()
                    await write(message)
                    self._pending -= len(message)
                self._writing = False
        except grpc.aio.BaseError:
            return  # As in `_carry`.
        self._stop_reading()

    def _wake_flusher(self) -> None:
        self._writing = True  # From now on, not from the task's first step on: the reader must not overtake it.
        if self._wake is None:
            self._wake = asyncio.Event()
            self._flusher = asyncio.create_task(self._flush(self._wake))
        self._wake.set()

    def _finish(self, code: grpc.StatusCode, message: str) -> None:
        """Take nothing more; end with this status once the queue is out."""
        if self._over:
            return
        self._over = True
        self._end = (code, message)
        if not (self._receiving or self._writing):
            self._stop_reading()

    def _overflow(self) -> None:
        """Fail the stream without waiting for a peer that does not read."""
        self._over = True
        self._queue.clear()
        self._end = (grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {self._max} bytes wait for the peer to read")
        if self._flusher is not None:
            self._flusher.cancel()
        if not self._receiving:
            self._stop_reading()

    def _stop_reading(self) -> None:
        if self._end is not None and self._reader is not None:
            self._reader.cancel()

    def _blame(self, error: Exception) -> None:
        """End the stream for an exception of the handler."""
        self._over = True
        self._end = (grpc.StatusCode.INTERNAL, "internal error")
        log_failure(error)
