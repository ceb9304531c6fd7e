"""What a file may leave out is filled in."""

import pytest

from epp.config import dump, expand, load
from epp.errors import ConfigError
from epp.parsers.select import PARSERS


def members(config, profile=0):
    return [(member.plugin_ref, member.weight) for member in config.scheduling_profiles[profile].plugins]


def types(config):
    return [plugin.type for plugin in config.plugins]


def test_nothing_is_approximate_then_hash_with_marginal_cost():
    config = expand(load(""))
    assert types(config) == [
        "approx-prefix-cache-producer",
        "consistent-hash-producer",
        "prefix-chain-producer",
        "marginal-cost-scorer",
        "max-score-picker",
        "single-profile-handler",
    ]
    assert config.plugins[2].parameters == {"chain": ["approx-prefix-cache-producer", "consistent-hash-producer"]}
    assert members(config) == [("marginal-cost-scorer", 1.0), ("max-score-picker", None)]
    assert config.strategy is None


def test_a_hash_behind_approximate_believes_little_unless_told():
    def shares(text: str):
        return [(plugin.parameters or {}).get("firstShare") for plugin in expand(load(text)).plugins if "hash" in plugin.type]

    assert shares("") == shares("strategy: {chain: [accurate, approximate, consistent-hash]}") == [0.05]
    assert shares("strategy: {consistentHash: {firstShare: 0.4}}") == [0.4]
    assert shares("strategy: {chain: [accurate, consistent-hash]}") == [None]
    assert shares("strategy: {chain: [consistent-hash, approximate]}") == [None]


def test_a_chain_of_one_needs_no_chain():
    config = expand(load("strategy: {chain: [accurate], accurate: {a: 1}, tokenizer: {tokenizer: t.json}}"))
    assert types(config)[:2] == ["precise-prefix-cache-producer", "token-producer"]
    assert [plugin.parameters for plugin in config.plugins[:2]] == [{"a": 1}, {"tokenizer": "t.json"}]


@pytest.mark.parametrize(
    ("load_rule", "scorers"),
    [
        ("marginal-cost", [("marginal-cost-scorer", 1.0)]),
        ("llm-d", [("queue-scorer", 2.0), ("kv-cache-utilization-scorer", 2.0), ("prefix-cache-scorer", 3.0)]),
        ("none", [("prefix-cache-scorer", 1.0)]),
    ],
)
def test_load_rules(load_rule, scorers):
    config = expand(load(f"strategy: {{chain: [approximate], load: {load_rule}}}"))
    assert members(config) == [*scorers, ("max-score-picker", None)]


def test_no_chain_and_no_load_is_random():
    config = expand(load("strategy: {chain: [], load: none}"))
    assert types(config) == ["max-score-picker", "single-profile-handler"]


def test_listed_filters_picker_and_wiring_join_a_strategy():
    config = expand(
        load(
            """
            strategy: {chain: [consistent-hash], consistentHash: {loadFactor: 2}}
            plugins:
              - {type: decode-filter}
              - {type: random-picker}
              - {type: file-discovery, parameters: {path: x}}
            dataLayer: {discovery: {pluginRef: file-discovery}}
            """
        )
    )
    assert members(config) == [("decode-filter", None), ("marginal-cost-scorer", 1.0), ("random-picker", None)]
    assert types(config)[:3] == ["decode-filter", "random-picker", "file-discovery"]


def test_a_list_without_a_profile_is_one_profile():
    config = expand(load("plugins: [{type: queue-scorer}, {type: decode-filter}, {type: file-discovery}]"))
    assert members(config) == [("queue-scorer", 1.0), ("decode-filter", None), ("max-score-picker", None)]


def test_only_wiring_is_the_default_strategy():
    config = expand(load("plugins: [{type: file-discovery}]"))
    assert members(config) == [("marginal-cost-scorer", 1.0), ("max-score-picker", None)]


def test_a_producer_is_added_for_who_reads_one():
    config = expand(
        load("schedulingProfiles: [{name: p, plugins: [{pluginRef: q}]}]\nplugins: [{type: prefix-cache-scorer, name: q}]")
    )
    assert "approx-prefix-cache-producer" in types(config)
    assert "approx-prefix-cache-producer" not in types(expand(load("plugins: [{type: queue-scorer}]")))
    own = expand(load("plugins: [{type: prefix-cache-scorer}, {type: consistent-hash-producer}]"))
    assert "approx-prefix-cache-producer" not in types(own)


def test_a_producer_that_is_named_and_not_listed_is_added_beside_another():
    scorers = "{type: prefix-cache-scorer, parameters: {prefixMatchInfoProducerName: %s}}, {type: precise-prefix-cache-producer}"
    named = expand(load(f"plugins: [{scorers % 'approx-prefix-cache-producer'}]"))
    assert types(named)[-1] == "approx-prefix-cache-producer"
    for other in ("precise-prefix-cache-producer", "[x]"):
        assert "approx-prefix-cache-producer" not in types(expand(load(f"plugins: [{scorers % other}]")))


def test_a_listed_picker_serves_profiles_that_name_none():
    profile = "schedulingProfiles: [{name: p, plugins: [{pluginRef: queue-scorer}]}]"
    text = "plugins: [{type: queue-scorer}, {type: random-picker, name: mine}, {type: max-score-picker}]\n"
    config = expand(load(text + profile))
    assert members(config) == [("queue-scorer", 1.0), ("mine", None)]
    assert types(config).count("max-score-picker") == 1
    assert members(expand(load(f"plugins: [{{type: queue-scorer}}]\n{profile}")))[-1] == ("max-score-picker", None)


@pytest.mark.parametrize("name", ["by-label", "by-label-selector"])
def test_filters_by_label_join_the_profile_of_all(name):
    assert members(expand(load(f"plugins: [{{type: {name}}}]"))) == [(name, None), ("max-score-picker", None)]
    assert (name, None) in members(expand(load(f"strategy: {{}}\nplugins: [{{type: {name}}}]")))


@pytest.mark.parametrize(
    ("text", "added"),
    [
        ("saturationDetector: {}", "utilization-detector"),
        ("saturationDetector: {pluginRef: utilization-detector}", "utilization-detector"),
        ("flowControl: {saturationDetector: {}}", "utilization-detector"),
        ("flowControl: {saturationDetector: {pluginRef: utilization-detector}}", "utilization-detector"),
        ("parser: {pluginRef: openai-parser}", "openai-parser"),
        *((f"requestHandler: {{parsers: [{{pluginRef: {name}}}]}}", name) for name in PARSERS),
    ],
)
def test_parsers_and_the_detector_need_not_be_listed(text, added):
    config = expand(load(f"plugins: [{{type: queue-scorer}}]\n{text}"))
    assert types(config)[:2] == ["queue-scorer", added]
    assert types(expand(load(f"plugins: [{{type: queue-scorer}}, {{type: {added}}}]\n{text}"))).count(added) == 1
    assert expand(config) == config
    assert load(dump(config)) == config


def test_the_older_parser_field_joins_the_list():
    config = expand(load("plugins: [{type: openai-parser}]\nparser: {pluginRef: openai-parser}"))
    assert [ref.plugin_ref for ref in config.request_handler.parsers] == ["openai-parser"]
    assert config.parser is None


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("plugins: [{type: a}, {type: b, name: a}]", "plugins[1].name", "already a plugin named 'a'"),
        ("schedulingProfiles: [{name: a}, {name: a}]", "schedulingProfiles[1].name", "already a profile named 'a'"),
        (
            "schedulingProfiles: [{name: a, plugins: [{pluginRef: x}]}]",
            "schedulingProfiles[0].plugins[0].pluginRef",
            "no plugin is named 'x'",
        ),
        ("dataLayer: {sources: [{pluginRef: x}]}", "dataLayer.sources[0].pluginRef", "no plugin is named 'x'"),
        (
            "plugins: [{type: s}]\ndataLayer: {sources: [{pluginRef: s, extractors: [{pluginRef: e}]}]}",
            "dataLayer.sources[0].extractors[0].pluginRef",
            "no plugin is named 'e'",
        ),
        ("dataLayer: {discovery: {pluginRef: x}}", "dataLayer.discovery.pluginRef", "no plugin is named 'x'"),
        (
            "dataLayer: {discovery: {endpoints: {pluginRef: x}}}",
            "dataLayer.discovery.endpoints.pluginRef",
            "no plugin is named 'x'",
        ),
        ("requestHandler: {parsers: [{pluginRef: x}]}", "requestHandler.parsers[0].pluginRef", "no plugin is named 'x'"),
        ("saturationDetector: {pluginRef: x}", "saturationDetector.pluginRef", "no plugin is named 'x'"),
        ("objectives: [{name: a}, {name: b}, {name: a}]", "objectives[2].name", "already one named 'a'"),
        (
            "modelRewrites: [&r {name: a, rules: []}, *r]",
            "modelRewrites[1].name",
            "already one named 'a'",
        ),
        ("strategy: {}\nschedulingProfiles: [{name: a}]", "strategy", "either a strategy or schedulingProfiles"),
        ("strategy: {}\nplugins: [{type: queue-scorer}]", "plugins[0].type", "beside a strategy"),
        ("strategy: {}\nplugins: [{type: approx-prefix-cache-producer}]", "plugins[0].type", "beside a strategy"),
        ("strategy: {chain: [accurate, accurate]}", "strategy.chain", "occurs twice"),
        ("strategy: {chain: [approximate], accurate: {}}", "strategy.accurate", "'accurate' is not in the chain"),
        ("strategy: {chain: [], consistentHash: {}}", "strategy.consistentHash", "is not in the chain"),
        ("strategy: {}\nplugins: [{type: x, name: prefix-chain-producer}]", "strategy", "is taken"),
    ],
)
def test_contradictions(text, path, message):
    with pytest.raises(ConfigError) as caught:
        expand(load(text))
    assert caught.value.path == path
    assert message in caught.value.message


class TestTrial:
    def test_of_the_strategy_is_the_files(self):
        short = expand(load("strategy: {chain: [approximate], trial: {for: 90s, revertOn: {errorRatio: 0.2}}}"))
        long = expand(load("{strategy: {chain: [approximate]}, trial: {for: 90s, revertOn: {errorRatio: 0.2}}}"))
        assert short == long
        assert short.trial.for_s == 90
        assert (short.trial.revert_on.error_ratio, short.trial.revert_on.hit_ratio_drop) == (0.2, 0.1)

    def test_stands_beside_a_list_of_plugins(self):
        assert expand(load("{trial: {}, plugins: [{type: random-picker}]}")).trial.for_s == 600

    @pytest.mark.parametrize(
        ("text", "path"),
        [
            ("{trial: {}, strategy: {trial: {}}}", "strategy.trial"),
            ("strategy: {trial: {for: 0s}}", "strategy.trial"),
            ("trial: {for: 61m}", "trial"),
            ("trial: {for: soon}", "trial"),
            ("trial: {revertOn: {errorRatio: null, hitRatioDrop: null}}", "trial.revertOn"),
            ("trial: {revertOn: {errorRatio: 2}}", "trial.revertOn.errorRatio"),
        ],
    )
    def test_what_cannot_be_tried_is_refused(self, text, path):
        with pytest.raises(ConfigError) as caught:
            expand(load(text))
        assert caught.value.path == path
