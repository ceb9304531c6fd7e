"""What can be asked to go wrong with a stand-in's requests: by header for one of them, by `POST /fault` for the next ones.

    x-fault-delay-ms: 500      wait before the first token
    x-fault-status: 503        answer with that status instead of tokens
    x-fault-reset: start       reset the connection at once; `middle`: after the first token

`POST /fault` takes the same as JSON (`delay_ms`, `status`, `reset`, for `requests` of them), and what concerns KV events:
`drop_event_batches`, `swap_event_batches`, `restart`. `{}` ends whatever was asked before.
"""

from collections.abc import Mapping

import msgspec


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens to a request; the default is nothing."""

    delay_ms: float = 0.0
    status: int = 0
    reset: str = ""


class FaultOrder(Fault, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /fault`."""

    requests: int | None = None
    """For how many requests the first three fields hold; None: until the next order."""
    drop_event_batches: int = 0
    swap_event_batches: int = 0
    restart: bool = False
    """The publisher and the cache become those of a new process; running requests are reset."""


class Faults:
    """What was ordered and how much of it is left."""

    def __init__(self) -> None:
        self._fault = Fault()
        self._left: int | None = 0

    def order(self, order: FaultOrder) -> None:
        """Take an order; the one before it ends."""
        self._fault = Fault(delay_ms=order.delay_ms, status=order.status, reset=order.reset)
        self._left = order.requests

    def next(self, headers: Mapping[str, str]) -> Fault:
        """Return what happens to the request that has just come: what its headers say, else what was ordered."""
        if any(name in headers for name in ("x-fault-delay-ms", "x-fault-status", "x-fault-reset")):
            return Fault(
                delay_ms=float(headers.get("x-fault-delay-ms", "0")),
                status=int(headers.get("x-fault-status", "0")),
                reset=headers.get("x-fault-reset", ""),
            )
        if self._left is None:
            return self._fault
        if self._left > 0:
            self._left -= 1
            return self._fault
        return Fault()
