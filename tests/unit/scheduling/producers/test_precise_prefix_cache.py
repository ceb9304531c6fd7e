"""The parameters of `precise-prefix-cache-producer`."""

import pytest

from epp.config.typed import convert
from epp.errors import ConfigError
from epp.prefix.accurate import Accurate
from epp.prefix.kv_sources import Ports
from epp.scheduling.producers.precise_prefix_cache import PrecisePrefixCacheProducer


def make(**parameters):
    made = convert(parameters, PrecisePrefixCacheProducer, "parameters")
    made.check()
    return made


def test_a_file_of_the_reference_loads():
    made = make(
        tokenProcessorConfig={"blockSizeTokens": 64, "hashSeed": "42", "hashAlgorithm": "xxh64"},
        indexerConfig={"kvBlockIndexConfig": {"enableMetrics": True}},
        kvCacheBackendConfigs=[{"name": "gpu", "weight": 1.0}],
        kvEventsConfig={
            "topicFilter": "kv@",
            "concurrency": 4,
            "engineType": "vllm",
            "discoverPods": True,
            "podDiscoveryConfig": {"podLabelSelector": "app=vllm", "socketPort": 6000, "replaySocketPort": 6100},
        },
        speculativeIndexing=True,
        speculativeTTL="1.5s",
    )
    assert made.ports == Ports(events=6000, replay=6100)
    assert isinstance(made.build(), Accurate)


def test_defaults():
    assert make().ports == Ports(events=5557, replay=None)
    assert make() == make(speculativeTTL="2s"), "an equal configuration keeps the old strategy, warm"
    assert make(kvEventsConfig={"podDiscovery": {"socketPort": 7000, "replaySocketPort": -1}}).ports == Ports(events=7000)


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"kvEventsConfig": {"zmqEndpoint": "tcp://*:5557"}}, "zmqEndpoint"),
        ({"kvEventsConfig": {"discoverPods": False}}, "discoverPods"),
        ({"kvEventsConfig": {"engineType": "other"}}, "engineType"),
        ({"kvEventsConfig": {"podDiscovery": {"socketPort": 0}}}, "socketPort"),
        ({"kvEventsConfig": {"podDiscovery": {}, "podDiscoveryConfig": {}}}, "podDiscovery"),
        ({"kvEventsConfig": {"podDiscovry": {}}}, "kvEventsConfig"),
        ({"speculativeTTL": "2"}, "speculativeTTL"),
        ({"speculativeTTL": "0s"}, "speculativeTTL"),
        ({"speculativeTTL": "-2s"}, "speculativeTTL"),
    ],
)
def test_what_is_refused(parameters, path):
    with pytest.raises(ConfigError) as caught:
        make(**parameters)
    assert path in str(caught.value)


@pytest.mark.parametrize(("text", "living", "gone"), [("500ms", 0.2, 0.6), ("1m0.5s", 25.0, 61.0)])
def test_speculation_lasts_as_long_as_it_says(text, living, gone):
    speculative = make(speculativeTTL=text).build()._speculative
    speculative.record({4: [7]}, 0, 100.0)
    speculative.tick(100.0 + living)
    assert speculative.entries == 1
    speculative.tick(100.0 + gone)
    assert speculative.entries == 0


def test_without_speculation():
    assert make(speculativeIndexing=False).build()._speculative is None
