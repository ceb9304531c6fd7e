"""The ZMQ side of the accurate strategy: a subscription per endpoint, and replays when its machine asks for one.

`sync` is called with every new snapshot of the pool and opens and closes subscriptions; frames go into `KvFeed`, commands that come
back become replay tasks. It protects the loop from engines (reading is shared out in small turns, see `zmq_inlets`), engines from
replays (a few at once, with back-off) and everything from one broken stream (it is opened anew, later, and logged).

How fast the index is right again: a gap or a restart is noticed with the next message or when the connection is back (0.1 to 1 s
after the engine is), and repaired in the time of a replay: one round trip and 10 us per batch. Without a replay socket, an endpoint
that lost something is degraded until it clears its cache, restarts, or `kv_stream.SETTLED_EVENTS` were understood.
"""

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Final

import zmq
from zmq.utils.monitor import parse_monitor_message

from epp.errors import ConfigError, WireError
from epp.model.snapshot import Snapshot
from epp.prefix.accurate import Accurate
from epp.prefix.kv_events import decode_live
from epp.prefix.kv_sources import Ports, Source, source_of
from epp.prefix.kv_stream import Replay
from epp.scrape.kv_replay import KvReplay
from epp.scrape.zmq_inlets import Inlet, Inlets

TICK_S: Final = 1.0
HWM_MESSAGES: Final = 10_000
"""Messages of one endpoint that wait in the socket; then the engine's side fills up and drops, which shows as a gap."""
RECONNECT_S: Final = 0.1
RECONNECT_MAX_S: Final = 1.0
HEARTBEAT_S: Final = 5.0
"""Silence after which an engine is asked whether it lives, and twice of that until it is given up."""
REOPEN_S: Final = 1.0
REOPEN_MAX_S: Final = 30.0
OPENED_AT_ONCE: Final = 8
OPEN_GAP_S: Final = 0.01
"""Sockets of a large pool are opened a few at a time: all at once would hold up a thousand endpoints' requests for a third of a
second, when a configuration with events takes the place of one without."""
REPLAYS_MAX: Final = 8
"""Replays at once, over all endpoints."""
SOCKETS_MAX: Final = 16_384
"""Two per endpoint and one per replay; libzmq's own default is 1023."""

_CONNECTED = int(zmq.Event.HANDSHAKE_SUCCEEDED)
_DISCONNECTED = int(zmq.Event.DISCONNECTED)
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Subscription:
    """One endpoint's sockets, replay task and failures."""

    source: Source
    inlets: list[Inlet] = field(default_factory=list)
    replay: asyncio.Task[None] | None = None
    failures: int = 0
    reopening: asyncio.TimerHandle | None = None


class KvSubscriber:
    """Subscriptions to all endpoints of a pool. Everything happens on one event loop.

    Args:
        strategy: whose feed gets the events.
        ports: of engines whose labels say nothing else.
    """

    def __init__(self, strategy: Accurate, ports: Ports | None = None) -> None:
        self._strategy = strategy
        self._feed = strategy.feed
        self._ports = ports or Ports()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, SOCKETS_MAX)
        self._inlets = Inlets(asyncio.get_running_loop())
        self._loop = self._inlets.loop
        self._subscriptions: dict[int, _Subscription] = {}
        self._replays = asyncio.Semaphore(REPLAYS_MAX)

    async def run(self) -> None:
        """Let time pass for the strategy until cancelled, then close everything."""
        try:
            while True:
                self._strategy.tick(self._loop.time())
                await asyncio.sleep(TICK_S)
        finally:
            await self.close()

    def sync(self, snapshot: Snapshot) -> None:
        """Subscribe to exactly the endpoints of a snapshot. Cost: a few microseconds per endpoint, 30 for a new one."""
        wanted: dict[int, Source] = {}
        for slot, endpoint in enumerate(snapshot.endpoints):
            if endpoint is None:
                continue
            try:
                wanted[slot] = source_of(endpoint, self._ports)
            except ConfigError as error:
                _log.warning("no KV events of an endpoint", extra={"endpoint": endpoint.name, "reason": error.message})
        for slot, subscription in list(self._subscriptions.items()):
            if wanted.get(slot) != subscription.source or slot not in self._feed:
                self._drop(slot)
        new = [(slot, source) for slot, source in wanted.items() if slot not in self._subscriptions]
        for count, (slot, source) in enumerate(new):
            subscription = self._subscriptions[slot] = _Subscription(source=source)
            endpoint = snapshot.endpoints[slot]
            assert endpoint is not None
            self._feed.attach(slot, endpoint, replayable=source.replay is not None)
            if count < OPENED_AT_ONCE:
                self._open(slot)
            else:
                delay_s = OPEN_GAP_S * (count // OPENED_AT_ONCE)
                subscription.reopening = self._loop.call_later(delay_s, self._open, slot)

    async def close(self) -> None:
        """Close all sockets."""
        tasks = [subscription.replay for subscription in self._subscriptions.values() if subscription.replay is not None]
        for slot in list(self._subscriptions):
            self._drop(slot)
        await asyncio.gather(*tasks, return_exceptions=True)
        self._context.destroy(linger=0)

    # --- live

    def _drop(self, slot: int) -> None:
        subscription = self._subscriptions.pop(slot)
        self._shut(subscription)
        if subscription.reopening is not None:
            subscription.reopening.cancel()
        self._feed.forget(slot)

    @staticmethod
    def _shut(subscription: _Subscription) -> None:
        for inlet in subscription.inlets:
            inlet.close()
        subscription.inlets.clear()
        if subscription.replay is not None:
            subscription.replay.cancel()

    def _open(self, slot: int) -> None:
        subscription = self._subscriptions[slot]
        subscription.reopening = None
        try:
            live = self._socket(zmq.SUB)
            live.setsockopt(zmq.SUBSCRIBE, b"")
            monitor = live.get_monitor_socket(_CONNECTED | _DISCONNECTED)
            news = Inlet(self._inlets, monitor, lambda frames: self._watch(slot, frames), lambda error: self._broke(slot, error))
            # An engine that restarted may go on with the very number we expect; only the news that the connection was another one
            # tells, and libzmq gives it before the first message, since it waits RECONNECT_S in between.
            events = Inlet(
                self._inlets,
                live,
                lambda frames: self._receive(slot, frames),
                lambda error: self._broke(slot, error),
                before=news,
            )
            subscription.inlets = [news, events]
            live.connect(subscription.source.live)
        except zmq.ZMQError as error:
            self._broke(slot, error)

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.IPV6, 1)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, HWM_MESSAGES)
        socket.setsockopt(zmq.RECONNECT_IVL, int(RECONNECT_S * 1000))
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, int(RECONNECT_MAX_S * 1000))
        socket.setsockopt(zmq.HEARTBEAT_IVL, int(HEARTBEAT_S * 1000))
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, int(HEARTBEAT_S * 2000))
        return socket

    def _watch(self, slot: int, frames: list[bytes]) -> None:
        """Take news of a connection."""
        event = parse_monitor_message(frames)["event"]
        if event == _CONNECTED:
            self._carry_out(self._feed.connected(slot))
        elif event == _DISCONNECTED:
            self._feed.disconnected(slot)

    def _receive(self, slot: int, frames: list[bytes]) -> None:
        try:
            seq, payload = decode_live(frames)
        except WireError:
            self._feed.malformed(slot)
            return
        command = self._feed.receive_live(slot, seq, payload, time.time())
        if command is not None:
            self._carry_out(command)

    def _broke(self, slot: int, error: Exception) -> None:
        """Open a broken subscription again, later; the machine notices the gap."""
        subscription = self._subscriptions.get(slot)
        if subscription is None or subscription.reopening is not None:
            return
        self._shut(subscription)
        self._feed.disconnected(slot)
        delay_s = min(REOPEN_S * 2.0 ** min(subscription.failures, 16), REOPEN_MAX_S)
        subscription.failures += 1
        facts = {"endpoint": subscription.source.endpoint, "error": type(error).__name__, "retry_s": delay_s}
        _log.warning("subscription to KV events broke", extra=facts)
        subscription.reopening = self._loop.call_later(delay_s, self._open, slot)

    # --- replay

    def _carry_out(self, command: Replay | None) -> None:
        """Start a replay; a later one takes the place of an earlier one."""
        subscription = None if command is None else self._subscriptions.get(command.slot)
        if command is None or subscription is None or subscription.source.replay is None:
            return
        if subscription.replay is not None:
            subscription.replay.cancel()
        subscription.replay = self._loop.create_task(self._replay(command, subscription.source.replay))

    async def _replay(self, command: Replay, address: str) -> None:
        await asyncio.sleep(command.delay_s)
        async with self._replays:
            try:
                following = await KvReplay(command, self._feed, self._inlets, self._socket(zmq.DEALER)).run(address)
            except Exception as error:  # noqa: BLE001 - whatever a reply led to, the endpoint is degraded and asked again, later
                _log.info("replay of KV events failed", extra={"slot": command.slot, "error": type(error).__name__})
                following = self._feed.replay_failed(command, time.time())
        if following is not None:
            self._loop.call_soon(self._carry_out, following)
