"""A prompt that is not a conversation, as completions and embeddings take it: text, texts, token ids, or lists of token ids."""

from collections.abc import Sequence
from typing import Annotated, cast

import numpy as np
from msgspec import Meta

from epp.errors import BadRequest
from epp.parsers.canonical import ITEMS_MAX, MESSAGE

TokenId = Annotated[int, Meta(ge=0, lt=2**31)]
PlainPrompt = str | list[str | TokenId | list[TokenId]]


def read_prompt(prompt: PlainPrompt | None, missing: str) -> tuple[bytes, tuple[int, ...] | None]:
    """Return the canonical bytes, and the token ids where the prompt is given as such.

    Of a batch the engine makes one sequence each, but it goes to one endpoint: the prompts stand one after the other, so that the
    first counts as a prefix and the others as work. Token ids are 4 bytes each, little endian.

    Args:
        prompt: the decoded field.
        missing: the sentence for a prompt that is absent or empty.

    Raises:
        BadRequest: there is no prompt, there are too many, or kinds are mixed in one list.
    """
    if isinstance(prompt, str):
        return prompt.encode(), None
    if not prompt:
        raise BadRequest(missing)
    kinds = set(map(type, prompt))
    if kinds != {int} and len(prompt) > ITEMS_MAX:
        raise BadRequest(f"invalid request: more than {ITEMS_MAX} prompts")
    if kinds == {str}:
        return MESSAGE.join([text.encode() for text in cast("list[str]", prompt)]), None
    if kinds == {int}:
        return _ids(cast("list[int]", prompt))
    if kinds == {list}:
        tokens = [token for tokens in cast("list[list[int]]", prompt) for token in tokens]
        if not tokens:
            raise BadRequest(missing)
        return _ids(tokens)
    raise BadRequest("invalid request: a list is all texts, all token ids, or all lists of token ids")


def _ids(tokens: Sequence[int]) -> tuple[bytes, tuple[int, ...]]:
    return np.array(tokens, dtype="<u4").tobytes(), tuple(tokens)
