"""The event stream of one endpoint: in what order its batches count, and how far what they say can be trusted.

Messages may be lost (a full queue drops them), the engine may restart unseen, and what was sent before we subscribed exists only in
the engine's replay buffer, if it has one. The sequence numbers show the losses; this machine turns them into commands to replay and
into a standing. No sockets and no clock: `scrape.kv_subscriber` carries messages in and commands out, `kv_feed` keeps one machine
per endpoint.

    RECOVERING   not connected yet, nothing heard yet, or a replay under way; live messages wait in a bounded buffer
    EXACT        every batch since the engine started, or since it cleared its cache, has been applied
    DEGRADED     batches were lost for good: all was forgotten then, and what is known since is true but not all there is

What an endpoint is believed to hold is always a lower bound that was true when the last applied batch was sent: whenever a removal
may have been missed for good, everything is forgotten. So a degraded endpoint goes on answering with what it verifiably holds, and
a recovering one with what it held a moment ago.

A restart is seen in three ways: discovery says so, which makes a new machine; the sequence goes back; or, since a fast engine may
have passed the old number before we are connected again, a replay that starts *at the last batch we have* returns another one.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from epp.errors import WireError
from epp.prefix.kv_events import END_OF_REPLAY, Cleared, Stored, decode_batch
from epp.prefix.residency import Parking, Residency

BUFFER_BATCHES_MAX: Final = 4096
"""Live messages kept while a replay runs. Those beyond are dropped, which shows as a gap and starts the next replay."""
BUFFER_BYTES_MAX: Final = 16 << 20
ATTEMPTS_MAX: Final = 3
"""Replays in a row that may fail to bring the stream up to date before the endpoint counts as degraded."""
BACKOFF_S: Final = 0.1
BACKOFF_MAX_S: Final = 30.0
SETTLED_EVENTS: Final = 1000
"""Stored events in a row whose parents were all known, after which a degraded endpoint counts as exact: if it still held a block we
do not know and anybody used it, new blocks would hang on that one."""


class Standing(Enum):
    """How far an endpoint's blocks are known."""

    EXACT = "exact"
    RECOVERING = "recovering"
    DEGRADED = "degraded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A command: ask the engine for its batches from `from_seq` on, after `delay_s`. A later ticket makes an earlier one void."""

    slot: int
    ticket: int
    from_seq: int
    delay_s: float = 0.0


class KvStream:
    """The machine of one endpoint. Inputs return the replay to ask for, if any.

    Args:
        residency: what the endpoint holds.
        slot: for the commands.
        replayable: whether a replay can be asked for.
        foreign: tells whether batches of a data-parallel rank belong to another endpoint.
    """

    def __init__(self, residency: Residency, slot: int, *, replayable: bool, foreign: Callable[[int], bool]) -> None:
        self.residency = residency
        self.counts = residency.counts
        self.standing = Standing.RECOVERING
        self.epoch = 0
        """Lives of the engine seen so far."""
        self._slot = slot
        self._replayable = replayable
        self._foreign = foreign
        self._linked = False
        self._next: int | None = None
        """Sequence number to apply next; None: nothing heard yet."""
        self._last = b""
        """The last applied message, whole: replaying it proves that the engine is still the same."""
        self._last_live = -1
        self._last_heard = b""
        """The message of that number, applied or waiting."""
        self._complete = False
        self._unsure = False
        """Reconnected without a replay: the next number decides."""
        self._settling = 0
        self._ticket = 0
        self._asked: int | None = None
        """First number of the replay under way."""
        self._patient = False
        """That replay is a retry in the background: until it starts, live messages are applied."""
        self._replaying = False
        """The first reply has come."""
        self._attempts = 0
        self._buffer: deque[tuple[int, bytes]] = deque()
        self._buffer_bytes = 0

    # --- inputs

    def connected(self) -> Replay | None:
        """The live connection stands, for the first time or again."""
        first, self._linked = self._next is None, True
        if self._replayable:
            owed = self._asked is not None and self._patient  # A replay of everything, still to come.
            command = self._ask(0 if first or owed else self._probe_from())
        else:
            self._unsure, command = not first, None
        self._judge()
        return command

    def disconnected(self) -> None:
        """The live connection is lost."""
        self._linked = False
        self._judge()

    def receive_live(self, seq: int, payload: bytes, now_s: float) -> Replay | None:
        """Take a message of the live stream. `now_s` is wall time, for the lag."""
        self._linked = True
        if seq == self._last_live and payload == self._last_heard:
            self.counts.duplicates += 1
            return None
        before, self._last_live, self._last_heard = self._last_live, seq, payload
        command = None
        if seq <= before:
            command = self._went_back(seq, payload, now_s)
        elif self._buffering:
            self._keep(seq, payload)
        else:
            command = self._advance(seq, payload, now_s)
        self._judge()
        return command

    def receive_replay(self, ticket: int, seq: int, payload: bytes, now_s: float) -> Replay | None:
        """Take a reply to the replay with this ticket, the end included."""
        if ticket != self._ticket or self._asked is None:
            return None
        if seq == END_OF_REPLAY:
            command = self._finish(now_s)
        elif self._replaying:
            command = self._go_on(seq, payload, now_s)
        else:
            command = self._begin_replay(seq, payload, now_s)
        self._judge()
        return command

    def replay_failed(self, ticket: int, now_s: float) -> Replay | None:
        """The replay with this ticket timed out or broke off: the endpoint is degraded until a later one succeeds."""
        if ticket != self._ticket or self._asked is None:
            return None
        self.counts.replay_failures += 1
        if self._patient and not self._replaying:  # What came live meanwhile was applied, and stays.
            return self._ask(0, patient=True)
        resumable = self._replaying and self._attempts <= ATTEMPTS_MAX
        command = self._ask(self._probe_from()) if resumable else self._give_up(now_s)
        self._judge()
        return command

    # --- replay

    @property
    def _buffering(self) -> bool:
        return self._asked is not None and (self._replaying or not self._patient)

    def _probe_from(self) -> int:
        """The last batch we have, inclusive; 0 when there is none."""
        return max(0, (self._next or 0) - 1)

    def _ask(self, from_seq: int, *, patient: bool = False) -> Replay:
        delay_s = 0.0 if self._attempts == 0 else min(BACKOFF_S * 2.0 ** min(self._attempts, 16), BACKOFF_MAX_S)
        self._attempts += 1
        self._ticket += 1
        self._asked, self._patient, self._replaying = from_seq, patient, False
        self.counts.replays += 1
        return Replay(slot=self._slot, ticket=self._ticket, from_seq=from_seq, delay_s=delay_s)

    def _begin_replay(self, seq: int, payload: bytes, now_s: float) -> Replay | None:
        if self._asked and not (seq == self._asked and payload == self._last):
            # Another process, or the buffer no longer reaches back to our last batch: both mean start over.
            return self._begin_anew()
        self._replaying = True
        self.residency.parking = Parking()
        if self._asked == 0 and not (seq == 0 and self._next == 1 and payload == self._last):
            self._start_over(seq)
        return self._go_on(seq, payload, now_s)

    def _begin_anew(self) -> Replay:
        """A replay has shown a new engine: ask for all that it has published."""
        self._begin_epoch()
        # What was heard live may be of the old engine: a lower number must not count as another restart.
        self._last_live, self._last_heard = -1, b""
        return self._ask(0)

    def _start_over(self, seq: int) -> None:
        """Forget everything; the next batch is `seq`."""
        self.residency.reset()
        self._complete = seq == 0
        self._settling = 0
        self._next = seq

    def _go_on(self, seq: int, payload: bytes, now_s: float) -> Replay | None:
        if self._next is not None and seq > self._next:
            # A ROUTER socket drops what a slow connection cannot take; what is missing can be asked for again.
            if self._attempts <= ATTEMPTS_MAX:
                return self._ask(self._probe_from())
            self._start_over(seq)
        if seq == self._next:
            self._apply(seq, payload, now_s)
        return None

    def _finish(self, now_s: float) -> Replay | None:
        if not self._replaying:
            if self._asked:  # Nothing at or behind our last batch: the engine has begun anew and is not there yet.
                return self._begin_anew()
            self._start_over(0)  # It has published nothing so far.
        self._asked = None
        command = self._drain(now_s)
        if command is not None and self._attempts > ATTEMPTS_MAX:
            return self._give_up(now_s)
        if command is None:
            self._attempts = 0
            self.residency.end_parking()
        return command

    def _give_up(self, now_s: float) -> Replay:
        """Go on without the past, and try again in the background."""
        self._asked = None
        if self._buffer:
            self._start_over(self._buffer[0][0])
        elif self._last_live >= 0:
            self._start_over(self._last_live + 1)
            self._last = b""  # It is forgotten with the rest: a replay that begins with it must not take it for known.
        else:
            self._start_over(0)
            self._next = None  # Nothing heard so far: the first message says where we are.
        self._attempts = max(self._attempts, 1)
        retry = self._ask(0, patient=True)
        self._drain(now_s)
        self.residency.end_parking()
        return retry

    def _drain(self, now_s: float) -> Replay | None:
        """Apply what came live meanwhile, up to the next gap."""
        while self._buffer:
            seq, payload = self._buffer.popleft()
            self._buffer_bytes -= len(payload)
            command = self._advance(seq, payload, now_s)
            if command is not None:
                return command
        return None

    def _keep(self, seq: int, payload: bytes) -> None:
        if len(self._buffer) >= BUFFER_BATCHES_MAX or self._buffer_bytes + len(payload) > BUFFER_BYTES_MAX:
            self.counts.buffer_drops += 1
            return
        self._buffer.append((seq, payload))
        self._buffer_bytes += len(payload)

    # --- live

    def _went_back(self, seq: int, payload: bytes, now_s: float) -> Replay | None:
        """The sequence went back: a new engine."""
        self._begin_epoch()
        if self._replayable:
            self._keep(seq, payload)
            return self._ask(0)
        self._start_over(seq)
        self._apply(seq, payload, now_s)
        return None

    def _begin_epoch(self) -> None:
        self.epoch += 1
        self.counts.restarts += 1
        self.residency.reset()
        self._complete, self._settling = False, 0
        self._next, self._last = 0, b""
        self._asked = None
        self._buffer.clear()
        self._buffer_bytes = 0

    def _advance(self, seq: int, payload: bytes, now_s: float) -> Replay | None:
        self._unsure = False
        if self._next is None:
            self._start_over(seq)
        elif seq > self._next:
            self.counts.gaps += 1
            if self._replayable and self._asked is None:
                self._buffer.appendleft((seq, payload))
                self._buffer_bytes += len(payload)
                return self._ask(self._probe_from())
            self._start_over(seq)
        if seq == self._next:
            self._apply(seq, payload, now_s)
        else:
            self.counts.duplicates += 1  # A replay brought it already.
        return None

    def _apply(self, seq: int, payload: bytes, now_s: float) -> None:
        self._next, self._last = seq + 1, payload
        self.counts.batches += 1
        try:
            batch = decode_batch(payload)
        except WireError:  # The replay buffer holds the same bytes: nothing can bring this batch back.
            self.counts.decode_errors += 1
            self._start_over(seq + 1)
            self._complete = False
            return
        self.counts.skipped += batch.skipped
        self.counts.lag_s = now_s - batch.ts
        if batch.rank is not None and self._foreign(batch.rank):
            self.counts.foreign += 1
            return
        orphans = self.counts.orphans
        for event in batch.events:
            self.residency.apply(event)
            if event.__class__ is Cleared:
                self._complete = True
        if self.residency.overfull:
            self.residency.overfull = self._complete = False
        if not self._complete:
            stored = sum(event.__class__ is Stored for event in batch.events)
            self._settling = self._settling + stored if orphans == self.counts.orphans else 0
            self._complete = self._settling >= SETTLED_EVENTS

    def _judge(self) -> None:
        if not self._linked or self._next is None or self._unsure or (self._asked is not None and not self._patient):
            self.standing = Standing.RECOVERING
        else:
            self.standing = Standing.EXACT if self._complete else Standing.DEGRADED
