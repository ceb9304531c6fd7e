"""One replay: an engine is asked for the batches it still has, and each goes into the feed as it comes.

The engine answers on a ROUTER socket; the other side has to be a DEALER, since a REQ socket takes one reply only.
"""

import asyncio
import time
from typing import Final

import zmq

from epp.prefix.kv_events import END_OF_REPLAY, decode_replay
from epp.prefix.kv_feed import KvFeed
from epp.prefix.kv_stream import Replay
from epp.scrape.zmq_inlets import Inlet, Inlets

IDLE_S: Final = 2.0
"""Longest silence."""
TOTAL_S: Final = 120.0


class KvReplay:
    """Carries out one command.

    Args:
        command: what to ask for.
        feed: who gets the replies.
        inlets: who reads the socket.
        socket: a DEALER, not connected; closed when the replay is over.
    """

    def __init__(self, command: Replay, feed: KvFeed, inlets: Inlets, socket: zmq.Socket[bytes]) -> None:
        self._command = command
        self._feed = feed
        self._heard = 0
        self._over: asyncio.Future[Replay | None] = inlets.loop.create_future()
        self._socket = socket
        self._inlets = inlets

    async def run(self, address: str) -> Replay | None:
        """Return the command that follows, if any, once the end has come or the machine wants something else.

        Raises:
            TimeoutError: nothing came for `IDLE_S`, or it took more than `TOTAL_S`.
            zmq.ZMQError: the address is none.
            Exception: whatever a reply led to.
        """
        inlet = Inlet(self._inlets, self._socket, self._receive, self._fail)
        try:
            self._socket.connect(address)
            self._socket.send_multipart([b"", self._command.from_seq.to_bytes(8, "big")], zmq.NOBLOCK)
            self._inlets.ready(inlet)  # Sending may have used up the signal that there is something to read.
            async with asyncio.timeout(TOTAL_S):
                await self._wait()
            return self._over.result()
        finally:
            inlet.close()

    async def _wait(self) -> None:
        while not self._over.done():
            before = self._heard
            await asyncio.wait([self._over], timeout=IDLE_S)
            if self._heard == before and not self._over.done():
                raise TimeoutError

    def _receive(self, frames: list[bytes]) -> None:
        if self._over.done():
            return
        seq, payload = decode_replay(frames)
        self._heard += 1
        following = self._feed.receive_replay(self._command, seq, payload, time.time())
        if following is not None or seq == END_OF_REPLAY:
            self._over.set_result(following)

    def _fail(self, error: Exception) -> None:
        if not self._over.done():
            self._over.set_exception(error)
