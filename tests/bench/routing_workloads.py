"""The workloads of the routing bench, what a fleet can take of each, and what the best possible cache would hit.

One token on the wire stands for `SCALE` tokens of the engine (`Pace.prompt_scale`), so that prompts weigh what long prompts weigh
while the client, Envoy, the picker and eight engines fit on two cores. Lengths in comments are the engine's tokens.
"""

import heapq
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random

from epp.testing.block_cache import BlockCache, block_keys
from epp.testing.engine import Pace, StepEngine
from epp.testing.generation import Generation
from epp.testing.load_client import Result
from epp.testing.tokenizer import decode, encode, render_chat
from epp.testing.workload import Conversation, Turn, chats, groups, mooncake, one_system_prompt, paced, size, unrelated

SCALE = 16
ANSWER = 20
BLOCK_TOKENS = 16
BLOCKS = 1742
"""446,000 tokens of the engine: what vLLM has for an 8B model on a GPU of 80 GB."""
TRACES = "EPP_TRACES"
"""Environment variable: a directory that holds `mooncake/conversation_trace.jsonl`."""

Build = Callable[[Random, int], list[Conversation]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What all stand-ins of a run are."""

    servers: int = 8
    time_scale: float = 1.0
    """Everything takes so many times longer than on the GPU, to keep the machine that runs the bench far from saturation."""

    @property
    def pace(self) -> Pace:
        """The engine's."""
        return Pace(prompt_scale=SCALE, time_scale=self.time_scale)


def _hot(random: Random, number: int) -> list[Conversation]:
    """One system prompt of 8,000 tokens, questions of 3,000 to 10,000."""
    return one_system_prompt(random, number, system=500, question=400, answer=ANSWER)


def _groups(random: Random, number: int) -> list[Conversation]:
    """200 documents of 8,000 tokens: 55 of them fit into one server. Questions of 1,000 to 3,000."""
    return groups(random, number, groups=200, prefix=500, question=120, answer=ANSWER)


def _chats(random: Random, number: int) -> list[Conversation]:
    """Six turns, the first of 4,000 tokens on average, the others of 1,000."""
    return chats(random, number, turns=6, first=250, question=60, answer=ANSWER, pause=min(60.0, number / 10))


def _unrelated(random: Random, number: int) -> list[Conversation]:
    """Prompts of 4,500 to 13,500 tokens that share nothing."""
    return unrelated(random, number, question=560, answer=ANSWER)


def workloads() -> Mapping[str, Build]:
    """Return the workloads there are; the trace only where its file is."""
    found: dict[str, Build] = {"hot": _hot, "groups": _groups, "chat": _chats, "unrelated": _unrelated}
    trace = Path(os.environ.get(TRACES, "../shared/traces"), "mooncake", "conversation_trace.jsonl")
    if trace.exists():
        found["mooncake"] = lambda random, number: mooncake(trace, random, number, scale=SCALE, answer_max=ANSWER)
    return found


def capacity_rps(conversations: Sequence[Conversation], hardware: Hardware) -> float:
    """Return the requests per second at which a fleet under random placement would be busy all the time.

    By simulation of the same engines on virtual time, offered about what they can take: requests over the mean time that an engine
    had something to do.
    """
    tokens = sum(len(turn.text.split()) for one in conversations for turn in one.turns)
    guess = hardware.servers * size(conversations) / (tokens * SCALE * hardware.pace.k_us / 1e6 * hardware.time_scale)
    engines = _Simulation(paced(conversations, guess), hardware).run()
    return size(conversations) * hardware.servers / sum(engine.counters.busy_s for engine in engines)


class _Simulation:
    """A workload on virtual time, every request on an engine drawn at random."""

    def __init__(self, conversations: Sequence[Conversation], hardware: Hardware) -> None:
        self._engines = [
            StepEngine(BlockCache(blocks=BLOCKS, block_tokens=BLOCK_TOKENS), hardware.pace, root=b"")
            for _ in range(hardware.servers)
        ]
        self._random, self._order, self._now_s = Random(7), count(), 0.0
        self._due: list[tuple[float, int, Walk]] = []
        for one in conversations:
            self._push(Walk(one))

    def run(self) -> list[StepEngine]:
        """Return the engines at the end."""
        while True:
            times = [engine.next_s for engine in self._engines if engine.next_s is not None]
            times += [self._due[0][0]] if self._due else []
            if not times:
                return self._engines
            self._now_s = min(times)
            while self._due and self._due[0][0] <= self._now_s:
                walk = heapq.heappop(self._due)[2]
                generation = walk.generation(lambda generation, walk=walk: self._told(generation, walk))
                self._random.choice(self._engines).submit(generation, self._now_s)
            for engine in self._engines:
                engine.advance(self._now_s)

    def _push(self, walk: "Walk") -> None:
        heapq.heappush(self._due, (max(self._now_s, walk.turn.at_s), next(self._order), walk))

    def _told(self, generation: Generation, walk: "Walk") -> None:
        if generation.finished and walk.answered(generation):
            self._push(walk)


class Walk:
    """Where a conversation on virtual time is."""

    def __init__(self, conversation: Conversation) -> None:
        self._turns = list(conversation.turns)
        self.messages = [{"role": "system", "content": conversation.system}] if conversation.system else []

    @property
    def turn(self) -> Turn:
        """What is asked next."""
        return self._turns[0]

    def generation(self, told: Callable[[Generation], None]) -> Generation:
        """Ask it; return what an engine is to do."""
        self.messages.append({"role": "user", "content": self.turn.text})
        return Generation(token_ids=encode(render_chat(self.messages)), max_tokens=self.turn.max_tokens, on_tokens=told)

    def answered(self, generation: Generation) -> bool:
        """Take the answer; return whether another turn follows."""
        self.messages.append({"role": "assistant", "content": decode(generation.token_ids[generation.prompt_tokens :])})
        self._turns.pop(0)
        return bool(self._turns)


def ideal_cached(results: Sequence[Result]) -> Iterator[int]:
    """Yield for each request, in order of sending, what one endless cache would have had of it.

    The same rules as the servers': whole blocks only, answers included, never the last token.
    """
    seen: set[bytes] = set()
    for result in results:
        ids = encode(render_chat(result.messages))
        keys = block_keys(ids, BLOCK_TOKENS, root=b"")
        known = 0
        while known < len(keys) and keys[known] in seen:
            known += 1
        yield min(known, (len(ids) - 1) // BLOCK_TOKENS) * BLOCK_TOKENS
        seen.update(block_keys((ids + encode(result.answer))[:-1], BLOCK_TOKENS, root=b""))
