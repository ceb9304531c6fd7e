"""The seam between what answers ext_proc messages and what carries them.

A transport accepts a stream, calls `accept(outlet)` and gets a `StreamHandler`. From then on it hands over every message as the
serialized bytes it arrived as, and takes serialized bytes back. Everything happens on the event loop; calls never block or await.
"""

from collections.abc import Callable
from typing import Protocol


class Outlet(Protocol):
    """The way back to the peer of one stream. Owned by the transport."""

    def send(self, message: bytes) -> None:
        """Queue one message. After `close`, `fail` or the end of the stream it does nothing."""

    def close(self) -> None:
        """End the stream with status OK once everything queued has gone out."""

    def fail(self, code: int, message: str) -> None:
        """End the stream with gRPC status `code` once everything queued has gone out."""

    def pending_bytes(self) -> int:
        """Bytes queued and not yet taken by the peer; lets a producer hold back."""


class StreamHandler(Protocol):
    """What answers one stream."""

    def receive(self, message: bytes) -> None:
        """Take one message. May call the outlet at once or later."""

    def half_close(self) -> bool:
        """The peer has said all it will, and still listens.

        Returns:
            Whether the stream goes on: until the handler closes it, or the peer gives it up. If not, it ends with OK.
        """

    def end(self) -> None:
        """The stream is over: ended by either side, cancelled, reset, or the server stops. Called exactly once."""


Accept = Callable[[Outlet], StreamHandler]
