"""Configuration files, whatever is in them: a configuration or `ConfigError`; and what is written reads the same."""

import json
from contextlib import suppress

from hypothesis import example, given, settings
from hypothesis import strategies as st

from epp.config import config_hash, dump, expand, load
from epp.errors import ConfigError
from epp.scheduling.build import build
from epp.scheduling.registry import Registry

REGISTRY = Registry()
NAMES = st.sampled_from(["a", "b", "queue-scorer", "approx-prefix-cache-producer"])
TYPES = st.sampled_from(sorted({*REGISTRY.types, "latency-scorer", "nothing"}))
VALUES = st.none() | st.booleans() | st.integers(-5, 10**6) | st.floats(allow_nan=False, allow_infinity=False) | NAMES
PARAMETERS = st.dictionaries(
    st.sampled_from(["maxNumOfEndpoints", "decode", "chain", "path", "x"]), VALUES | st.lists(NAMES), max_size=2
)
REF = st.fixed_dictionaries({"pluginRef": NAMES | TYPES})
PLUGINS = st.lists(st.fixed_dictionaries({"type": TYPES}, optional={"name": NAMES, "parameters": PARAMETERS}), max_size=5)
MEMBERS = st.lists(st.fixed_dictionaries({"pluginRef": NAMES | TYPES}, optional={"weight": st.floats(0, 9)}), max_size=4)
PROFILES = st.lists(st.fixed_dictionaries({"name": NAMES}, optional={"plugins": MEMBERS}), max_size=2)
CHAIN = st.lists(st.sampled_from(["accurate", "approximate", "consistent-hash"]), max_size=3)
STRATEGY = st.fixed_dictionaries({}, optional={"chain": CHAIN, "load": st.sampled_from(["marginal-cost", "llm-d", "none"])})
FILES = st.fixed_dictionaries(
    {},
    optional={
        "plugins": PLUGINS,
        "schedulingProfiles": PROFILES,
        "strategy": STRATEGY,
        "dataLayer": st.fixed_dictionaries({}, optional={"discovery": REF}),
        "saturationDetector": st.just({}) | REF,
        "requestHandler": st.fixed_dictionaries({"parsers": st.lists(REF, max_size=2)}),
        "limits": st.dictionaries(st.sampled_from(["bodyBytesMax", "requestsMax"]), st.integers(-1, 5000)),
    },
)


@given(text=st.text(max_size=60) | st.text("[]{}:,-*&!?|>#\n 'a1", max_size=60))
def test_arbitrary_text(text):
    with suppress(ConfigError):
        assert load(text) == load(dump(load(text)))


@settings(max_examples=300)
@given(tree=FILES)
@example(tree={"strategy": {"load": "llm-d"}, "plugins": [{"type": "anthropic-parser", "name": "queue-scorer"}]})
def test_a_file_is_a_plan_or_an_error(tree):
    try:
        config = load(json.dumps(tree))
        plan = build(config, REGISTRY)
    except ConfigError:
        return
    assert len(plan.profiles) == 1
    assert build(plan.config, REGISTRY) == plan
    assert load(dump(plan.config)) == plan.config
    assert expand(expand(config)) == expand(config)
    assert config_hash(expand(config)) == config_hash(config)
