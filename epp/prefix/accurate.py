"""Who holds a prompt, by what the model servers themselves report: the strategy `accurate`.

Engines announce every block that enters or leaves their cache; `feed` applies that. A prompt is matched by its token ids, so a
request must carry them, or somebody must tokenize it first (`epp.tokenizer`); without them this strategy has no answer and says so.

What it knows is true where a stream is exact, and a lower bound elsewhere (see `kv_stream`). So every endpoint answers with what it
verifiably holds, and health tells how much that is: unavailable while no endpoint is exact, since a chain with another strategy
behind this one is then better served by that; degraded while some are not.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from epp.model.decision import Decision, Usage
from epp.model.match import IntColumn, Match
from epp.model.request import InferenceRequest
from epp.model.snapshot import Snapshot
from epp.prefix.kv_feed import KvFeed
from epp.prefix.kv_stream import Standing
from epp.prefix.lanes import Lanes
from epp.prefix.speculative import Speculative
from epp.prefix.strategy import HEALTHY, Condition, Health, Size
from epp.prefix.token_keys import PromptKeys, prompt_keys

NAME: Final = "accurate"
SPECULATIVE_TTL_S: Final = 2.0
BYTES_PER_BLOCK: Final = 260
"""Most bytes of a block that one endpoint holds: key, mask, handle and their places in two dictionaries, just grown."""
BYTES_PER_SHARE: Final = 140
"""Most bytes for each further endpoint that holds it: key, handle and their place."""

NO_TOKENS: Final = PromptKeys(by_size={}, total=0, reason="the request has no token ids")
BAD_TOKENS: Final = PromptKeys(by_size={}, total=0, reason="the request has a token id that is none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """How far predictions and reports of the engines agree, since the start."""

    requests: int = 0
    predicted_tokens: float = 0.0
    cached_tokens: int = 0


class Accurate:
    """The strategy `accurate`.

    Args:
        speculative: whether a decision counts as residency until the engine's events arrive.
        speculative_ttl_s: for how long.
    """

    def __init__(self, *, speculative: bool = True, speculative_ttl_s: float = SPECULATIVE_TTL_S) -> None:
        self._lanes = Lanes()
        self.feed = KvFeed(self._lanes)
        """The event streams; `scrape.kv_subscriber` drives it."""
        self.checked = Checked()
        self._speculative = Speculative(speculative_ttl_s) if speculative else None
        self._health = HEALTHY
        self._health_version = -1

    @property
    def name(self) -> str:
        """`accurate`."""
        return NAME

    def health(self) -> Health:
        """Unavailable while no endpoint is exact, degraded while some are not."""
        if self._health_version != self.feed.version:
            self._health_version = self.feed.version
            self._health = _health(self.feed.standings)
        return self._health

    def prepare(self, request: InferenceRequest) -> PromptKeys:
        """Return the keys of the prompt's full blocks, or the reason why there are none."""
        if request.token_ids is None:
            return NO_TOKENS
        lora = request.lora if request.lora in self.feed.adapters else ""
        try:
            return prompt_keys(request.token_ids, self.feed.sizes, lora=lora, salt=request.cache_salt)
        except OverflowError:
            return BAD_TOKENS

    def why_not(self, keys: PromptKeys) -> str:
        """Return why `match` of these keys knows nothing."""
        return keys.reason or "no candidate holds the first block"

    def match(self, keys: PromptKeys, request: InferenceRequest, snapshot: Snapshot, slots: IntColumn) -> Match | None:
        """Return what every slot holds; None when no candidate holds any of it.

        Cost: 0.1 us per block, whatever the number of endpoints.
        """
        if keys.reason or not _right_adapter(keys, request, snapshot):
            return None
        tokens = np.zeros(len(snapshot.columns.live))
        for block_tokens, blocks in keys.by_size.items():
            self._lanes.match(blocks, block_tokens, tokens)
            if self._speculative is not None:
                self._speculative.match(blocks, block_tokens, tokens)
        if not tokens[slots].any():
            return None
        exact = self.feed.standings[Standing.EXACT]
        return Match(source=NAME, tokens=tokens, total=keys.total, certainty=exact / max(1, self.feed.endpoints))

    def record(self, keys: PromptKeys, request: InferenceRequest, snapshot: Snapshot, slot: int, now_s: float) -> None:
        """Note that the prompt is on its way to `slot`."""
        if keys.by_size and _right_adapter(keys, request, snapshot):
            self.feed.sent(slot, keys)
            if self._speculative is not None:
                self._speculative.record(keys.by_size, slot, now_s)

    def learn(self, decision: Decision, usage: Usage) -> None:
        """Compare what was predicted with what the engine reports; a lasting difference means that the index is wrong."""
        if decision.strategy == NAME and usage.cached_tokens is not None:
            before = self.checked
            self.checked = Checked(
                requests=before.requests + 1,
                predicted_tokens=before.predicted_tokens + decision.matched_tokens,
                cached_tokens=before.cached_tokens + usage.cached_tokens,
            )

    def forget(self, slot: int) -> None:
        """Give up everything known of `slot`. Constant time."""
        self.feed.forget(slot)
        if self._speculative is not None:
            self._speculative.forget(slot)

    def tick(self, now_s: float) -> None:
        """Let time pass: tidy up a little. To be called about once a second; `now_s` is monotonic."""
        self.feed.tick()
        if self._speculative is not None:
            self._speculative.tick(now_s)

    def size(self) -> Size:
        """Return what is kept: (block, endpoint) pairs and an estimate of their memory."""
        blocks = self.feed.blocks()
        pairs = sum(count for count, _ in blocks)
        distinct = self._lanes.entries
        speculative = self._speculative.entries if self._speculative is not None else 0
        return Size(
            entries=pairs + speculative,
            bytes=distinct * BYTES_PER_BLOCK + max(0, pairs - distinct) * BYTES_PER_SHARE + speculative * BYTES_PER_SHARE,
            tokens=sum(count * size for count, size in blocks),
        )


def _right_adapter(keys: PromptKeys, request: InferenceRequest, snapshot: Snapshot) -> bool:
    """Whether the keys are of the adapter that is asked for.

    Adapters are asked for by model name, and so is the base model. A name is an adapter's if events or metrics used it as one;
    known from metrics alone, it has no blocks anywhere, and the keys are the base model's.
    """
    return request.lora == keys.lora or request.lora not in snapshot.adapters


def _health(standings: dict[Standing, int]) -> Health:
    exact, recovering, degraded = (standings[standing] for standing in Standing)
    total = exact + recovering + degraded
    if exact == total and total:
        return HEALTHY
    if not total:
        return Health(Condition.UNAVAILABLE, "no endpoint reports its cache")
    reason = f"of {total} endpoints {recovering} recovering, {degraded} with an incomplete history"
    return Health(Condition.DEGRADED if exact else Condition.UNAVAILABLE, reason)
