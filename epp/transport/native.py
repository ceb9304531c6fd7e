"""Carries ext_proc streams as bytes over our own HTTP/2, for a fraction of what grpcio needs.

Bytes of a socket pass `native_link` (asyncio), `http2` (frames, flow control, limits), `native_call` and `grpc_wire` (gRPC), and
reach the handler within one call of the event loop: no task, no queue, no thread. With uvloop or without.

Protects from: everything in `http2.limits`, too many connections, peers that vanish (keepalive) or do not read, incomplete messages
that pile up, and a second process that binds the same port unnoticed.
"""

import asyncio
from contextlib import suppress

from epp.model.budget import Budget
from epp.sockets import listen
from epp.transport.base import Transport, TransportOptions
from epp.transport.native_link import LINGER_S, Link, Shared
from epp.transport.routes import Routes
from epp.transport.tls import server_context

BACKLOG = 1024
HANDSHAKE_TIMEOUT_S = 10.0
TLS_SHUTDOWN_TIMEOUT_S = 0.5
"""For the peer's part in closing, which tells us nothing."""
TICK_S = 1.0


class NativeTransport(Transport):
    """A `Transport` without grpcio."""

    def __init__(self, options: TransportOptions) -> None:
        super().__init__(options)
        self._server: asyncio.Server | None = None
        self._shared: Shared | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def _listen(self, routes: Routes) -> int:
        options = self.options
        context = server_context(options.tls)
        listening = listen(options.host, options.port, reuse_port=options.so_reuseport)
        shared = self._shared = Shared(options=options, routes=routes, inbound=Budget(options.inbound_bytes_max))
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Link(shared),
            sock=listening,
            backlog=BACKLOG,
            ssl=context,
            ssl_handshake_timeout=None if context is None else HANDSHAKE_TIMEOUT_S,
            ssl_shutdown_timeout=None if context is None else TLS_SHUTDOWN_TIMEOUT_S,
        )
        self._tick()
        port: int = listening.getsockname()[1]
        return port

    async def _leave(self, grace_s: float) -> None:
        if self._server is None or self._shared is None:
            return
        self._server.close()
        for link in tuple(self._shared.links):
            link.begin_stop()
        await self._empty(grace_s)
        for link in tuple(self._shared.links):
            link.stop_now()
        await self._empty(LINGER_S)
        for link in tuple(self._shared.links):
            link.abort()
        if self._timer is not None:
            self._timer.cancel()

    async def _empty(self, within_s: float) -> None:
        """Wait until there is no connection left."""
        assert self._shared is not None
        if self._shared.links and within_s > 0:
            self._shared.gone.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(within_s):  # `wait_for` of Python 3.11 can swallow the cancellation by a second signal
                    await self._shared.gone.wait()

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._shared is not None:
            for link in tuple(self._shared.links):
                link.tick(now)
        self._timer = loop.call_later(TICK_S, self._tick)
