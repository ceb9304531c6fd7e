"""`consistent-hash-producer`: where a prompt belongs, by a hash of its prefix."""

from typing import Annotated

from msgspec import Meta

from epp.model.request import BYTES_PER_TOKEN
from epp.prefix.blocks import BLOCK_GROWTH, PROMPT_BYTES_MAX, shared_blocks
from epp.prefix.consistent_hash import FIRST_SHARE, ConsistentHash
from epp.prefix.ring import LOAD_FACTOR, LOAD_FLOOR
from epp.scheduling.api import Producer


class ConsistentHashProducer(Producer, frozen=True):
    """Makes the strategy `consistent-hash`: rendezvous hashing of a prefix of the prompt, with bounded loads."""

    load_factor: Annotated[
        float, Meta(ge=1, le=100, description="An endpoint takes at most this multiple of the mean requests in flight.")
    ] = LOAD_FACTOR
    load_floor: Annotated[int, Meta(ge=0, description="Requests that an endpoint may have whatever the mean.")] = LOAD_FLOOR
    key_depth_bytes: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Bytes of the prompt that make the key, rounded up to a block; null: until few others share it."),
    ] = None
    first_share: Annotated[
        float,
        Meta(gt=0, le=1, description="Share of a prompt that its home is believed to hold until servers report cached tokens."),
    ] = FIRST_SHARE
    block_size_tokens: Annotated[int, Meta(ge=1, le=65536, description="Size of the first blocks, in tokens of 4 bytes.")] = 16
    block_growth: Annotated[
        float, Meta(ge=0, le=1, description="Size of a later block as a share of the prompt before it; 0: all blocks are equal.")
    ] = BLOCK_GROWTH
    max_prefix_tokens_to_match: Annotated[int, Meta(ge=1, le=1 << 22, description="Tokens of a prompt that are looked at.")] = (
        PROMPT_BYTES_MAX // BYTES_PER_TOKEN
    )

    def build(self) -> ConsistentHash:
        """Return a new strategy."""
        blocks = shared_blocks(
            self.block_size_tokens * BYTES_PER_TOKEN, self.block_growth, self.max_prefix_tokens_to_match * BYTES_PER_TOKEN
        )
        return ConsistentHash(
            blocks,
            load_factor=self.load_factor,
            floor=self.load_floor,
            key_depth_bytes=self.key_depth_bytes,
            first_share=self.first_share,
        )
