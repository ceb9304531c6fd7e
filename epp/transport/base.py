"""A server of streams, whatever carries them: its options, its start and its stop.

Two kinds exist, `native` and `grpc_aio`, with one contract, held by one suite of tests. The picker runs two servers: one with the
ext_proc method and the health service beside it, where Envoy's `grpc_health_check` asks; one with health alone, in plaintext, where
the kubelet's probe asks (it cannot speak TLS).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from epp.http2.limits import Limits
from epp.model.stream import Accept
from epp.telemetry.health import HealthState
from epp.transport.health import HealthService
from epp.transport.routes import PROCESS_METHOD, Route, Routes
from epp.transport.tls import TlsOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportOptions:
    """Where to listen and what to allow."""

    host: str = "[::]"
    """Address to bind; `[::]` is IPv6 and IPv4."""
    port: int = 9002
    """0 means any free one."""
    tls: TlsOptions = field(default_factory=TlsOptions)
    message_bytes_max: int = -1
    """Largest message taken, bytes; -1 means any. A body in BUFFERED mode is one message, so grpc's usual 4 MiB would be a 500."""
    outlet_bytes_max: int = 64 << 20
    """Most bytes a stream may have queued for its peer. Above the largest body, since a body is queued in one go."""
    so_reuseport: bool = False
    """Let several processes share the port; the kernel then spreads connections, not streams."""
    watchers_max: int = 256
    """Open Watch streams of the health service; the next is RESOURCE_EXHAUSTED. Check has no such limit."""

    # What follows is heeded by the native transport only; grpcio has its own ways.

    http2: Limits = field(default_factory=Limits)
    """The bounds of each connection."""
    connections_max: int = 4096
    """The next one is closed unheard."""
    inbound_bytes_max: int = 512 << 20
    """Bytes of incomplete messages on all connections; the stream that passes it ends with RESOURCE_EXHAUSTED."""
    keepalive_s: float = 60.0
    """A peer with open streams that has been silent this long is pinged, and after this long again its connection is cut."""


class Transport(ABC):
    """A server for the one ext_proc method, the health service, or both."""

    def __init__(self, options: TransportOptions) -> None:
        self.options = options
        self._health: HealthService | None = None

    async def start(self, accept: Accept | None, health: HealthState | None = None) -> int:
        """Listen; call `accept` for every ext_proc stream, and answer for `health`. Returns the bound port.

        Raises:
            ConfigError: the certificate or the TLS version cannot be used.
            OSError: the port cannot be bound.
        """
        routes: dict[str, Route] = {}
        if accept is not None:
            routes[PROCESS_METHOD] = Route(accept=accept)
        if health is not None:
            self._health = HealthService(health, watchers_max=self.options.watchers_max)
            routes |= self._health.routes()
        return await self._listen(routes)

    async def stop(self, grace_s: float) -> None:
        """Ask for no new streams, wait up to `grace_s` for the open ones, then cut them. Every handler hears `end`."""
        if self._health is not None:
            self._health.close()
        await self._leave(grace_s)

    @abstractmethod
    async def _listen(self, routes: Routes) -> int:
        """Do what `start` promises."""

    @abstractmethod
    async def _leave(self, grace_s: float) -> None:
        """Do what `stop` promises."""
