"""One request inside an engine: its tokens so far, the cache blocks that hold them, and what it reused.

The engines move `computed` forward and append generated tokens; everything that touches the cache is here, so that both engines
reuse, fill and free blocks the same way.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from epp.testing.block_cache import BlockCache, Stored, block_keys, chain
from epp.testing.tokenizer import word_ids


@dataclass(slots=True, kw_only=True, eq=False)
class Generation:
    """A request that waits, runs or is done."""

    token_ids: list[int]
    """The prompt, and behind it what was generated."""
    max_tokens: int
    lora: str = ""
    salt: str = ""
    on_tokens: Callable[["Generation"], None] = lambda _: None
    """Called after every step that gave this request a token."""
    root: bytes = b""
    """What stands before the first block in the chain of keys: the engine's own."""
    prompt_tokens: int = 0
    seed: int = 0
    """Where in the list of words its answer begins; depends on the prompt alone, so equal prompts get equal answers."""
    cached_tokens: int = 0
    """Prompt tokens found in the cache when it first ran."""
    computed: int = 0
    """Tokens whose keys and values are in the cache."""
    blocks: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    sealed: int = 0
    """How many of `blocks` are full and published."""
    arrived_s: float = 0.0
    started: bool = False
    done: bool = False

    def __post_init__(self) -> None:
        self.prompt_tokens = len(self.token_ids)
        self.seed = sum(self.token_ids[-16:]) * 7 + self.prompt_tokens

    @property
    def generated(self) -> int:
        """Tokens generated so far."""
        return len(self.token_ids) - self.prompt_tokens

    @property
    def finished(self) -> bool:
        """Whether it has all the tokens it asked for."""
        return self.generated >= self.max_tokens

    def add_token(self) -> None:
        """Generate one word."""
        words = word_ids()
        self.token_ids.append(words[(self.seed + self.generated) % len(words)])

    def find(self, cache: BlockCache, root: bytes) -> list[int]:
        """Return the blocks of its prompt that the cache holds.

        At most all but the last token counts as found, as in vLLM: something must be computed to have a token to sample from.
        """
        if not self.keys:
            self.root = root
            self.keys = block_keys(self.token_ids, cache.block_tokens, root=root, lora=self.lora, salt=self.salt)
        return cache.lookup(self.keys, (len(self.token_ids) - 1) // cache.block_tokens)

    def start(self, cache: BlockCache, found: list[int]) -> None:
        """Pin what was found and count it as computed."""
        cache.pin(found)
        self.blocks = list(found)
        self.sealed = len(found)
        self.computed = len(found) * cache.block_tokens
        if not self.started:
            self.started = True
            self.cached_tokens = self.computed

    def missing(self, cache: BlockCache, tokens: int) -> int:
        """Return how many blocks it lacks to hold its first `tokens` tokens."""
        return max(0, -(-tokens // cache.block_tokens) - len(self.blocks))

    def grow(self, cache: BlockCache, tokens: int) -> None:
        """Take blocks for its first `tokens` tokens and publish those that become full. The caller has made sure they are there."""
        self.blocks += cache.take(self.missing(cache, tokens))
        self.seal(cache, tokens)

    def seal(self, cache: BlockCache, tokens: int) -> None:
        """Publish the blocks that the first `tokens` tokens fill."""
        size, first, last = cache.block_tokens, self.sealed, tokens // cache.block_tokens
        if last <= first:
            return
        adapter = b"lora:" + self.lora.encode() + b"\0" if self.lora else b""
        while len(self.keys) < last:  # blocks that end among the generated tokens; a salt stands only in block 0
            at = len(self.keys) * size
            salted = adapter + b"salt:" + self.salt.encode() + b"\0" if self.salt and not self.keys else adapter
            parent = self.keys[-1] if self.keys else self.root
            self.keys.append(chain(parent, self.token_ids[at : at + size], salted))
        stored = Stored(
            keys=tuple(self.keys[first:last]),
            parent=self.keys[first - 1] if first else None,
            token_ids=self.token_ids[first * size : last * size],
            lora=self.lora,
            salt=self.salt if first == 0 else "",
        )
        cache.seal(self.blocks[first:last], stored)
        self.sealed = last

    def release(self, cache: BlockCache) -> None:
        """Give all blocks back; what they hold stays to be found."""
        cache.free(self.blocks)
        self.blocks = []
        self.sealed = 0
        self.computed = 0
