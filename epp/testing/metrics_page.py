"""The stand-in's `/metrics`, in vLLM's names; on request padded to the size of a real page with series nobody reads."""

from collections.abc import Sequence
from functools import cache
from itertools import count

from epp.testing.engine import Engine

PADDING_BYTES = 50_000
"""About what a vLLM server with one model exposes."""

_BUCKETS = ("0.001", "0.005", "0.01", "0.02", "0.04", "0.08", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "20.0", "+Inf")
_HISTOGRAMS = (
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "request_time_per_output_token_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_inference_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
    "request_prompt_tokens",
    "request_generation_tokens",
    "iteration_tokens_total",
    "request_max_num_generation_tokens",
    "request_params_n",
    "request_params_max_tokens",
)


def render(engine: Engine, *, model: str, loras: Sequence[str], max_loras: int, padded: bool) -> str:
    """Return the page."""
    labels = f'{{engine="0",model_name="{model}"}}'
    counters = engine.counters
    waiting, running = engine.waiting, engine.running
    gauges = (
        ("num_requests_running", "gauge", float(len(running))),
        ("num_requests_waiting", "gauge", float(len(waiting))),
        ("kv_cache_usage_perc", "gauge", engine.cache.used_ratio),
        ("prefix_cache_queries_total", "counter", float(counters.queried_tokens)),
        ("prefix_cache_hits_total", "counter", float(counters.hit_tokens)),
        ("num_preemptions_total", "counter", float(counters.preempted)),
        ("prompt_tokens_total", "counter", float(counters.prompt_tokens)),
        ("generation_tokens_total", "counter", float(counters.generated_tokens)),
    )
    lines = []
    for name, kind, value in gauges:
        lines += [f"# HELP vllm:{name} See vLLM.", f"# TYPE vllm:{name} {kind}", f"vllm:{name}{labels} {value}"]
    lines += [
        "# TYPE vllm:cache_config_info gauge",
        f'vllm:cache_config_info{{block_size="{engine.cache.block_tokens}",cache_dtype="auto",enable_prefix_caching="True",'
        f'engine="0",num_gpu_blocks="{engine.cache.blocks}",num_gpu_blocks_override="None"}} 1.0',
        "# TYPE epp_stand_in_busy_seconds_total counter",
        f"epp_stand_in_busy_seconds_total {counters.busy_s}",
    ]
    if loras:
        here = ",".join(sorted({generation.lora for generation in running if generation.lora}))
        queued = ",".join(sorted({generation.lora for generation in waiting if generation.lora}))
        lines += [
            "# TYPE vllm:lora_requests_info gauge",
            f'vllm:lora_requests_info{{max_lora="{max_loras}",running_lora_adapters="{here}",waiting_lora_adapters="{queued}"}} '
            f"{float(counters.finished + len(running))}",
        ]
    if padded:
        lines[:0] = _padding(labels[1:-1])
    return "\n".join(lines) + "\n"


@cache
def _padding(labels: str) -> list[str]:
    lines: list[str] = []
    size = 0
    for number in count():
        if size >= PADDING_BYTES:
            break
        name = f"vllm:{_HISTOGRAMS[number % len(_HISTOGRAMS)]}{'_more' * (number // len(_HISTOGRAMS))}"
        block = [f"# HELP {name} Histogram.", f"# TYPE {name} histogram"]
        block += [f'{name}_bucket{{{labels},le="{bound}"}} 0.0' for bound in _BUCKETS]
        block += [f"{name}_count{{{labels}}} 0.0", f"{name}_sum{{{labels}}} 0.0"]
        lines += block
        size += sum(len(line) + 1 for line in block)
    return lines
