"""What an endpoint held before its stream was heard, told by what it stores now.

An engine does not say again what it has: after a restart of the picker, a prefix that stays hot is never announced, and every new
block that hangs on it has an unknown parent. But the picker knows the prompts it has just sent there. If the tokens of such a new
block stand in one of them, the engine must have hit all of that prompt before them: so those blocks are there, and the unknown
parent is the last of them.
"""

from collections import deque
from typing import Final

from epp.prefix.kv_events import Stored
from epp.prefix.token_keys import TOKEN_BYTES, PromptKeys, chain

PROMPTS_MAX: Final = 16
"""Prompts kept for one endpoint, while its history is incomplete."""
BYTES_MAX: Final = 1 << 20
"""Their tokens together, 4 bytes each; the last prompt is always kept."""

PLACES_MAX: Final = 8
"""Places in one prompt where a block may stand; one that is nothing but repetition is not searched to its end."""


class RecentPrompts:
    """The prompts last sent to one endpoint."""

    __slots__ = ("_bytes", "_prompts")

    def __init__(self) -> None:
        self._prompts: deque[PromptKeys] = deque()
        self._bytes = 0

    def add(self, prompt: PromptKeys) -> None:
        """Keep a prompt, and drop the oldest that there is no room for."""
        self._prompts.append(prompt)
        self._bytes += len(prompt.tokens)
        while len(self._prompts) > 1 and (len(self._prompts) > PROMPTS_MAX or self._bytes > BYTES_MAX):
            self._bytes -= len(self._prompts.popleft().tokens)

    def clear(self) -> None:
        """Forget them."""
        self._prompts.clear()
        self._bytes = 0

    def head_of(self, event: Stored) -> list[int] | None:
        """Return the keys of the blocks that an engine must hold before those of an event; None unless one prompt tells.

        Cost: a search for the first block in each prompt, some 10 us per 100 kB.
        """
        found: list[int] | None = None
        for prompt in self._prompts:
            head = _head_in(prompt, event)
            if head is not None and head != found:
                if found is not None:
                    return None  # Same tokens, another salt: it cannot be told which of them this is.
                found = head
        return found


def _head_in(prompt: PromptKeys, event: Stored) -> list[int] | None:
    keys = prompt.by_size.get(event.block_tokens)
    if not keys or prompt.lora != event.lora:
        return None
    step = event.block_tokens * TOKEN_BYTES
    first = event.tokens[:step]
    start = 0
    for _ in range(PLACES_MAX):
        start = prompt.tokens.find(first, start + 1)
        depth, odd = divmod(start, step)
        if start < 0 or depth >= len(keys):
            return None
        new = keys[depth : depth + len(event.handles)]
        if depth and not odd and chain(event.tokens[: len(new) * step], event.block_tokens, keys[depth - 1], event.extras) == new:
            return keys[:depth]
    return None
