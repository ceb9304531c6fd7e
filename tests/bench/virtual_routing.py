"""How well configurations route, on virtual time: the real director and the real engines' timing, no Envoy, no clock, no noise.

Minutes of a fleet take seconds here; prompts and answers have their real lengths, so load rules can be compared on what answers do
to each other. The same seed gives the same traffic. `tests.bench.routing` is the same through a real Envoy.
"""

import argparse
import asyncio
import heapq
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, cycle
from pathlib import Path
from random import Random

import numpy as np

from epp.model.decision import Outcome, Usage
from epp.pool.engines import Sample
from epp.testing.block_cache import BlockCache
from epp.testing.engine import Pace, StepEngine
from epp.testing.generation import Generation
from epp.testing.workload import Conversation, chats, groups, one_system_prompt, paced, unrelated
from tests.bench.routing_workloads import Walk
from tests.unit.live.world import World

SERVERS = 8
BLOCK_TOKENS = 16
BLOCKS = 446_000 // BLOCK_TOKENS
"""What vLLM has for an 8B model on a GPU of 80 GB."""
SCRAPE_S = 0.2

Build = Callable[[Random, int], list[Conversation]]

WORKLOADS: Mapping[str, Build] = {
    "assistant": lambda random, number: one_system_prompt(random, number, system=2000, question=50, answer=300),
    "agent": lambda random, number: one_system_prompt(random, number, system=8000, question=100, answer=500),
    "hot": lambda random, number: one_system_prompt(random, number, system=8000, question=6000, answer=20),
    "groups": lambda random, number: groups(random, number, groups=200, prefix=8000, question=2000, answer=100),
    "chat": lambda random, number: chats(random, number, turns=6, first=4000, question=1000, answer=200, pause=20.0),
    "summaries": lambda random, number: unrelated(random, number, question=8000, answer=200),
    "stories": lambda random, number: unrelated(random, number, question=200, answer=800),
}

CONFIGS: Mapping[str, str] = {
    "default": "",
    "approximate": "strategy: {chain: [approximate]}",
    "llm-d": "strategy: {chain: [approximate], load: llm-d}",
    "random": "{plugins: [{type: random-picker}]}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run: times in seconds from sending, those of requests sent in the first fifth left out."""

    first_s: np.ndarray
    end_s: np.ndarray
    hits: float
    """Share of prompt tokens that the engines found in their caches."""
    busiest: float
    """Share of the requests that went to the endpoint with the most."""

    def __str__(self) -> str:
        ttft, end = self.first_s * 1e3, self.end_s
        return (
            f"TTFT {ttft.mean():7.0f} / {np.percentile(ttft, 99):7.0f} ms   "
            f"E2E {end.mean():6.2f} / {np.percentile(end, 99):6.2f} s   hits {self.hits:5.1%}   busiest {self.busiest:4.0%}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a fleet is like, beside its configuration."""

    pace: Pace = field(default_factory=Pace)
    """The engines'."""
    reports: bool = True
    """Whether servers report cached tokens."""
    lean: bool = False
    """Whether the picker sees nothing of the answers."""
    pickers: int = 1
    """How many share the requests, and know nothing of each other."""


H100S = Setting()


class _Fleet:
    """Engines, a director, and conversations on one clock."""

    def __init__(self, config: str, conversations: Sequence[Conversation], setting: Setting) -> None:
        self._worlds = [World(config, endpoints=SERVERS) for _ in range(setting.pickers)]
        self._engines = [StepEngine(BlockCache(blocks=BLOCKS, block_tokens=BLOCK_TOKENS), setting.pace) for _ in range(SERVERS)]
        self._setting = setting
        self._now_s = self._start_s = self._worlds[0].now_s
        self._order, self._next = count(), cycle(self._worlds)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._open = len(conversations)
        self.done: list[tuple[float, float, float]] = []
        self.counts = [0] * SERVERS
        for one in conversations:
            self._await(Walk(one))
        self._scrape()

    def run(self) -> Cell:
        while self._open:
            times = [engine.next_s for engine in self._engines if engine.next_s is not None]
            self._now_s = min([*times, self._due[0][0]])
            for world in self._worlds:
                world.now_s = self._now_s
            while self._due and self._due[0][0] <= self._now_s:
                heapq.heappop(self._due)[2]()
            for engine in self._engines:
                engine.advance(self._now_s)
        counted = sorted(self.done)[len(self.done) // 5 :]
        counters = [engine.counters for engine in self._engines]
        return Cell(
            first_s=np.array([first for _, first, _ in counted]),
            end_s=np.array([end for _, _, end in counted]),
            hits=sum(one.hit_tokens for one in counters) / sum(one.queried_tokens for one in counters),
            busiest=max(self.counts) / sum(self.counts),
        )

    def _at(self, at_s: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._due, (max(at_s, self._now_s), next(self._order), what))

    def _await(self, walk: Walk) -> None:
        self._at(self._start_s + walk.turn.at_s, lambda: self._send(walk))

    def _scrape(self) -> None:
        for slot, engine in enumerate(self._engines):
            used = 1 - engine.cache.free_blocks / BLOCKS
            sample = Sample(waiting=len(engine.waiting), running=len(engine.running), kv_usage=used)
            for world in self._worlds:
                world.pool.update(slot, sample, self._now_s)
        self._at(self._now_s + SCRAPE_S, self._scrape)

    def _send(self, walk: Walk) -> None:
        sent_s, first_s = self._now_s, list[float]()

        def told(generation: Generation) -> None:
            if not first_s:
                first_s.append(self._now_s - sent_s)
                director.first_token(decision)
            if generation.finished:
                self.done.append((sent_s, first_s[0], self._now_s - sent_s))
                director.finish(decision, Outcome(end="complete", status=200, usage=self._usage(generation)))
                if walk.answered(generation):
                    self._await(walk)
                else:
                    self._open -= 1

        generation, world = walk.generation(told), next(self._next)
        decision, director = world.ask_chat(walk.messages), world.assembly.director
        if self._setting.lean:
            director.finish(decision, Outcome(end="released"))
        self.counts[decision.slot] += 1
        self._engines[decision.slot].submit(generation, sent_s)

    def _usage(self, generation: Generation) -> Usage | None:
        if not self._setting.reports:
            return None
        prompt, cached = generation.prompt_tokens, generation.cached_tokens
        return Usage(prompt_tokens=prompt, cached_tokens=cached, completion_tokens=generation.generated)


def run(config: str, workload: str, *, rps: float, seconds: float, seed: int = 1, setting: Setting = H100S) -> Cell:
    """Return what a configuration makes of a workload.

    Args:
        config: text of the configuration.
        workload: one of `WORKLOADS`.
        rps: requests per second.
        seconds: how long they are sent; the run ends when the last is answered.
        seed: of the traffic.
        setting: what the fleet is like.
    """
    number = int(rps * seconds)
    conversations = paced(WORKLOADS[workload](Random(seed), number), rps)

    async def play() -> Cell:
        return _Fleet(config, conversations, setting).run()

    return asyncio.run(play())


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.virtual_routing", description=__doc__.splitlines()[0])
    parser.add_argument("--workload", choices=WORKLOADS, action="append")
    parser.add_argument("--config", metavar="NAME|FILE", action="append", help=f"a file, or one of {', '.join(CONFIGS)} (all)")
    parser.add_argument("--rps", type=float, action="append")
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-reports", action="store_true", help="servers report no cached tokens")
    parser.add_argument("--lean", action="store_true", help="the picker sees nothing of the answers")
    parser.add_argument("--pickers", type=int, default=1, help="so many share the requests")
    options = parser.parse_args(arguments)
    setting = Setting(reports=not options.no_reports, lean=options.lean, pickers=options.pickers)
    for workload in options.workload or WORKLOADS:
        for rps in options.rps or [10.0, 20.0]:
            for config in options.config or CONFIGS:
                text = CONFIGS[config] if config in CONFIGS else Path(config).read_text(encoding="utf-8")
                cell = run(text, workload, rps=rps, seconds=options.seconds, seed=options.seed, setting=setting)
                print(f"{workload:10} {rps:5.0f} rps  {config:12} {cell}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
