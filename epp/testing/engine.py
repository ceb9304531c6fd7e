"""Time as an inference engine spends it: steps that hold a chunk of somebody's prefill and one token of everybody's decode.

After vLLM's V1 scheduler (continuous batching, chunked prefill, recompute on preemption). Prefill lengthens the step that decoders
wait for; that is how one long prompt stalls everybody's tokens. Pure: `advance(now_s)` is called when `next_s` has come, and tells
each generation through its callback; `epp.testing.engine_loop` supplies the clock. `epp.testing.serial_engine` is the plainer twin.
"""

import os
from collections import deque
from dataclasses import dataclass
from math import sqrt
from typing import Protocol

from epp.testing.block_cache import BlockCache
from epp.testing.generation import Generation


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long a step takes: `a0 + sqrt(w^2 + (k*T)^2) + kvread*context + q*past`.

    The defaults are an 8B model on one H100: `k`, `kvread` and `q` from LLMServingSim's layer profiles and memory bandwidth, `w`
    from measured token gaps of vLLM. The root-sum-square joins the time to read the weights and the time to compute the tokens.
    """

    a0_ms: float = 0.75
    """Scheduling and launch, every step."""
    w_ms: float = 5.7
    """Reading the weights."""
    k_us: float = 29.0
    """Computing one token."""
    kvread_ns: float = 39.0
    """Reading the keys and values of one token of context, for a decoder."""
    q_ns: float = 1.2
    """Attention of one prefill token to one token already computed."""
    max_batched_tokens: int = 2048
    """Tokens of one step."""
    max_num_seqs: int = 256
    """Requests that run at once."""
    time_scale: float = 1.0
    """Stretches every step."""
    prompt_scale: int = 1
    """Engine tokens that one prompt token on the wire stands for: long prompts without the bytes."""

    def step_s(self, *, prefill: int, decodes: int, context: int, past: int) -> float:
        """Return how long a step takes.

        Args:
            prefill: prompt tokens computed in it.
            decodes: requests that get their next token in it.
            context: tokens those requests have behind them.
            past: sum over prefill chunks of chunk tokens x tokens already computed.

        Returns:
            Seconds.
        """
        scale = self.prompt_scale
        compute_ms = self.k_us * (prefill * scale + decodes) / 1e3
        attention_ms = (self.kvread_ns * context * scale + self.q_ns * past * scale * scale) / 1e6
        return (self.a0_ms + sqrt(self.w_ms**2 + compute_ms**2) + attention_ms) / 1e3 * self.time_scale

    @property
    def budget(self) -> int:
        """Prompt tokens on the wire that one step can hold."""
        return max(1, self.max_batched_tokens // self.prompt_scale)


@dataclass(slots=True)
class Counters:
    """What an engine has done since it started."""

    queried_tokens: int = 0
    hit_tokens: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    finished: int = 0
    preempted: int = 0
    busy_s: float = 0.0
    """Time in which it had prefill or decode to do."""


class Engine(Protocol):
    """What drives generations; see `StepEngine` and `SerialEngine`."""

    cache: BlockCache
    counters: Counters

    @property
    def waiting(self) -> list[Generation]:
        """Requests that have not begun."""

    @property
    def running(self) -> list[Generation]:
        """Requests in prefill or decode."""

    @property
    def next_s(self) -> float | None:
        """When `advance` wants to be called; None when there is nothing to do."""

    def submit(self, generation: Generation, now_s: float) -> None:
        """Queue a request."""

    def abort(self, generation: Generation, now_s: float) -> None:
        """The client has gone."""

    def advance(self, now_s: float) -> None:
        """Do what is due at `now_s`: give out tokens, plan what comes next."""


class StepEngine:
    """Continuous batching with chunked prefill.

    Args:
        cache: its blocks.
        pace: how long its steps take.
        root: key before every first block; random by default, so that no two engines agree on keys, as no two vLLM processes do.
    """

    def __init__(self, cache: BlockCache, pace: Pace, *, root: bytes | None = None) -> None:
        self.cache = cache
        self.pace = pace
        self.root = root if root is not None else os.urandom(32)
        self.counters = Counters()
        self._waiting: deque[Generation] = deque()
        self._running: dict[Generation, None] = {}
        self._planned: list[tuple[Generation, int]] = []
        self._ends_s: float | None = None

    @property
    def waiting(self) -> list[Generation]:
        """Requests that have not begun."""
        return list(self._waiting)

    @property
    def running(self) -> list[Generation]:
        """Requests in prefill or decode."""
        return list(self._running)

    @property
    def next_s(self) -> float | None:
        """End of the step under way; None when idle."""
        return self._ends_s

    def submit(self, generation: Generation, now_s: float) -> None:
        """Queue a request; begins a step when idle."""
        generation.arrived_s = now_s
        self._waiting.append(generation)
        if self._ends_s is None:
            self._plan(now_s)

    def abort(self, generation: Generation, now_s: float) -> None:  # noqa: ARG002 - the shared interface
        """Drop a request; a step under way still takes its time."""
        generation.done = True
        if generation in self._running:
            del self._running[generation]
            generation.release(self.cache)
        elif generation in self._waiting:
            self._waiting.remove(generation)

    def advance(self, now_s: float) -> None:
        """End the step that is due and plan the next one, from the moment the old one ended."""
        if self._ends_s is None or now_s < self._ends_s:
            return
        ended_s = self._ends_s
        for generation, count in self._planned:
            if not generation.done:
                self._commit(generation, count)
        # A loop that was held up does not make the engine slower, within reason: it catches up a little, not minutes.
        self._plan(max(ended_s, now_s - 0.05))

    def _commit(self, generation: Generation, count: int) -> None:
        generation.computed += count
        if generation.computed < len(generation.token_ids):
            return
        generation.add_token()
        self.counters.generated_tokens += 1
        if generation.finished:
            del self._running[generation]
            generation.done = True
            generation.release(self.cache)
            self.counters.finished += 1
        generation.on_tokens(generation)

    def _plan(self, now_s: float) -> None:
        budget = self.pace.budget
        self._planned = []
        for generation in list(self._running):
            budget -= self._continue(generation, budget)
        while self._waiting and budget > 0 and len(self._running) < self.pace.max_num_seqs:
            count = self._begin(self._waiting[0], budget)
            if not count:
                break
            budget -= count
        if not self._planned:
            self._ends_s = None
            return
        step_s = self._step_s()
        self.counters.busy_s += step_s
        self._ends_s = now_s + step_s

    def _continue(self, generation: Generation, budget: int) -> int:
        if generation not in self._running:  # preempted for somebody before it in this very step
            return 0
        count = min(len(generation.token_ids) - generation.computed, budget)
        if count <= 0:
            return 0
        upto = generation.computed + count
        while generation.missing(self.cache, upto) > self.cache.free_blocks:
            victim = next(reversed(self._running))
            self._preempt(victim)
            if victim is generation:
                return 0
        generation.grow(self.cache, upto)
        self._planned.append((generation, count))
        return count

    def _begin(self, generation: Generation, budget: int) -> int:
        found = generation.find(self.cache, self.root)
        cached = len(found) * self.cache.block_tokens
        count = min(len(generation.token_ids) - cached, budget)
        wanted = -(-(cached + count) // self.cache.block_tokens) - len(found)
        if wanted > self.cache.free_blocks - self.cache.unused_among(found):
            return 0
        self._waiting.popleft()
        if not generation.started:
            self.counters.queried_tokens += generation.prompt_tokens
            self.counters.hit_tokens += cached
            self.counters.prompt_tokens += generation.prompt_tokens
        generation.start(self.cache, found)
        self._running[generation] = None
        generation.grow(self.cache, cached + count)
        self._planned.append((generation, count))
        return count

    def _preempt(self, victim: Generation) -> None:
        del self._running[victim]
        self._planned = [(generation, count) for generation, count in self._planned if generation is not victim]
        victim.release(self.cache)
        self._waiting.appendleft(victim)
        self.counters.preempted += 1

    def _step_s(self) -> float:
        prefill = decodes = context = past = 0
        for generation, count in self._planned:
            if generation.generated and generation.computed + 1 >= len(generation.token_ids):
                decodes += 1
                context += generation.computed
            else:
                prefill += count
                past += count * generation.computed
        return self.pace.step_s(prefill=prefill, decodes=decodes, context=context, past=past)
