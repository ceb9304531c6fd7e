"""Traffic by kind: conversations of made-up words, each turn with the time it is due. The same seed makes the same traffic.

Lengths are in the tokens of `epp.testing.tokenizer` (one a word, about four bytes). Times assume one request a second; `paced`
stretches or squeezes them to a rate. A later turn of a conversation holds the answers that came before it, so it can only be sent
when they are there: `epp.testing.load_client` sends it when it is due or possible, whichever is later.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from epp.testing.tokenizer import WORDS

SYSTEM = "You are a helpful AI writer. Please write in a professional manner."


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One request of a conversation: what the user says, when, and how long the answer should be."""

    at_s: float
    text: str
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Turns on one history. `kind` names the part of the workload it belongs to."""

    kind: str
    system: str = ""
    turns: tuple[Turn, ...]


def words(random: Random, count: int) -> str:
    """Return text of `count` tokens."""
    return " ".join(random.choices(WORDS, k=max(1, count)))


def arrivals(random: Random, count: int) -> list[float]:
    """Return Poisson arrivals, one a second on average, from time 0."""
    at_s, times = 0.0, []
    for _ in range(count):
        at_s += random.expovariate(1.0)
        times.append(at_s)
    return times


def paced(conversations: Iterable[Conversation], requests_per_s: float) -> list[Conversation]:
    """Return the same conversations with all times divided by a rate."""
    return [
        replace(one, turns=tuple(replace(turn, at_s=turn.at_s / requests_per_s) for turn in one.turns)) for one in conversations
    ]


def size(conversations: Iterable[Conversation]) -> int:
    """Return the number of requests."""
    return sum(len(one.turns) for one in conversations)


def one_system_prompt(random: Random, count: int, *, system: int, question: int, answer: int) -> list[Conversation]:
    """Return requests that share one system prompt and nothing else; questions are of 0.5 to 1.5 times `question` tokens."""
    shared = f"{SYSTEM} {words(random, system)}"
    return [
        Conversation(kind="system", system=shared, turns=(_turn(random, at_s, question, answer),))
        for at_s in arrivals(random, count)
    ]


def groups(random: Random, count: int, *, groups: int, prefix: int, question: int, answer: int) -> list[Conversation]:
    """Return requests about one of `groups` documents of `prefix` tokens, each as likely as the others."""
    documents = [words(random, prefix) for _ in range(groups)]
    made = []
    for at_s in arrivals(random, count):
        turn = _turn(random, at_s, question, answer)
        document = documents[random.randrange(groups)]
        turn = replace(turn, text=f"{document}\n{turn.text}")
        made.append(Conversation(kind="groups", system=SYSTEM, turns=(turn,)))
    return made


def chats(random: Random, count: int, *, turns: int, first: int, question: int, answer: int, pause: float) -> list[Conversation]:
    """Return conversations of `turns` turns, `count` requests in all.

    A conversation begins with `first` tokens of its own; between its turns lie `pause` mean intervals of this traffic. They begin
    early enough for the last turns to be due within the same time as `count` single requests.
    """
    number = max(1, count // turns)
    spread = max(1.0, count - (turns - 1) * pause) / number
    made = []
    for start_s in arrivals(random, number):
        at_s = start_s * spread
        said = [_turn(random, at_s, first, answer)]
        for _ in range(turns - 1):
            at_s += pause * random.uniform(0.5, 1.5)
            said.append(_turn(random, at_s, question, answer))
        made.append(Conversation(kind="chat", system=SYSTEM, turns=tuple(said)))
    return made


def unrelated(random: Random, count: int, *, question: int, answer: int) -> list[Conversation]:
    """Return requests that share nothing."""
    return [Conversation(kind="unrelated", turns=(_turn(random, at_s, question, answer),)) for at_s in arrivals(random, count)]


def mooncake(path: Path, random: Random, count: int, *, scale: int, answer_max: int) -> list[Conversation]:
    """Return the first `count` requests of a Mooncake trace, in their order, arriving as Poisson.

    Args:
        path: a trace of https://github.com/kvcache-ai/Mooncake (FAST25-release/traces): one id per 512 tokens, equal ids for equal
            prefixes.
        random: draws the arrivals.
        count: how many.
        scale: tokens of the trace that one token here stands for; divides 512.
        answer_max: answers are cut to this.
    """
    made = []
    with path.open(encoding="utf-8") as lines:
        for at_s, line in zip(arrivals(random, count), lines, strict=False):
            row = json.loads(line)
            blocks = [_block(number, 512 // scale) for number in row["hash_ids"]]
            text = " ".join(" ".join(blocks).split(" ")[: max(1, row["input_length"] // scale)])
            answer = min(answer_max, max(1, row["output_length"] // scale))
            made.append(Conversation(kind="mooncake", turns=(Turn(at_s=at_s, text=text, max_tokens=answer),)))
    return made


def merged(parts: Sequence[Sequence[Conversation]]) -> list[Conversation]:
    """Return several workloads as one, each spread over the whole time by its share of the requests."""
    total = sum(size(part) for part in parts)
    return [one for part in parts if part for one in paced(part, size(part) / total)]


def example(seed: int, count: int) -> list[Conversation]:
    """Return what the demo shows: questions about shared documents under one system prompt, a few chats, and unrelated requests."""
    random = Random(seed)
    return merged(
        [
            groups(random, round(count * 0.6), groups=12, prefix=500, question=30, answer=16),
            chats(random, round(count * 0.25), turns=4, first=120, question=60, answer=24, pause=6),
            unrelated(random, round(count * 0.15), question=160, answer=16),
        ]
    )


def _turn(random: Random, at_s: float, tokens: int, answer: int) -> Turn:
    return Turn(at_s=at_s, text=words(random, round(tokens * random.uniform(0.5, 1.5))), max_tokens=answer)


def _block(number: int, tokens: int) -> str:
    """Return the text of a block of a trace: the same for the same number, wherever it occurs."""
    return words(Random(number), tokens)
