"""Keys of token blocks: the same for a prompt we are asked about and for the blocks an engine says it has stored.

A key is the xxh3 hash of a block's token ids, seeded with the key of the block before it; the first is seeded with a *namespace* of
adapter and cache salt. So equal keys mean equal prompts up to there, whatever hash the engine uses, and the chain goes on from any
block whose key is known. The engine's own hashes are not reproduced: they depend on its release, options and process.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from xxhash import xxh3_64_intdigest

TOKEN_BYTES: Final = array("I").itemsize
KEYS_MAX: Final = 16_384
"""Blocks of one prompt that are looked at; behind that a prompt is matched by its head. 262 144 tokens in blocks of 16."""


def namespace(lora: str, salt: str) -> int:
    """Return the seed of a chain: blocks of another adapter or salt are other blocks, whatever their tokens."""
    return xxh3_64_intdigest(f"{lora}\0{salt}".encode()) if lora or salt else 0


def chain(tokens: bytes, block_tokens: int, seed: int, extras: Sequence[bytes] = ()) -> list[int]:
    """Return one key per full block.

    Args:
        tokens: token ids, 4 bytes each in native order.
        block_tokens: tokens of a block, at least 1.
        seed: key of the block before the first, or its namespace.
        extras: what else distinguishes each block, one per block; empty when nothing does.

    Cost: 0.2 us per block of 16 tokens.
    """
    step = block_tokens * TOKEN_BYTES
    last = len(tokens) - step + 1
    keys = []
    if extras:
        for start, extra in zip(range(0, last, step), extras, strict=False):
            seed = xxh3_64_intdigest(tokens[start : start + step], xxh3_64_intdigest(extra, seed) if extra else seed)
            keys.append(seed)
        return keys
    for start in range(0, last, step):
        seed = xxh3_64_intdigest(tokens[start : start + step], seed)
        keys.append(seed)
    return keys


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptKeys:
    """The keys of one prompt, once per block size that an engine of the pool uses."""

    by_size: Mapping[int, list[int]]
    total: int
    """Tokens of the whole prompt."""
    tokens: bytes = field(default=b"", repr=False)
    """All but the last, 4 bytes each in native order."""
    lora: str = ""
    """The adapter whose name went into the keys."""
    reason: str = ""
    """Why there are none."""


def prompt_keys(token_ids: Sequence[int], sizes: Sequence[int], *, lora: str, salt: str) -> PromptKeys:
    """Return the keys of a prompt in each block size.

    The last token is left out: an engine always computes at least that one, so a prompt of exactly n blocks hits n - 1
    (vllm/v1/core/kv_cache_manager.py, `get_computed_blocks`).

    Raises:
        OverflowError: a token id is negative or above 32 bits.
    """
    seed = namespace(lora, salt)
    tokens = array("I", token_ids[:-1]).tobytes()
    by_size = {size: chain(tokens[: size * TOKEN_BYTES * KEYS_MAX], size, seed) for size in sizes}
    return PromptKeys(by_size=by_size, total=len(token_ids), tokens=tokens, lora=lora)
