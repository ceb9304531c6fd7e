"""What a model server says about itself, whatever its make: which series of its page mean what.

The poller keeps a `Reader` per endpoint and gives it every page; it answers with a `Sample`, which `PoolState.update` takes. Names
of the built-in engines are those of the model-server protocol of the Gateway API inference extension; others are described in the
configuration (`engineConfigs`), in the same words as the reference's.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from epp.errors import ConfigError
from epp.model.endpoint import ENGINE_LABEL, Endpoint
from epp.pool.exposition import Family, Highest, Series, Spec, parse_spec, values, with_labels

LEGACY_ENGINE_LABEL = "inference.networking.k8s.io/engine-type"
NUMBER_MAX = 1e9
"""No count of requests, tokens or blocks is larger; what claims to be is cut, so that columns stay finite."""
PARTS = ("engine", "dp_rank", "model", "version")
"""Labels by which parts of a server report for themselves: data-parallel ranks (vLLM, SGLang) and models (Triton). Ranks that share
a model (`tp_rank`, `pp_rank`) work on the same requests and report the same."""
INFO_PARTS = ("dp_rank",)
"""The same of block counts in labels: what vLLM says of each engine is the number of all engines together."""
ADAPTERS_PER_ENDPOINT_MAX = 256
"""LoRA adapters of one endpoint that are looked at, in alphabetical order."""


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


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """An engine as the configuration describes it. A metric is `name` or `name{label=value,...}`; empty means there is none."""

    name: Annotated[str, Meta(description="What the label of an endpoint says.")]
    queued_requests_spec: Annotated[str, Meta(description="Requests that wait.")] = ""
    running_requests_spec: Annotated[str, Meta(description="Requests it works on.")] = ""
    kv_usage_spec: Annotated[str, Meta(description="Share of the KV cache in use, 0..1.")] = ""
    lora_spec: Annotated[
        str,
        Meta(description="With the labels `max_lora`, `running_lora_adapters`, `waiting_lora_adapters`; its value is a time."),
    ] = ""
    cache_info_spec: Annotated[str, Meta(description="Its labels hold block size and number of blocks.")] = ""
    cache_block_size_label_name: Annotated[str, Meta(description="Label with the block size, in tokens.")] = "block_size"
    cache_num_blocks_label_name: Annotated[str, Meta(description="Label with the number of blocks.")] = "num_gpu_blocks"
    cache_block_size_spec: Annotated[str, Meta(description="Its value is the block size, where no label has it.")] = ""
    cache_num_blocks_spec: Annotated[str, Meta(description="Its value is the number of blocks, where no label has it.")] = ""
    custom_metrics: Annotated[tuple[Mapping[str, Any], ...], Meta(description="Must be empty: nothing reads them yet.")] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """Where an engine reports what. None where it does not."""

    waiting: Spec | None = None
    running: Spec | None = None
    kv_usage: Spec | None = None
    lora: Spec | None = None
    cache_info: Spec | None = None
    block_label: str = ""
    blocks_label: str = ""
    block_tokens: Spec | None = None
    blocks: Spec | None = None


BUILT_IN = (
    EngineConfig(
        name="vllm",
        queued_requests_spec="vllm:num_requests_waiting",
        running_requests_spec="vllm:num_requests_running",
        kv_usage_spec="vllm:kv_cache_usage_perc",
        lora_spec="vllm:lora_requests_info",
        cache_info_spec="vllm:cache_config_info",
    ),
    EngineConfig(
        name="sglang",
        queued_requests_spec="sglang:num_queue_reqs",
        running_requests_spec="sglang:num_running_reqs",
        kv_usage_spec="sglang:token_usage",
        cache_info_spec="sglang:cache_config_info",
        cache_block_size_label_name="page_size",
        cache_num_blocks_label_name="num_pages",
        cache_block_size_spec="sglang:page_size",
        cache_num_blocks_spec="sglang:num_pages",
    ),
    EngineConfig(
        name="trtllm-serve",
        queued_requests_spec="trtllm_num_requests_waiting",
        running_requests_spec="trtllm_num_requests_running",
        kv_usage_spec="trtllm_kv_cache_utilization",
        cache_block_size_spec="trtllm_kv_cache_tokens_per_block",
        cache_num_blocks_spec="trtllm_kv_cache_max_blocks",
    ),
    EngineConfig(
        name="triton-tensorrt-llm",
        queued_requests_spec="nv_trt_llm_request_metrics{request_type=waiting}",
        running_requests_spec="nv_trt_llm_request_metrics{request_type=scheduled}",
        kv_usage_spec="nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=fraction}",
        cache_block_size_spec="nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=tokens_per}",
        cache_num_blocks_spec="nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=max}",
    ),
    # The reference reads `nv_inference_exec_count` as what runs; it counts all that ever ran.
    EngineConfig(name="triton", queued_requests_spec="nv_inference_pending_request_count"),
)


class Engines:
    """The engines that are known by name, and which endpoint is of which make.

    Args:
        configs: engines beside the built-in ones; one with a built-in name replaces it.
        default: what an endpoint is whose label is missing or unknown.
        label: name of the label that tells; the older name of it is read as well.
        path: where in the configuration file this stands, for errors.

    Raises:
        ConfigError: a metric that is none, an engine twice, a reserved name, or a default that does not exist.
    """

    def __init__(
        self, configs: Sequence[EngineConfig] = (), *, default: str = "vllm", label: str = ENGINE_LABEL, path: str = ""
    ) -> None:
        self._engines = {config.name: _engine(config, "") for config in BUILT_IN}
        prefix = f"{path}." if path else ""
        seen: set[str] = set()
        for index, config in enumerate(configs):
            where = f"{prefix}engineConfigs[{index}]"
            if config.name in ("", "default"):
                raise ConfigError(f"an engine cannot be called {config.name!r}", f"{where}.name")
            if config.name in seen:
                raise ConfigError(f"engine {config.name!r} is described twice", f"{where}.name")
            seen.add(config.name)
            self._engines[config.name] = _engine(config, where)
        if default not in self._engines:
            raise ConfigError(f"no engine {default!r}; there are {', '.join(sorted(self._engines))}", f"{prefix}defaultEngine")
        self._default = self._engines[default]
        self._label = label

    def of(self, endpoint: Endpoint) -> Engine:
        """Return the engine of an endpoint."""
        name = endpoint.labels.get(self._label) or endpoint.labels.get(LEGACY_ENGINE_LABEL, "")
        return self._engines.get(name, self._default)


class Reader:
    """Reads the pages of one endpoint. Cost: about 20 us for a page of 50 kB of which little has changed."""

    __slots__ = ("_engine", "_families", "_last", "_sample", "_says_nothing")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        specs = (
            engine.waiting, engine.running, engine.kv_usage,
            engine.cache_info, engine.block_tokens, engine.blocks,
        )  # fmt: skip
        self._families = {spec.name: Family(spec.name) for spec in specs if spec is not None}
        if engine.lora is not None:
            self._families[engine.lora.name] = Highest(engine.lora)
        self._last: dict[str, Sequence[Series]] = {}
        self._sample = Sample()
        self._says_nothing = bool(self._families)

    def read(self, page: bytes) -> Sample | None:
        """Return what a page says: the same object as before when it says the same; None when it is not this engine's.

        Another engine's page, or none at all, must not pass for an idle server's. One that has not counted anything yet may lack
        what is to be counted, but not what it is: vLLM's cache is described from the start.
        """
        series = {name: family.read(page) for name, family in self._families.items()}
        if any(series[name] is not self._last.get(name) for name in series):
            self._last = series
            self._sample = _sample(self._engine, series)
            self._says_nothing = bool(series) and self._sample == Sample()
        return None if self._says_nothing else self._sample


def _sample(engine: Engine, series: Mapping[str, Sequence[Series]]) -> Sample:
    def of(spec: Spec | None) -> Sequence[Series]:
        return () if spec is None else with_labels(series[spec.name], spec.labels)

    def number(spec: Spec | None, together: Callable[[Iterable[float]], float] = sum, most: float = NUMBER_MAX) -> float | None:
        found = [min(most, max(0.0, value)) for value in values(of(spec), PARTS)]
        return together(found) if found else None

    block_tokens, blocks = number(engine.block_tokens, max), number(engine.blocks)
    info, lora = of(engine.cache_info), _highest(of(engine.lora))
    return Sample(
        waiting=number(engine.waiting),
        running=number(engine.running),
        kv_usage=number(engine.kv_usage, fmean, 1.0),
        block_tokens=_integer(_highest(info).get(engine.block_label)) if block_tokens is None else int(block_tokens),
        blocks=_blocks(info, engine.blocks_label) if blocks is None else int(blocks),
        adapters=_names(lora.get("running_lora_adapters", "")),
        adapters_waiting=_names(lora.get("waiting_lora_adapters", "")),
        adapters_max=_integer(lora.get("max_lora")) or 0,
    )


def _highest(series: Sequence[Series]) -> Mapping[str, str]:
    """Return the labels of an info series; of several the one with the highest value, which for LoRA is the latest."""
    return max(series, key=lambda one: one.value).labels if series else {}


def _blocks(info: Sequence[Series], label: str) -> int | None:
    """Return the number of blocks that an info series has in a label, all parts together; None while none is known."""
    first = {tuple(map(one.labels.get, INFO_PARTS)): _integer(one.labels.get(label)) for one in reversed(info)}
    known = [blocks for blocks in first.values() if blocks is not None]
    return sum(known) if known else None


def _names(text: str) -> frozenset[str]:
    names = sorted({name.strip() for name in text.split(",")} - {""})
    return frozenset(names[:ADAPTERS_PER_ENDPOINT_MAX])


def _integer(text: str | None) -> int | None:
    """Return a label value as a whole number; None for `None`, which vLLM writes while it does not know yet, and for nonsense."""
    return int(text) if text is not None and text.isascii() and text.isdecimal() and len(text) < 10 else None


def _engine(config: EngineConfig, path: str) -> Engine:
    if config.custom_metrics:
        raise ConfigError("custom metrics are not supported", f"{path}.customMetrics")

    def spec(text: str, name: str) -> Spec | None:
        return parse_spec(text, f"{path}.{name}") if text else None

    return Engine(
        waiting=spec(config.queued_requests_spec, "queuedRequestsSpec"),
        running=spec(config.running_requests_spec, "runningRequestsSpec"),
        kv_usage=spec(config.kv_usage_spec, "kvUsageSpec"),
        lora=spec(config.lora_spec, "loraSpec"),
        cache_info=spec(config.cache_info_spec, "cacheInfoSpec"),
        block_label=config.cache_block_size_label_name,
        blocks_label=config.cache_num_blocks_label_name,
        block_tokens=spec(config.cache_block_size_spec, "cacheBlockSizeSpec"),
        blocks=spec(config.cache_num_blocks_spec, "cacheNumBlocksSpec"),
    )
