"""ZMQ sockets read on the event loop, a little of each at a time.

A ZMQ socket has one file descriptor that says "look again" once, not "there is more": whoever looks must read until nothing is
left. With hundreds of engines that would hold the loop for long, so sockets that have something queue up here and share turns of
at most `TURN_S`. `kv_subscriber` opens an inlet per socket.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

import zmq

TURN_S: Final = 0.001
"""Longest time in one turn of the event loop, give or take one message."""
SHARE_MESSAGES: Final = 16
"""Messages of one socket before the next has its share."""

_log = logging.getLogger(__name__)


class Inlet:
    """One socket that is read.

    Args:
        inlets: who reads it.
        socket: closed with the inlet.
        receive: gets the frames of every message.
        fail: told of the error after which the socket is not read any more.
        before: another socket, of which everything is read before anything of this one.
    """

    __slots__ = ("_fd", "_inlets", "before", "closed", "fail", "queued", "receive", "socket")

    def __init__(
        self,
        inlets: "Inlets",
        socket: zmq.Socket[bytes],
        receive: Callable[[list[bytes]], None],
        fail: Callable[[Exception], None],
        *,
        before: "Inlet | None" = None,
    ) -> None:
        self.socket = socket
        self.before = before
        self.receive = receive
        self.fail = fail
        self.queued = False
        self.closed = False
        self._inlets = inlets
        self._fd: int = socket.fileno()
        inlets.loop.add_reader(self._fd, inlets.ready, self)
        inlets.ready(self)  # What came before the reader was there has been signalled already.

    def read(self) -> bool:
        """Hand over the next message; return whether there was one."""
        try:
            frames = self.socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return False
        self.receive(frames)
        return not self.closed

    def close(self) -> None:
        """Stop reading; what has not been read is dropped."""
        if not self.closed:
            self.closed = True
            self._inlets.loop.remove_reader(self._fd)
            self.socket.close(linger=0)


class Inlets:
    """The queue of sockets that have something."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._queue: deque[Inlet] = deque()
        self._scheduled = False

    def ready(self, inlet: Inlet) -> None:
        """There may be something to read; bounded by the number of sockets, since each is queued once."""
        if inlet.queued or inlet.closed:
            return
        inlet.queued = True
        self._queue.append(inlet)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        until = self.loop.time() + TURN_S
        while self._queue:
            inlet = self._queue.popleft()
            inlet.queued = False
            if self._share(inlet, until):
                self.ready(inlet)
            if self.loop.time() >= until:
                break
        if self._queue:
            self._schedule()

    def _share(self, inlet: Inlet, until: float) -> bool:
        """Read some messages of one socket; return whether there may be more."""
        try:
            while inlet.before is not None and not inlet.before.closed and inlet.before.read():
                pass
            for _ in range(SHARE_MESSAGES):
                if inlet.closed or not inlet.read():
                    return False
                if self.loop.time() >= until:
                    break
        except Exception as error:  # noqa: BLE001 - whatever one engine's messages lead to, the others' must be read on
            _log.warning("reading a ZMQ socket failed", extra={"error": type(error).__name__})
            inlet.close()
            inlet.fail(error)
            return False
        return True
