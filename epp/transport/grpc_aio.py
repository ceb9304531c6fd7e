"""Carries ext_proc streams as bytes over grpcio's asyncio server.

A generic handler with no (de)serializers: the bytes of a message go to `StreamHandler.receive` as they came, and what the handler
gives its `Outlet` goes back as it is. The composition root starts and stops it; nothing of grpc leaves this package.

Protects from: a peer that never reads (`outlet_bytes_max`), a handler that raises (the stream ends with INTERNAL, the server goes
on), Envoy's keepalive pings (grpc's default policy tears the connection down in mid-response), and a second process that binds the
same port unnoticed. There is no limit on concurrent streams: grpc refuses the excess, and Envoy turns that into a 500.
"""

import asyncio
import logging
import traceback
from collections import deque
from dataclasses import dataclass, field

import grpc
import grpc.aio

from epp.model.stream import Accept, StreamHandler
from epp.telemetry.health import HealthState
from epp.transport.health import HealthService, bind
from epp.transport.tls import TlsOptions, server_credentials

log = logging.getLogger(__name__)

PROCESS_METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportOptions:
    """Where to listen and what to allow."""

    host: str = "[::]"
    """Address to bind; `[::]` is IPv6 and IPv4."""
    port: int = 9002
    """0 means any free one."""
    tls: TlsOptions = field(default_factory=TlsOptions)
    message_bytes_max: int = -1
    """Largest message taken, bytes; -1 means any. A body in BUFFERED mode is one message, so grpc's own 4 MiB would be a 500."""
    outlet_bytes_max: int = 64 << 20
    """Most bytes a stream may have queued for its peer. Above the largest body, since a body is queued in one go."""
    so_reuseport: bool = False
    """Let several processes share the port; the kernel then spreads connections, not streams."""

    def channel_arguments(self) -> list[tuple[str, int]]:
        """Return the settings of the grpc server."""
        return [
            ("grpc.max_receive_message_length", self.message_bytes_max),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", int(self.so_reuseport)),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
            ("grpc.http2.max_ping_strikes", 0),
            ("grpc.keepalive_permit_without_calls", 1),
        ]


class GrpcAioTransport:
    """A server for the one ext_proc method, with the health service beside it."""

    def __init__(self, options: TransportOptions) -> None:
        self._options = options
        self._server: grpc.aio.Server | None = None
        self._health: HealthService | None = None

    async def start(self, accept: Accept, health: HealthState | None = None) -> int:
        """Listen, and call `accept` for every stream. Returns the bound port.

        Raises:
            ConfigError: the certificate or the TLS version cannot be used.
            OSError: the port cannot be bound.
        """
        options = self._options
        credentials = server_credentials(options.tls)
        server = grpc.aio.server(options=options.channel_arguments())
        handlers: list[grpc.GenericRpcHandler] = [_ProcessHandler(accept, options.outlet_bytes_max)]
        if health is not None:
            self._health = HealthService(health)
            handlers.append(self._health)
        server.add_generic_rpc_handlers(handlers)
        port = bind(server, f"{options.host}:{options.port}", credentials)
        await server.start()
        self._server = server
        return port

    async def stop(self, grace_s: float) -> None:
        """Refuse new streams at once, wait up to `grace_s` for the open ones, then cut them. Every handler hears `end`."""
        if self._health is not None:
            self._health.close()
        if self._server is not None:
            await self._server.stop(grace_s)


class _ProcessHandler(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers the ext_proc method, whose messages stay bytes; every other method is somebody else's or UNIMPLEMENTED."""

    def __init__(self, accept: Accept, outlet_bytes_max: int) -> None:
        self._accept = accept
        self._outlet_bytes_max = outlet_bytes_max
        self._method = grpc.stream_stream_rpc_method_handler(self._process)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._method if handler_call_details.method == PROCESS_METHOD else None

    async def _process(self, _requests: object, context: grpc.aio.ServicerContext) -> None:
        await _Stream(context, self._outlet_bytes_max).run(self._accept)


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

    async def run(self, accept: Accept) -> None:
        """Carry the stream from its first message to its status."""
        try:
            handler = accept(self)
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
        """End the stream for an exception of the handler. Its message is not logged: it may quote what the client sent."""
        self._over = True
        self._end = (grpc.StatusCode.INTERNAL, "internal error")
        frames = "".join(traceback.format_tb(error.__traceback__))
        log.error("handler failed", extra={"exception": type(error).__name__, "frames": frames})
