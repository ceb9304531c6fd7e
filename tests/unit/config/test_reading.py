"""From text to structs, and every way in which it can fail."""

import pytest

from epp.config import EndpointPickerConfig, load
from epp.config.reading import DEPTH_MAX, FILE_BYTES_MAX
from epp.errors import ConfigError


def test_nothing_is_the_default_configuration():
    assert load("") == load("# only a comment\n") == load("{}") == EndpointPickerConfig()


@pytest.mark.parametrize("version", ["llm-d.ai/v1alpha1", "llm-d.ai/v1", "inference.networking.x-k8s.io/v1alpha1"])
def test_published_versions(version):
    assert load(f"apiVersion: {version}\nkind: EndpointPickerConfig\n").api_version == version


def test_a_whole_file():
    config = load(
        """
        apiVersion: llm-d.ai/v1alpha1
        kind: EndpointPickerConfig
        featureGates: [flowControl=false]
        plugins:
          - {type: queue-scorer}
          - {type: queue-scorer, name: second, parameters: {staleS: 1}}
          - {type: file-discovery, parameters: {path: /e.yaml}}
          - {type: metrics-data-source}
          - {type: core-metrics-extractor}
          - {type: openai-parser}
        schedulingProfiles:
          - name: default
            plugins: [{pluginRef: queue-scorer, weight: 2}, {pluginRef: second}]
        dataLayer:
          injectDefaults: false
          sources: [{pluginRef: metrics-data-source, extractors: [{pluginRef: core-metrics-extractor}]}]
          discovery: {pluginRef: file-discovery}
        requestHandler: {parsers: [{pluginRef: openai-parser}]}
        flowControl: {maxBytes: 1Gi, defaultRequestTTL: 60s, priorityBands: [{priority: -1, maxRequests: 5}]}
        limits: {bodyBytesMax: 2048, endpointsMax: 8, requestsMax: 16, decisionsKept: 0}
        scrape: {busyIntervalMs: 50, idleIntervalMs: 2000, timeoutMs: 100, pageBytesMax: 4096, concurrencyMax: 2}
        server: {echoHeaders: true, emitEndpointScores: true, bodyModeForced: buffered}
        """
    )
    assert [plugin.label for plugin in config.plugins][:2] == ["queue-scorer", "second"]
    assert config.scheduling_profiles[0].plugins[0].weight == 2.0
    assert config.data_layer.discovery.plugin_ref == "file-discovery"
    assert config.flow_control.default_request_ttl == "60s"
    assert config.limits.body_bytes_max == 2048
    assert config.server.body_mode_forced == "buffered"


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("strategies: 1", "strategies", "unknown field"),
        ("kind: Pod", "kind", "Invalid enum value 'Pod'"),
        ("apiVersion: llm-d.ai/v2", "apiVersion", "Invalid enum value"),
        ("plugins: [{name: x}]", "plugins[0].type", "missing"),
        ("plugins: [{type: x}, {type: y, nam: z}]", "plugins[1].nam", "unknown field"),
        ("plugins: {}", "plugins", "Expected `array`"),
        ("plugins: [{type: x, parameters: [1]}]", "plugins[0].parameters", "Expected `object | null`"),
        ("plugins: [{type: x, parameters: {1: 2}}]", "plugins[0].parameters", "Expected `str`"),
        (
            "schedulingProfiles: [{name: p, plugins: [{pluginRef: x, weight: .inf}]}]",
            "schedulingProfiles[0].plugins[0].weight",
            "Expected `float` <= 1000000000",
        ),
        (
            "schedulingProfiles: [{name: p, plugins: [{pluginRef: x, weight: -1}]}]",
            "schedulingProfiles[0].plugins[0].weight",
            ">= 0",
        ),
        ("schedulingProfiles: [{plugins: []}]", "schedulingProfiles[0].name", "missing"),
        ("dataLayer: {sources: [{pluginRef: 3}]}", "dataLayer.sources[0].pluginRef", "Expected `str`, got `int`"),
        ("limits: {bodyBytesMax: 1}", "limits.bodyBytesMax", "Expected `int` >= 1024"),
        ("limits: {bodyBytesMax: 10Mi}", "limits.bodyBytesMax", "Expected `int`, got `str`"),
        ("scrape: {busyIntervalMs: 0}", "scrape.busyIntervalMs", ">= 20"),
        (
            "strategy: {chain: [exact]}",
            "strategy.chain[0]",
            "Invalid enum value 'exact'; there are 'accurate', 'approximate', 'consistent-hash'",
        ),
        ("objectives: [{priority: 1}]", "objectives[0].name", "missing"),
        ("objectives: [{name: a, priority: high}]", "objectives[0].priority", "Expected `int`"),
        ("objectives: [{name: a, priority: 2147483648}]", "objectives[0].priority", "<= 2147483647"),
        ("modelRewrites: [{name: a, rules: [{matches: []}]}]", "modelRewrites[0].rules[0].targets", "missing"),
        ("modelRewrites: [{name: a, rules: [{targets: []}]}]", "modelRewrites[0].rules[0].targets", "length >= 1"),
        (
            "modelRewrites: [{name: a, rules: [{targets: [{modelRewrite: x, weight: 0}]}]}]",
            "modelRewrites[0].rules[0].targets[0].weight",
            ">= 1",
        ),
        (
            "modelRewrites: [{name: a, rules: [{matches: [{model: {type: Regex, value: x}}], targets: [{modelRewrite: x}]}]}]",
            "modelRewrites[0].rules[0].matches[0].model.type",
            "Invalid enum value 'Regex'",
        ),
        ("strategy: {chian: [exact]}", "strategy.chian", "unknown field; did you mean 'chain'?"),
        ("schedulingProfiles: [{name: p, plugin: []}]", "schedulingProfiles[0].plugin", "did you mean 'plugins'?"),
        ("strategy: {load: random}", "strategy.load", "Invalid enum value"),
        ("- 1", "", "Expected `object`, got `array`"),
        ("a: 1\nplugins: []\na: 2", "", "the key 'a' occurs twice (line 3)"),
        ("plugins: [{type: x, type: y}]", "", "the key 'type' occurs twice"),
        ("a: [", "", "line"),
        ("a: b: c", "", "line 1"),
        ("a: *nowhere", "", "undefined alias"),
        ("a: 1\n---\nb: 2", "", "another document"),
        ("a: !!python/object/apply:os.getcwd []", "", "could not determine a constructor"),
        ("\x00", "", "not YAML"),
        ("a: 2020-99-99", "", "not YAML"),
        ("\ud800", "", "not YAML"),
        ("? [a]\n: 1", "", "unhashable key"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text, path, message):
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert caught.value.path == path
    assert message in caught.value.message


def test_bounds():
    with pytest.raises(ConfigError, match=f"longer than {FILE_BYTES_MAX} bytes"):
        load("#" * (FILE_BYTES_MAX + 1))
    for text in ("[" * 100_000, "{a: " * 100_000):
        with pytest.raises(ConfigError, match=f"nested deeper than {DEPTH_MAX}"):
            load(text)
    tens = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9))
    with pytest.raises(ConfigError, match="more than 100000 values"):
        load(f"a0: &a0 [1]\n{tens}")
    with pytest.raises(ConfigError, match="more than 100000 values"):
        load("a: &a [*a]")


def test_anchors_and_merges_work():
    config = load("plugins:\n- &one {type: x, parameters: {a: 1}}\n- {<<: *one, name: two}\n")
    assert [(plugin.label, plugin.parameters) for plugin in config.plugins] == [("x", {"a": 1}), ("two", {"a": 1})]
