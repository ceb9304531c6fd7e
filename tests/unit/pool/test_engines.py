"""Engines: what their pages say, and which endpoint is of which make."""

from pathlib import Path

import msgspec
import pytest

from epp.errors import ConfigError
from epp.model.endpoint import Endpoint
from epp.pool.engines import ADAPTERS_PER_ENDPOINT_MAX, EngineConfig, Engines, Reader, Sample

VLLM_PAGE = (Path(__file__).parents[2] / "data" / "vllm_metrics.txt").read_bytes()


IDLE = "vllm:num_requests_waiting 0\n"


def read(page: bytes | str, engine: str = "vllm", engines: Engines | None = None) -> Sample | None:
    endpoint = Endpoint(name="default/a", address="10.0.0.1", port=8000, labels={"llm-d.ai/engine-type": engine})
    return Reader((engines or Engines()).of(endpoint)).read(page if isinstance(page, bytes) else page.encode())


def test_a_real_vllm_page():
    assert read(VLLM_PAGE) == Sample(waiting=0.0, running=0.0, kv_usage=0.0, block_tokens=32, blocks=16384)


def test_the_same_page_gives_the_same_sample():
    reader = Reader(Engines().of(Endpoint(name="default/a", address="10.0.0.1", port=8000)))
    first = reader.read(VLLM_PAGE)
    assert reader.read(b"# moved\n" + VLLM_PAGE) is first
    changed = VLLM_PAGE.replace(
        b'requests_running{engine="0",model_name="tiny"} 0.0', b'requests_running{engine="0",model_name="tiny"} 7.0'
    )
    assert reader.read(changed).running == 7.0


def test_sglang():
    page = (
        'sglang:num_queue_reqs{model_name="m"} 3.0\nsglang:num_running_reqs{model_name="m"} 2.0\n'
        'sglang:token_usage{model_name="m"} 0.25\nsglang:cache_config_info{num_pages="100",page_size="64"} 1.0\n'
    )
    assert read(page, "sglang") == Sample(waiting=3, running=2, kv_usage=0.25, block_tokens=64, blocks=100)
    gauges = 'sglang:page_size{tp_rank="0"} 1.0\nsglang:num_pages{tp_rank="0"} 59902.0\n'  # later versions
    assert read(gauges, "sglang") == Sample(block_tokens=1, blocks=59902)


def test_data_parallel_ranks_of_vllm_behind_one_port():
    """Requests are those of all; the number of blocks is in each line that of all."""
    page = b"\n".join(
        line if not line.startswith(b"vllm:") else line + b"\n" + line.replace(b'engine="0"', b'engine="1"').replace(b" 0.0", after)
        for line in VLLM_PAGE.splitlines()
        for after in (b" 57.0" if line.startswith(b"vllm:num_requests_") else b" 0.5",)
    )
    assert read(page) == Sample(waiting=57, running=57, kv_usage=0.25, block_tokens=32, blocks=16384)


def test_data_parallel_ranks_of_sglang_are_parts_and_its_tensor_ranks_are_not():
    page = "".join(
        f'sglang:{name}{{dp_rank="{dp}",engine_type="unified",model_name="m",pp_rank="0",tp_rank="{tp}"{more}}} {value}\n'
        for name, values, more in (
            ("num_running_reqs", (1, 40), ""),
            ("num_queue_reqs", ("NaN", 33), ""),
            ("token_usage", (0.0, 0.5), ""),
            ("cache_config_info", (1, 1), ',page_size="64",num_pages="100"'),
        )
        for dp, value in enumerate(values)
        for tp in (0, 1)
    )
    assert read(page, "sglang") == Sample(waiting=33, running=41, kv_usage=0.25, block_tokens=64, blocks=200)


def test_trtllm_serve():
    page = (
        "trtllm_num_requests_waiting 1\ntrtllm_num_requests_running 4\ntrtllm_kv_cache_utilization 0.5\n"
        "trtllm_kv_cache_tokens_per_block 32\ntrtllm_kv_cache_max_blocks 1000\n"
    )
    assert read(page, "trtllm-serve") == Sample(waiting=1, running=4, kv_usage=0.5, block_tokens=32, blocks=1000)


def test_triton_with_tensorrt_llm():
    page = (
        'nv_trt_llm_request_metrics{model="m",request_type="active",version="1"} 9\n'
        'nv_trt_llm_request_metrics{model="m",request_type="waiting",version="1"} 2\n'
        'nv_trt_llm_request_metrics{model="m",request_type="scheduled",version="1"} 5\n'
        'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="m"} 0.125\n'
        'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per",model="m"} 64\n'
        'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="m"} 300\n'
    )
    assert read(page, "triton-tensorrt-llm") == Sample(waiting=2, running=5, kv_usage=0.125, block_tokens=64, blocks=300)


def test_triton():
    """What waits is that of all models; what runs it does not say, only how much ever ran."""
    page = (
        'nv_inference_exec_count{model="llm",version="1"} 123456\n'
        'nv_inference_pending_request_count{model="pre",version="1"} 0\n'
        'nv_inference_pending_request_count{model="llm",version="1"} 7\n'
        'nv_inference_pending_request_count{model="llm",version="2"} 70\n'
    )
    assert read(page, "triton") == Sample(waiting=77)


def test_lora_of_several_series_the_one_with_the_highest_value():
    page = (
        'vllm:lora_requests_info{max_lora="4",running_lora_adapters="a, b",waiting_lora_adapters="c"} 1.7e+09\n'
        'vllm:lora_requests_info{max_lora="4",running_lora_adapters="d",waiting_lora_adapters=""} 1.6e+09\n'
    )
    sample = read(IDLE + page)
    assert (sample.adapters, sample.adapters_waiting, sample.adapters_max) == ({"a", "b"}, {"c"}, 4)


def test_lora_of_more_series_than_are_parsed():
    """vLLM never takes a set of adapters that once ran together off its page."""
    old = [f'vllm:lora_requests_info{{running_lora_adapters="old-{number}"}} {1e9 + number}\n' for number in range(3000)]
    new = 'vllm:lora_requests_info{running_lora_adapters="new"} 1.7e+09\n'
    reader = Reader(Engines().of(Endpoint(name="default/a", address="10.0.0.1", port=8000)))
    assert reader.read((IDLE + "".join(old)).encode()).adapters == {"old-2999"}
    assert reader.read((IDLE + "".join([*old, new])).encode()).adapters == {"new"}
    assert reader.read(
        (IDLE + "".join([*old[:7], new.replace("new", "old-7").replace("7e", "8e"), *old[8:], new])).encode()
    ).adapters == {"old-7"}


def test_adapters_are_bounded():
    names = ",".join(f"adapter-{number}" for number in range(2000))
    page = f'vllm:lora_requests_info{{max_lora="1",running_lora_adapters="{names}",waiting_lora_adapters=""}} 1\n'
    assert len(read(IDLE + page).adapters) == ADAPTERS_PER_ENDPOINT_MAX


def test_blocks_not_known_yet():
    page = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="None"} 1.0\n'
    assert read(IDLE + page) == Sample(waiting=0, block_tokens=16)


def test_nonsense_is_cut_to_something_finite():
    sample = read("vllm:num_requests_waiting -3\nvllm:num_requests_running 1e300\nvllm:kv_cache_usage_perc 7\n")
    assert (sample.waiting, sample.running, sample.kv_usage) == (0.0, 1e9, 1.0)


def test_another_engine_and_another_default():
    llama = EngineConfig(name="llama.cpp", queued_requests_spec="llamacpp:requests_deferred", cache_block_size_spec="b{k=v}")
    engines = Engines([llama], default="llama.cpp")
    page = 'llamacpp:requests_deferred 6\nb{k="w"} 1\nb{k="v"} 2\n'
    assert read(page, "llama.cpp", engines) == read(page, "no-such-engine", engines) == Sample(waiting=6, block_tokens=2)
    assert read(page, "vllm", engines) is None


def test_a_built_in_engine_can_be_replaced():
    engines = Engines([EngineConfig(name="vllm", queued_requests_spec="q")])
    assert read("q 6\nvllm:num_requests_waiting 1\n", "vllm", engines) == Sample(waiting=6)


def test_the_older_label_is_read_too():
    endpoint = Endpoint(
        name="default/a", address="10.0.0.1", port=8000, labels={"inference.networking.k8s.io/engine-type": "sglang"}
    )
    assert Reader(Engines().of(endpoint)).read(b"sglang:num_queue_reqs 4\n").waiting == 4


@pytest.mark.parametrize(
    ("configs", "default", "path"),
    [
        ([{"name": "default"}], "vllm", "parameters.engineConfigs[0].name"),
        ([{"name": "a"}, {"name": "a"}], "vllm", "parameters.engineConfigs[1].name"),
        ([{"name": "a", "loraSpec": "1"}], "vllm", "parameters.engineConfigs[0].loraSpec"),
        ([{"name": "a", "customMetrics": [{"attributeKey": "x"}]}], "vllm", "parameters.engineConfigs[0].customMetrics"),
        ([], "unknown", "parameters.defaultEngine"),
    ],
)
def test_mistakes_are_told_with_their_path(configs, default, path):
    with pytest.raises(ConfigError) as caught:
        Engines(msgspec.convert(configs, list[EngineConfig]), default=default, path="parameters")
    assert caught.value.path == path
