"""The event streams of all endpoints: who they are, how they stand, which block sizes they use.

`scrape.kv_subscriber` announces endpoints and hands over what their sockets bring; commands to replay go back to it. An endpoint is
known by its slot, from discovery; neither the topic of a message nor the address it came from is believed.

Data parallelism: an endpoint is one rank, with a stream of its own (port base + rank). A batch may name its rank. When that is the
rank of another endpoint at the same address, the batch is left to that one; any other rank means that the engine numbers its ranks
differently from the pool (one pod per rank), and the socket decides.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from epp.model.endpoint import Endpoint
from epp.prefix.kv_stream import KvStream, Replay, Standing
from epp.prefix.lanes import Lanes
from epp.prefix.residency import Counts, Residency
from epp.prefix.token_keys import PromptKeys

SIZES_MAX: Final = 4
"""Block sizes in use at once; each is another chain of keys per prompt. Endpoints of further sizes are never matched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamReport:
    """How one endpoint's stream is, for metrics and the console."""

    slot: int
    endpoint: Endpoint
    standing: Standing
    blocks: int
    block_tokens: int
    epoch: int
    counts: Counts


class KvFeed:
    """One machine per endpoint.

    Args:
        lanes: the masks that all of them write.
    """

    def __init__(self, lanes: Lanes) -> None:
        self.standings: dict[Standing, int] = dict.fromkeys(Standing, 0)
        """How many endpoints stand how."""
        self.sizes: tuple[int, ...] = ()
        """Block sizes in use, that of most endpoints first."""
        self.adapters: set[str] = set()
        """Names of LoRA adapters that events spoke of."""
        self.version = 0
        """Goes up whenever `standings` changes."""
        self._lanes = lanes
        self._streams: dict[int, KvStream] = {}
        self._endpoints: dict[int, Endpoint] = {}
        self._ranks: dict[tuple[str, int], int] = {}
        """(address, rank) -> how many endpoints have it."""

    def attach(self, slot: int, endpoint: Endpoint, *, replayable: bool) -> None:
        """Take an endpoint in; whatever was known of its slot is forgotten."""
        self.forget(slot)
        self._endpoints[slot] = endpoint
        self._count_rank(endpoint, 1)

        def foreign(rank: int) -> bool:
            return rank != endpoint.rank and (endpoint.address, rank) in self._ranks

        stream = KvStream(Residency(self._lanes, slot, self.adapters), slot, replayable=replayable, foreign=foreign)
        self._streams[slot] = stream
        self.standings[stream.standing] += 1
        self.version += 1

    def __contains__(self, slot: int) -> bool:
        return slot in self._streams

    def forget(self, slot: int) -> None:
        """The endpoint in `slot` has gone. Constant time; what it held is swept later."""
        stream = self._streams.pop(slot, None)
        if stream is not None:
            stream.residency.close()
            self._count_rank(self._endpoints.pop(slot), -1)
            self.standings[stream.standing] -= 1
            self.version += 1
            self._settle_sizes()

    def connected(self, slot: int) -> Replay | None:
        """The live connection of an endpoint stands, for the first time or again."""
        return self._drive(slot, KvStream.connected)

    def disconnected(self, slot: int) -> None:
        """The live connection of an endpoint is lost."""
        self._drive(slot, KvStream.disconnected)

    def receive_live(self, slot: int, seq: int, payload: bytes, now_s: float) -> Replay | None:
        """Take a message of the live stream; `now_s` is wall time. Messages for an endpoint that has gone are dropped."""
        self._lanes.sweep()
        return self._drive(slot, lambda stream: stream.receive_live(seq, payload, now_s))

    def receive_replay(self, command: Replay, seq: int, payload: bytes, now_s: float) -> Replay | None:
        """Take one reply to a replay, the end included."""
        return self._drive(command.slot, lambda stream: stream.receive_replay(command.ticket, seq, payload, now_s))

    def replay_failed(self, command: Replay, now_s: float) -> Replay | None:
        """A replay timed out or broke off."""
        return self._drive(command.slot, lambda stream: stream.replay_failed(command.ticket, now_s))

    def sent(self, slot: int, prompt: PromptKeys) -> None:
        """Take note that a prompt was sent to an endpoint; it matters only while its history is incomplete."""
        stream = self._streams.get(slot)
        if stream is not None and stream.standing is not Standing.EXACT:
            stream.residency.recent.add(prompt)

    def malformed(self, slot: int) -> None:
        """A message came whose frames are not those of an event; what it held shows as a gap."""
        if slot in self._streams:
            self._streams[slot].counts.decode_errors += 1

    def tick(self) -> None:
        """Tidy up a little."""
        self._lanes.sweep()

    def report(self) -> list[StreamReport]:
        """Return how every endpoint is."""
        return [
            StreamReport(
                slot=slot,
                endpoint=self._endpoints[slot],
                standing=stream.standing,
                blocks=stream.residency.blocks,
                block_tokens=stream.residency.block_tokens,
                epoch=stream.epoch,
                counts=stream.counts,
            )
            for slot, stream in self._streams.items()
        ]

    @property
    def endpoints(self) -> int:
        """How many endpoints are attached."""
        return len(self._streams)

    def blocks(self) -> list[tuple[int, int]]:
        """Return (blocks held, tokens of a block) per endpoint."""
        return [(stream.residency.blocks, stream.residency.block_tokens) for stream in self._streams.values()]

    def check(self) -> None:
        """Assert that all sums and masks are right; for tests."""
        self._lanes.check([stream.residency.lane for stream in self._streams.values()])
        assert self.standings == dict.fromkeys(Standing, 0) | Counter(s.standing for s in self._streams.values())
        assert sum(self._ranks.values()) == len(self._endpoints) == len(self._streams)

    def _drive(self, slot: int, step: Callable[[KvStream], Replay | None]) -> Replay | None:
        """Let one machine take an input, and keep the sums over all of them."""
        stream = self._streams.get(slot)
        if stream is None:
            return None
        standing, size = stream.standing, stream.residency.block_tokens
        command = step(stream)
        if stream.standing is not standing:
            self.standings[standing] -= 1
            self.standings[stream.standing] += 1
            self.version += 1
            if stream.standing is Standing.EXACT:
                stream.residency.recent.clear()
        if stream.residency.block_tokens != size:
            self._settle_sizes()
        return command

    def _settle_sizes(self) -> None:
        sizes = Counter(stream.residency.block_tokens for stream in self._streams.values() if stream.residency.block_tokens)
        self.sizes = tuple(size for size, _ in sizes.most_common(SIZES_MAX))

    def _count_rank(self, endpoint: Endpoint, by: int) -> None:
        key = (endpoint.address, endpoint.rank)
        count = self._ranks.get(key, 0) + by
        if count:
            self._ranks[key] = count
        else:
            self._ranks.pop(key, None)
