"""What a model server says about itself, whatever its make.

`Sample` is one reading of an endpoint; the poller makes it, `PoolState.update` takes it.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One reading of an endpoint. None where the endpoint does not say; what was known before then stays."""

    waiting: float | None = None
    """Requests queued in the engine."""
    running: float | None = None
    """Requests it works on."""
    kv_usage: float | None = None
    """Share of the KV cache in use, 0..1."""
    block_tokens: int | None = None
    """Tokens of a KV cache block."""
    blocks: int | None = None
    """Blocks of the KV cache."""
    adapters: frozenset[str] = frozenset()
    """LoRA adapters that run."""
    adapters_waiting: frozenset[str] = frozenset()
    """LoRA adapters that wait for a place."""
    adapters_max: int = 0
    """Places for adapters; 0 when unknown."""
