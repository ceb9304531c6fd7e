"""How deep into a prompt its routing key must reach, by how much of the traffic shares each prefix.

A key that a large part of the traffic shares is one endpoint's problem: in the Mooncake conversation trace every prompt begins
with the same system prompt, and hashing its first block sends everything to one place. A key as long as the prompt shares
nothing. So the key is the shortest prefix with at most `share_max` of the traffic: hot nodes of the tree of prefixes are split,
others are not.

Shares are counted over the last one to two windows of requests, so what is no longer asked for cools down. Both windows are
dicts with a bound: a request adds at most `FRESH_MAX` prefixes not seen in this window, so a shared prefix of 50 blocks takes
25 requests to be seen whole, and prompts that share nothing add next to nothing.

Replicas of the picker that see samples of the same traffic agree on which prefixes are hot, but for those near the limit.
"""

from bisect import bisect_left
from collections.abc import Sequence

WINDOW_MIN = 1024
"""Requests of a window, at least."""
WINDOW_PER_ENDPOINT = 16
"""And per endpoint: the share to be told from noise is about 1 / endpoints."""
FRESH_MAX = 2
COUNT_MIN = 8
"""Fewer requests than this make nothing hot."""


class HotPrefixes:
    """Counts of the prefixes of recent prompts. At most `2 * FRESH_MAX` prefixes per request of a window are kept."""

    __slots__ = ("_before", "_now", "_seen_before", "_seen_now")

    def __init__(self) -> None:
        self._now: dict[int, int] = {}
        self._before: dict[int, int] = {}
        self._seen_now = 0
        self._seen_before = 0

    def depth(self, blocks: Sequence[int], share_max: float) -> int:
        """Return how many leading blocks are hot: shared by more than `share_max` of recent requests.

        Counts never grow along a path, so this is a bisection. Cost: O(log blocks), about a microsecond.
        """
        now, before = self._now, self._before
        limit = max(COUNT_MIN, share_max * (self._seen_now + self._seen_before))
        return bisect_left(blocks, True, key=lambda key: now.get(key, 0) + before.get(key, 0) <= limit)

    def count(self, blocks: Sequence[int], endpoints: int) -> None:
        """Count one request. Cost: O(blocks already seen), 60 ns each."""
        now, fresh = self._now, 0
        for key in blocks:
            seen = now.get(key, 0)
            now[key] = seen + 1
            if not seen:
                fresh += 1
                if fresh == FRESH_MAX:
                    break
        self._seen_now += 1
        if self._seen_now >= max(WINDOW_MIN, WINDOW_PER_ENDPOINT * endpoints):
            self._before, self._now = now, {}
            self._seen_before, self._seen_now = self._seen_now, 0

    def __len__(self) -> int:
        return len(self._now) + len(self._before)
