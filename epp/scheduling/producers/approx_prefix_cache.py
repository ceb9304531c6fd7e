"""`approx-prefix-cache-producer`: who holds a prompt, by where earlier prompts were sent."""

from typing import Annotated

from msgspec import Meta

from epp.errors import ConfigError
from epp.model.request import BYTES_PER_TOKEN
from epp.prefix.approximate import CAPACITY_TOKENS, Approximate
from epp.prefix.blocks import BLOCK_GROWTH, PROMPT_BYTES_MAX, shared_blocks
from epp.scheduling.api import Producer

BLOCK_SIZE = 16
"""Default of `blockSizeTokens`."""


class ApproxPrefixCacheProducer(Producer, frozen=True):
    """Makes the strategy `approximate`.

    Takes the parameters of the reference's producer of this name. What differs: blocks grow with depth unless `blockGrowth` is 0,
    and capacity counts the tokens that blocks stand for, not entries.
    """

    auto_tune: Annotated[bool, Meta(description="Believe the cache size that an engine reports, where it does.")] = True
    block_size_tokens: Annotated[int, Meta(ge=1, le=65536, description="Size of the first blocks, in tokens of 4 bytes.")] = (
        BLOCK_SIZE
    )
    block_size: Annotated[
        int, Meta(ge=0, le=65536, description="Older name of `blockSizeTokens`, in tokens too; counts where that has its default.")
    ] = 0
    block_growth: Annotated[
        float, Meta(ge=0, le=1, description="Size of a later block as a share of the prompt before it; 0: all blocks are equal.")
    ] = BLOCK_GROWTH
    max_prefix_tokens_to_match: Annotated[
        int, Meta(ge=0, le=1 << 22, description="Tokens of a prompt that are looked at; 0: `maxPrefixBlocksToMatch` decides.")
    ] = PROMPT_BYTES_MAX // BYTES_PER_TOKEN
    max_prefix_blocks_to_match: Annotated[
        int, Meta(ge=1, le=1 << 16, description="The same in blocks of `blockSizeTokens`, if `maxPrefixTokensToMatch` is 0.")
    ] = 2048
    lru_capacity_per_server: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Cache of an endpoint that reports none, in blocks of `blockSizeTokens`; the reference's unit."),
    ] = None
    capacity_tokens: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description=f"The same in tokens; {CAPACITY_TOKENS} when neither of the two is given."),
    ] = None

    def check(self) -> None:
        """Raise ConfigError when the capacity is given twice."""
        if self.capacity_tokens is not None and self.lru_capacity_per_server is not None:
            raise ConfigError("give capacityTokens or lruCapacityPerServer, not both")

    @property
    def first_block(self) -> int:
        """Size of the first blocks, in tokens. As in the reference, a `blockSizeTokens` of the default size does not overrule."""
        return self.block_size if self.block_size and self.block_size_tokens == BLOCK_SIZE else self.block_size_tokens

    def build(self) -> Approximate:
        """Return a new, empty strategy."""
        minimum = self.first_block * BYTES_PER_TOKEN
        tokens_max = self.max_prefix_tokens_to_match or self.max_prefix_blocks_to_match * self.first_block
        capacity = self.capacity_tokens or CAPACITY_TOKENS
        if self.lru_capacity_per_server is not None:
            capacity = self.lru_capacity_per_server * self.first_block
        blocks = shared_blocks(minimum, self.block_growth, tokens_max * BYTES_PER_TOKEN)
        return Approximate(blocks, capacity_tokens=capacity, use_reported=self.auto_tune)
