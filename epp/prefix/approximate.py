"""Who holds a prompt, by where earlier prompts were sent: the router's own memory of every endpoint's cache.

Needs nothing from the engines. It is told of every request, whoever decided where it went, and keeps for each endpoint what
fits in its cache, least recently used tails out first, as engines do. What a model generated becomes known when it comes back
as part of the next turn.

The belief is wrong when an endpoint evicts more than we think (traffic around the picker, a smaller cache than reported) or
loses its cache (a restart nobody noticed). Engines that report `cached_tokens` correct it. The prompt of the report itself has
just been prefilled, so it *is* there now; what is refuted is the belief in what that endpoint was sent before, the oldest of it
first. So the rule: `MISSES_MAX` reports in a row of less than half of what was believed, and the endpoint gives up the older
half of what it holds. Evictions are thereby met by forgetting what is old; a lost cache by halving, 3 misses a step, while
everything sent since then stays. One good report ends the row, since two copies of a prompt sent at the same moment make the
second one miss by chance.
"""

from epp.model.decision import Decision, Usage
from epp.model.match import IntColumn, Match
from epp.model.request import InferenceRequest
from epp.model.snapshot import Snapshot
from epp.prefix.blocks import Blocks, PromptKeys
from epp.prefix.index import PrefixIndex
from epp.prefix.strategy import HEALTHY, Health, Size

NAME = "approximate"
CAPACITY_TOKENS = 500_000
"""Cache of an endpoint that does not report its own."""
MISSES_MAX = 3
MISS_RATIO = 0.5
"""A report below this share of what was believed is a miss."""
BELIEF_TOKENS_MIN = 64
"""Beliefs smaller than this are not judged: engines count in whole blocks."""
KEEP_RATIO = 0.5


class Approximate:
    """The strategy `approximate`.

    Args:
        blocks: how prompts are cut.
        capacity_tokens: cache of an endpoint that does not report its own.
        use_reported: believe the capacity that engines report.
    """

    def __init__(self, blocks: Blocks, *, capacity_tokens: int = CAPACITY_TOKENS, use_reported: bool = True) -> None:
        self._blocks = blocks
        self._capacity_tokens = capacity_tokens
        self._use_reported = use_reported
        self._index = PrefixIndex(blocks.tokens)
        self._misses: dict[int, int] = {}

    @property
    def name(self) -> str:
        """`approximate`."""
        return NAME

    def health(self) -> Health:
        """Always healthy: what it needs is in this process."""
        return HEALTHY

    def prepare(self, request: InferenceRequest) -> PromptKeys:
        """Return the keys of the prompt."""
        return self._blocks.keys(request)

    def match(self, keys: PromptKeys, request: InferenceRequest, snapshot: Snapshot, slots: IntColumn) -> Match | None:
        """Return what every slot was sent of this prompt and should still hold; None when nobody holds any of it.

        Cost: some microseconds, the same for ten endpoints and a thousand.
        """
        tokens = self._index.match(keys.blocks, len(snapshot.columns.live))
        if tokens is None:
            return None
        tokens *= keys.scale
        return Match(source=NAME, tokens=tokens, total=keys.total)

    def record(self, keys: PromptKeys, request: InferenceRequest, snapshot: Snapshot, slot: int, now_s: float) -> None:
        """Note that the whole prompt will be in the cache of `slot`."""
        capacity = int(snapshot.columns.capacity_tokens[slot]) if self._use_reported else 0
        self._index.record(keys.blocks, slot, capacity or self._capacity_tokens)

    def learn(self, decision: Decision, usage: Usage) -> None:
        """Compare what was believed with what the engine reports; see the rule at the top of the module."""
        if usage.cached_tokens is None or decision.strategy != NAME or decision.matched_tokens < BELIEF_TOKENS_MIN:
            return
        believed = decision.matched_tokens / max(1, decision.prompt_tokens)
        reported = usage.cached_tokens / max(1, usage.prompt_tokens or decision.prompt_tokens)
        if reported >= MISS_RATIO * believed:
            self._misses.pop(decision.slot, None)
            return
        misses = self._misses.get(decision.slot, 0) + 1
        if misses >= MISSES_MAX:
            self._index.shed(decision.slot, KEEP_RATIO)
            misses = 0
        self._misses[decision.slot] = misses

    def forget(self, slot: int) -> None:
        """Give up everything known of `slot`."""
        self._index.forget(slot)
        self._misses.pop(slot, None)

    def size(self) -> Size:
        """Return what is kept: (block, endpoint) pairs and an upper estimate of their memory."""
        return Size(entries=self._index.entries, bytes=self._index.bytes, tokens=self._index.tokens())
