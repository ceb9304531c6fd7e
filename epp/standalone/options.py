"""What our own Envoy is asked to do: one frozen struct, read by the bootstrap builder, filled by the command line and by tests.

Bounds stand here with their defaults, so that a reader of one file knows what the proxy will hold, wait for and retry.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

EXT_PROC_SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
PICKER_CLUSTER = "picker"
POOL_CLUSTER = "pool"
DECISION_NAMESPACE = "envoy.lb"
SUBSET_NAMESPACE = "envoy.lb.subset_hint"
DESTINATION_HEADER = "x-gateway-destination-endpoint"
SERVED_KEY = "x-gateway-destination-endpoint-served"
SUBSET_KEY = "x-gateway-destination-endpoint-subset"

CLIENT_MAY_NOT_SEND = (DESTINATION_HEADER, SERVED_KEY, SUBSET_KEY)
"""Routing headers that only the picker and the gateway may set: with them a client could choose the address Envoy connects to."""


class Mode(Enum):
    """How much of a request and its response passes through the picker."""

    FULL_DUPLEX = "full-duplex"
    """Both bodies, streamed: what a Gateway API gateway sends. The picker sees usage and first tokens."""
    LEAN = "lean"
    """The request body and the response headers: a response chunk costs the picker nothing."""
    BUFFERED = "buffered"
    """The request body as one message; the response body passes by."""
    BUFFERED_BOTH = "buffered-both"
    """Both bodies as one message each, with mode override allowed. Without an override by the picker streams are held back."""
    STREAMED = "streamed"
    """Both bodies in pieces that Envoy keeps until they are answered."""

    @property
    def buffered(self) -> bool:
        """Whether Envoy collects a whole body before it shows it."""
        return self in {Mode.BUFFERED, Mode.BUFFERED_BOTH}


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketAddress:
    """An IP literal (without brackets) and a port; port 0 lets the kernel choose."""

    port: int
    host: str = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointFile:
    """Envoy follows this file of endpoints (`endpoints.write`); a replacement by rename takes effect at once."""

    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointList:
    """The endpoints never change."""

    addresses: Sequence[SocketAddress]


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginalDestination:
    """Envoy knows no endpoint: it connects to whatever single address the destination header names."""


PoolSource = EndpointFile | EndpointList | OriginalDestination


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoyOptions:
    """Everything that varies between one of our Envoys and the next. `seconds` and `bytes` as the names say."""

    listener: SocketAddress
    admin: SocketAddress = field(default_factory=lambda: SocketAddress(port=0))
    pickers: Sequence[SocketAddress]
    """One per picker process: the same port for two processes would give all streams of a connection to one of them."""
    picker_tls: bool = True
    picker_ca: Path | None = None
    """PEM file the picker's certificate is checked against; None accepts any, as a self-signed one needs."""
    picker_health: str = EXT_PROC_SERVICE
    """Health service that says whether a picker is to be asked. `liveness` for a single one, which is to be asked also while it
    drains: there is no other to turn to."""
    pool: PoolSource
    mode: Mode = Mode.FULL_DUPLEX
    fail_open: bool = False
    """Whether requests go on, to any endpoint, while no picker is healthy."""
    client_may_not_send: Sequence[str] = CLIENT_MAY_NOT_SEND
    request_metadata: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Namespace -> values put on every request before the picker sees it, as a gateway does with its subset hint."""
    access_log: bool = False
    """One line a request on standard output."""

    stream_idle_timeout_s: float = 600
    """A request without any byte in either direction ends after this; longer than any queueing and first token."""
    message_timeout_s: float = 10
    """How long the picker may take for one answer; not applied while a body is full duplex."""
    connect_timeout_s: float = 2
    retries: int = 2
    """Attempts after the first, only where the endpoint never saw the request. 0 for none.

    With retries Envoy 1.40 sends the body of a request that ends with trailers twice (envoyproxy/envoy#45470), so a request that
    announces trailers is not retried.
    """
    picker_retries: int = 2
    """Attempts after the first to open a stream to a picker, each at another one if there is one. 0 for none.

    Without them a picker that dies costs every request that Envoy sends its way until a health check has timed out, more than a
    second's worth: a refused connection is no failed check.
    """
    streams_max: int = 40_000
    """Concurrent requests, connections and pending requests per cluster. Envoy's default, 1024, turns a busy hour into errors."""
    buffer_bytes: int = 1 << 20
    """What Envoy holds per connection before it stops reading."""
    buffered_body_bytes_max: int = 64 << 20
    """Takes the place of `buffer_bytes` in the buffered modes, where a whole body has to fit."""
    health_interval_s: float = 2
    """Between two health checks of a picker; it bounds how long a dead picker costs errors when failing open."""
    endpoint_idle_timeout_s: float = 4
    """Below the 5 s after which vLLM closes an idle connection (VLLM_HTTP_TIMEOUT_KEEP_ALIVE): no request meets the close."""

    @property
    def connection_buffer_bytes(self) -> int:
        """What Envoy may hold per connection, by mode."""
        return self.buffered_body_bytes_max if self.mode.buffered else self.buffer_bytes
