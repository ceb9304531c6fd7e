"""The plain engine: one prefill at a time at a fixed rate, tokens at a fixed gap afterwards.

Easy to reason about and to compute by hand: a request waits for the prefills before it, its own takes `uncached tokens / rate`, and
its tokens come `gap_s` apart. Same cache, same interface as `epp.testing.engine.StepEngine`.
"""

import os
from collections import deque
from heapq import heapify, heappop, heappush

from epp.testing.block_cache import BlockCache
from epp.testing.engine import Counters
from epp.testing.generation import Generation


class SerialEngine:
    """Serial prefill, then decode at a fixed gap.

    Args:
        cache: its blocks.
        rate: prompt tokens prefilled per second.
        gap_s: seconds between two tokens of one request.
        root: key before every first block.
    """

    def __init__(self, cache: BlockCache, *, rate: float, gap_s: float, root: bytes | None = None) -> None:
        self.cache = cache
        self.rate = rate
        self.gap_s = gap_s
        self.root = root if root is not None else os.urandom(32)
        self.counters = Counters()
        self._waiting: deque[Generation] = deque()
        self._head: Generation | None = None
        self._head_ends_s = 0.0
        self._ticks: list[tuple[float, int, Generation]] = []
        self._serial = 0

    @property
    def waiting(self) -> list[Generation]:
        """Requests that have not begun."""
        return list(self._waiting)

    @property
    def running(self) -> list[Generation]:
        """The prefill under way and everybody who decodes."""
        return ([self._head] if self._head else []) + [generation for _, _, generation in self._ticks]

    @property
    def next_s(self) -> float | None:
        """The end of the prefill under way or the next token, whichever is first."""
        times = [self._head_ends_s] if self._head else []
        times += [self._ticks[0][0]] if self._ticks else []
        return min(times, default=None)

    def submit(self, generation: Generation, now_s: float) -> None:
        """Queue a request; begins its prefill when nobody is before it."""
        generation.arrived_s = now_s
        self._waiting.append(generation)
        self._begin(now_s)

    def abort(self, generation: Generation, now_s: float) -> None:
        """Drop a request; the prefill under way is not cut short."""
        generation.done = True
        if generation in self._waiting:
            self._waiting.remove(generation)
        elif generation is not self._head:
            kept = [tick for tick in self._ticks if tick[2] is not generation]
            if len(kept) < len(self._ticks):
                heapify(kept)
                self._ticks = kept
                generation.release(self.cache)
        self._begin(now_s)

    def advance(self, now_s: float) -> None:
        """Give out every token due by now, in order of time."""
        while (due_s := self.next_s) is not None and due_s <= now_s:
            if self._ticks and self._ticks[0][0] == due_s:
                _, _, generation = heappop(self._ticks)
                generation.computed += 1
                self._token(generation, due_s)
            else:
                head, self._head = self._head, None
                assert head is not None
                head.computed = head.prompt_tokens
                if head.done:
                    head.release(self.cache)
                else:
                    self._token(head, due_s)
            self._begin(due_s)

    def _begin(self, now_s: float) -> None:
        if self._head or not self._waiting:
            return
        generation = self._waiting[0]
        found = generation.find(self.cache, self.root)
        whole = generation.prompt_tokens + generation.max_tokens
        wanted = -(-whole // self.cache.block_tokens) - len(found)
        if wanted > self.cache.free_blocks - self.cache.unused_among(found):
            return
        self._waiting.popleft()
        generation.start(self.cache, found)
        generation.grow(self.cache, generation.prompt_tokens)
        generation.blocks += self.cache.take(generation.missing(self.cache, whole))
        self.counters.queried_tokens += generation.prompt_tokens
        self.counters.prompt_tokens += generation.prompt_tokens
        self.counters.hit_tokens += generation.cached_tokens
        spent_s = (generation.prompt_tokens - generation.cached_tokens) / self.rate
        self.counters.busy_s += spent_s
        self._head, self._head_ends_s = generation, now_s + spent_s

    def _token(self, generation: Generation, at_s: float) -> None:
        generation.add_token()
        generation.seal(self.cache, generation.computed)
        self.counters.generated_tokens += 1
        if generation.finished:
            generation.done = True
            generation.release(self.cache)
            self.counters.finished += 1
        else:
            self._serial += 1
            heappush(self._ticks, (at_s + self.gap_s, self._serial, generation))
        generation.on_tokens(generation)
