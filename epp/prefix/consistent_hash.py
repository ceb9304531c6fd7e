"""Where a prompt belongs, by a hash of its prefix: affinity without memory of where anything went.

The key of a prompt is the shortest of its prefixes that is not shared by too much of the traffic (`hot_prefixes`), or one of
fixed depth. The key's permutation of the candidates (`ring`) names its home and its overflow order. The load that bounds it is
the requests in flight per candidate, this one counted; only candidates count, since an endpoint that cannot take the request
must neither loosen nor tighten the bound.

It answers in the same form as the strategies that know: the first of the permutation under the bound is believed to hold the
largest share of the prompt, each one after it less, those over the bound nothing: they may hold it, but must get nothing new. So
with a prefix scorer alone this is consistent hashing with bounded loads, and load scorers beside it choose between home and
overflow by what a miss costs.

How much less, the servers say: for each place in the order, the share is the running mean of cached / prompt tokens reported for
requests that were sent to that place. Where overflow is rare, the second choice holds next to nothing and the home is worth
waiting for; where a prefix is hot enough to spill, the second choice holds it too, and is nearly as good.

Every replica of the picker names the same home for the same candidates, as long as they agree on what is hot; with a fixed
depth they always do. Each bounds by the load it sees: R replicas together exceed the bound by at most R requests per endpoint.
"""

from bisect import bisect_left

import numpy as np

from epp.model.decision import Decision, Usage
from epp.model.match import FloatColumn, IntColumn, Match
from epp.model.request import InferenceRequest
from epp.model.snapshot import Snapshot
from epp.prefix.blocks import Blocks, PromptKeys
from epp.prefix.hot_prefixes import HotPrefixes
from epp.prefix.ring import LOAD_FACTOR, LOAD_FLOOR, bound, choices, name_hashes, scores
from epp.prefix.strategy import HEALTHY, Health, Size

NAME = "consistent-hash"
CHOICES_MAX = 8
"""Of the permutation, so many are believed to hold anything."""
FIRST_SHARE = 0.5
"""What the home is believed to hold before anybody reported."""
FIRST_FALL = 0.25 ** np.arange(CHOICES_MAX)
"""The same of each place in the order, as shares of the home's."""
FIRST_SHARES_TOKENS = 20_000
"""How many tokens' worth of reports that guess counts for."""
LEAST_SHARES = 0.05 * 0.5 ** np.arange(CHOICES_MAX)
"""Affinity is never given up altogether: a report can only raise a share if requests still go there."""
REPORT_DECAY = 1 - 1 / 64
"""What every report leaves of those before it."""
STEP = 1 - 1e-6 * np.arange(CHOICES_MAX)
"""Keeps the order strict where shares are equal."""
BYTES_PER_PREFIX = 130
"""Most bytes a counted prefix costs."""


class ConsistentHash:
    """The strategy `consistent-hash`.

    Args:
        blocks: how prompts are cut.
        load_factor: c of the bound, at least 1.
        floor: requests an endpoint may have whatever the bound.
        key_depth_bytes: depth of the key, rounded up to a block; None for one that adapts.
        first_share: what the home is believed to hold before servers report. Little behind a strategy that has seen every prompt
            and does not know this one.
    """

    def __init__(
        self,
        blocks: Blocks,
        *,
        load_factor: float = LOAD_FACTOR,
        floor: int = LOAD_FLOOR,
        key_depth_bytes: int | None = None,
        first_share: float = FIRST_SHARE,
    ) -> None:
        self._blocks = blocks
        self._load_factor = load_factor
        self._floor = floor
        self._key_blocks = None if key_depth_bytes is None else bisect_left(blocks.ends, key_depth_bytes) - 1
        self._hot = HotPrefixes()
        self._prompt_tokens = np.full(CHOICES_MAX, float(FIRST_SHARES_TOKENS))
        self._cached_tokens = first_share * FIRST_FALL * FIRST_SHARES_TOKENS
        self._shares = first_share * FIRST_FALL * STEP

    @property
    def name(self) -> str:
        """`consistent-hash`."""
        return NAME

    @property
    def shares(self) -> FloatColumn:
        """Share of a prompt that each place in its order is believed to hold, the home's first; falling."""
        return self._shares

    def health(self) -> Health:
        """Always healthy: it needs nothing."""
        return HEALTHY

    def prepare(self, request: InferenceRequest) -> PromptKeys:
        """Return the keys of the prompt."""
        return self._blocks.keys(request)

    def key(self, keys: PromptKeys, endpoints: int) -> int:
        """Return the routing key of a prompt, for so many candidates: of the whole prompt, if all that is shorter is hot."""
        depth = self._key_blocks
        if depth is None:
            depth = self._hot.depth(keys.blocks, self._load_factor / endpoints)
        return keys.blocks[depth] if depth < len(keys.blocks) else keys.whole

    def match(self, keys: PromptKeys, request: InferenceRequest, snapshot: Snapshot, slots: IntColumn) -> Match | None:
        """Return what the prompt's home and its next choices are believed to hold; None when there is no prompt or candidate.

        Cost: O(n) in the candidates; 15 us for 10, 35 us for 1000.
        """
        if not keys.whole or not len(slots):
            return None
        loads = snapshot.columns.requests[slots]
        cap = bound(int(loads.sum()) + 1, len(slots), load_factor=self._load_factor, floor=self._floor)
        rated = scores(self.key(keys, len(slots)), name_hashes(snapshot)[slots])
        found = choices(rated, loads, cap, CHOICES_MAX)
        tokens = np.zeros(len(snapshot.columns.live))
        tokens[slots[found]] = keys.total * self._shares[: len(found)]
        reason = "" if found[0] == rated.argmax() else "home is at its bound"
        return Match(source=NAME, tokens=tokens, total=keys.total, certainty=float(self._shares[0]), reason=reason)

    def record(self, keys: PromptKeys, request: InferenceRequest, snapshot: Snapshot, slot: int, now_s: float) -> None:
        """Count the prompt's prefixes; where it went does not matter."""
        if self._key_blocks is None:
            self._hot.count(keys.blocks, len(snapshot.slots))

    def learn(self, decision: Decision, usage: Usage) -> None:
        """Take how much the server had cached of a prompt, for the place it had in the prompt's order."""
        match = decision.sheet.match
        if usage.cached_tokens is None or match is None or match.source != NAME or not decision.matched_tokens:
            return
        place = int((match.tokens > match.tokens[decision.slot]).sum())
        prompt = max(1, usage.prompt_tokens or decision.prompt_tokens)
        self._prompt_tokens[place] = REPORT_DECAY * self._prompt_tokens[place] + prompt
        self._cached_tokens[place] = REPORT_DECAY * self._cached_tokens[place] + min(usage.cached_tokens, prompt)
        reported = np.maximum(self._cached_tokens / self._prompt_tokens, LEAST_SHARES)
        self._shares = np.minimum.accumulate(reported) * STEP

    def forget(self, slot: int) -> None:
        """Nothing to forget: nothing is known of any slot."""

    def size(self) -> Size:
        """Return the prefixes that are counted, and an upper estimate of their memory."""
        return Size(entries=len(self._hot), bytes=len(self._hot) * BYTES_PER_PREFIX)
