"""Parameters of the prefix producers: the reference's names, what they come to, and what is refused."""

from typing import Any

import msgspec
import pytest

from epp.errors import ConfigError
from epp.prefix.approximate import CAPACITY_TOKENS, Approximate
from epp.prefix.strategy import Strategy
from epp.scheduling.api import Producer
from epp.scheduling.producers.approx_prefix_cache import ApproxPrefixCacheProducer
from epp.scheduling.producers.consistent_hash import ConsistentHashProducer
from epp.scheduling.producers.prefix_chain import PrefixChainProducer
from epp.testing.builders import build_request, build_snapshot

PRODUCERS: list[type[Producer]] = [ApproxPrefixCacheProducer, ConsistentHashProducer, PrefixChainProducer]


def approximate(**parameters: Any) -> Approximate:
    producer = msgspec.convert(parameters, ApproxPrefixCacheProducer)
    producer.check()
    return producer.build()


def held(strategy: Strategy, *, capacity: float = 0, prompts: int = 40) -> int:
    """Return how many tokens one endpoint is believed to hold after many prompts of 2500 tokens."""
    pool = build_snapshot(1, capacity_tokens=[capacity])
    for seed in range(prompts):
        request = build_request(f"{seed:05d}".encode() * 2000)
        strategy.record(strategy.prepare(request), request, pool, 0, 0.0)
    return strategy.size().tokens


def reach(strategy: Approximate) -> int:
    """Return how many tokens of a very long prompt are remembered."""
    request, pool = build_request(b"x" * 5_000_000), build_snapshot(1, capacity_tokens=[10**9])
    strategy.record(strategy.prepare(request), request, pool, 0, 0.0)
    tokens = strategy.size().tokens
    strategy.forget(0)
    return tokens


def test_the_references_own_parameters_load():
    """As in its published samples."""
    parameters = {"maxPrefixTokensToMatch": 0, "maxPrefixBlocksToMatch": 256, "lruCapacityPerServer": 500, "blockSizeTokens": 64}
    producer = msgspec.convert({"autoTune": False, **parameters}, ApproxPrefixCacheProducer)
    assert reach(msgspec.structs.replace(producer, lru_capacity_per_server=None).build()) == pytest.approx(256 * 64, rel=1 / 16)
    assert 30_000 < held(producer.build()) <= 32_000


def test_growth_of_0_gives_the_references_blocks():
    strategy = approximate(blockSizeTokens=64, blockGrowth=0)
    assert len(strategy.prepare(build_request(b"x" * 256_000)).blocks) == 1000


def test_the_older_name_of_the_block_size_counts_tokens_too():
    def blocks(**sizes: int) -> int:
        return len(approximate(blockGrowth=0, **sizes).prepare(build_request(b"x" * 256_000)).blocks)

    assert blocks(blockSize=64) == blocks(blockSizeTokens=64) == 1000
    assert blocks(blockSize=64, blockSizeTokens=16) == 1000
    assert blocks(blockSize=64, blockSizeTokens=128) == 500


def test_capacity_is_the_engines_unless_told_otherwise():
    assert 9_000 < held(approximate(), capacity=10_000) <= 10_000
    assert 19_000 < held(approximate(autoTune=False, capacityTokens=20_000), capacity=10_000) <= 20_000
    assert 19_000 < held(approximate(capacityTokens=20_000)) <= 20_000
    assert held(approximate()) < CAPACITY_TOKENS


def test_a_capacity_given_twice_is_refused():
    with pytest.raises(ConfigError, match="not both"):
        approximate(capacityTokens=1000, lruCapacityPerServer=1000)


def test_the_tokens_that_are_looked_at_are_bounded():
    assert reach(approximate(maxPrefixTokensToMatch=1000)) == pytest.approx(1000, rel=1 / 16)
    assert reach(approximate()) == pytest.approx(262_144, rel=1 / 16)
    assert len(ConsistentHashProducer(max_prefix_tokens_to_match=16).build().prepare(build_request(b"x" * 6400)).blocks) == 1


@pytest.mark.parametrize(
    ("producer", "parameters"),
    [
        (ApproxPrefixCacheProducer, {"blockSizeTokens": 0}),
        (ApproxPrefixCacheProducer, {"blockGrowth": 1.5}),
        (ApproxPrefixCacheProducer, {"blocksize": 16}),
        (ConsistentHashProducer, {"loadFactor": 0.9}),
        (ConsistentHashProducer, {"loadFloor": -1}),
        (ConsistentHashProducer, {"keyDepthBytes": 0}),
        (PrefixChainProducer, {"chain": []}),
        (PrefixChainProducer, {}),
    ],
)
def test_parameters_out_of_range_are_refused(producer, parameters):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(parameters, producer)


@pytest.mark.parametrize("producer", PRODUCERS)
def test_every_parameter_says_what_it_does(producer):
    schema = msgspec.json.schema(producer)["$defs"][producer.__name__]
    assert schema["properties"]
    for name, field in schema["properties"].items():
        assert field.get("description"), name


def test_equal_parameters_are_equal_producers_so_that_a_strategy_is_kept_warm():
    assert msgspec.convert({"blockSizeTokens": 16}, ApproxPrefixCacheProducer) == ApproxPrefixCacheProducer()
    assert ConsistentHashProducer(load_factor=1.5) != ConsistentHashProducer()
    assert hash(PrefixChainProducer(chain=("a",))) == hash(PrefixChainProducer(chain=("a",)))


def test_the_two_that_cut_prompts_share_the_work():
    request = build_request(b"x" * 1000)
    assert ApproxPrefixCacheProducer().build().prepare(request) is ConsistentHashProducer().build().prepare(request)


def test_the_parameters_of_consistent_hashing_arrive():
    strategy = ConsistentHashProducer(load_factor=1.0, load_floor=0, key_depth_bytes=64).build()
    request, pool = build_request(b"x" * 1000), build_snapshot(4, requests=[1, 1, 1, 0])
    found = strategy.match(strategy.prepare(request), request, pool, pool.slots)
    assert found is not None
    assert found.tokens.nonzero()[0].tolist() == [3]
    assert strategy.key(strategy.prepare(request), 4) == strategy.prepare(request).blocks[0]


def test_a_chain_is_built_of_what_the_others_built():
    built: dict[str, Strategy] = {"near": ApproxPrefixCacheProducer().build(), "far": ConsistentHashProducer().build()}
    producer = msgspec.convert({"chain": ["near", "far"]}, PrefixChainProducer)
    producer.check()
    assert producer.build_chain(built).strategies == (built["near"], built["far"])


def test_a_chain_of_nobody_or_of_one_twice_is_refused_with_the_path():
    with pytest.raises(ConfigError, match=r"chain\[1\]: no prefix producer 'far'; there are: near"):
        PrefixChainProducer(chain=("near", "far")).build_chain({"near": ApproxPrefixCacheProducer().build()})
    with pytest.raises(ConfigError, match=r"chain\[1\]: 'near' is named twice"):
        PrefixChainProducer(chain=("near", "near")).check()
    with pytest.raises(ConfigError, match="without the strategies"):
        PrefixChainProducer(chain=("near",)).build()
