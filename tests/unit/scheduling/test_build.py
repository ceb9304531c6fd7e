"""From a configuration to what runs."""

from pathlib import Path
from random import Random

import pytest

from epp.config import dump, expand, load
from epp.errors import ConfigError
from epp.parsers.select import PARSERS
from epp.scheduling.build import build
from epp.scheduling.detectors.concurrency import ConcurrencyDetector
from epp.scheduling.detectors.utilization import UtilizationDetector
from epp.scheduling.pickers.max_score import MaxScorePicker
from epp.scheduling.pickers.weighted_random import WeightedRandomPicker
from epp.scheduling.profiles.single import SingleProfileHandler
from epp.scheduling.registry import Registry
from epp.scheduling.scorers.marginal_cost import MarginalCostScorer
from epp.scheduling.settings import CoreMetricsExtractor, FileDiscovery, MetricsDataSource
from epp.testing.builders import build_match, build_request, build_snapshot, build_view

STRATEGIES = Path(__file__).parents[3] / "manifests" / "strategies"

REFERENCE = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
  - type: endpoint-notification-source
  - type: metrics-data-source
    parameters: {scheme: https, path: /m, caCertPath: /ca.pem, interval: 1s, families: [vllm:num_requests_waiting]}
  - type: core-metrics-extractor
    parameters:
      defaultEngine: mine
      engineConfigs: [{name: mine, queuedRequestsSpec: "q{state=waiting}", runningRequestsSpec: r, kvUsageSpec: kv}]
  - type: approx-prefix-cache-producer
    parameters: {blockSizeTokens: 64, maxPrefixTokensToMatch: 0, maxPrefixBlocksToMatch: 256, lruCapacityPerServer: 31250}
  - type: inflight-load-producer
  - type: token-producer
    parameters: {estimate: {image: {mode: dynamic}}}
  - type: single-profile-handler
  - type: decode-filter
  - type: prefix-cache-scorer
    parameters: {prefixMatchInfoProducerName: approx-prefix-cache-producer, matchLengthWeight: 0.5}
  - type: kv-cache-utilization-scorer
  - {type: queue-scorer, name: queue}
  - type: max-score-picker
    parameters: {maxNumOfEndpoints: 2}
  - type: openai-parser
dataLayer:
  sources:
    - {pluginRef: metrics-data-source, extractors: [{pluginRef: core-metrics-extractor}]}
    - {pluginRef: endpoint-notification-source, extractors: [{pluginRef: approx-prefix-cache-producer}]}
requestHandler: {parsers: [{pluginRef: openai-parser}]}
schedulingProfiles:
  - name: default
    plugins:
      - {pluginRef: decode-filter}
      - {pluginRef: prefix-cache-scorer, weight: 2.0}
      - {pluginRef: kv-cache-utilization-scorer, weight: 1.0}
      - {pluginRef: queue}
      - {pluginRef: max-score-picker}
"""


def plan_of(text, **options):
    return build(load(text), Registry(**options))


def test_a_file_of_the_reference():
    plan = plan_of(REFERENCE)
    profile = plan.profiles["default"]
    assert [name for name, _ in profile.filters] == ["decode-filter"]
    assert [(name, weight) for name, weight, _ in profile.scorers] == [
        ("prefix-cache-scorer", 2.0),
        ("kv-cache-utilization-scorer", 1.0),
        ("queue", 1.0),
    ]
    assert profile.picker == MaxScorePicker(max_num_of_endpoints=2)
    assert plan.handler == SingleProfileHandler()
    assert list(plan.producers) == ["approx-prefix-cache-producer"]
    assert plan.default_producer == "approx-prefix-cache-producer"
    assert plan.parsers == ("openai-parser",)
    assert plan.discovery is None
    assert plan.metrics_source.path == "/m"
    assert plan.metrics_extractor.default_engine == "mine"
    assert plan.tokenizer is None
    assert plan.warnings == ()


def test_the_default():
    plan = plan_of("")
    assert [name for name, _, _ in plan.profiles["default"].scorers] == ["marginal-cost-scorer"]
    assert list(plan.producers) == ["approx-prefix-cache-producer", "consistent-hash-producer", "prefix-chain-producer"]
    assert plan.default_producer == "prefix-chain-producer"
    assert plan.parsers == tuple(PARSERS)
    assert plan.metrics_source == MetricsDataSource()
    assert plan.metrics_extractor == CoreMetricsExtractor()
    assert plan.warnings == ()


def test_building_what_is_expanded_already_is_the_same():
    config = load("strategy: {chain: [approximate], load: llm-d}")
    plan = build(config, Registry())
    assert plan == build(expand(config), Registry())
    assert plan == build(plan.config, Registry())
    assert plan == build(load(dump(plan.config)), Registry())


def test_the_plans_configuration_shows_every_parameter():
    plan = plan_of("strategy: {chain: [approximate], approximate: {blockSizeTokens: 32}}")
    producer = plan.config.plugins[0].parameters
    assert producer["blockSizeTokens"] == 32
    assert producer["autoTune"] is True
    assert producer["capacityTokens"] is None


@pytest.mark.parametrize("form", ["{pluginRef: files}", "{endpoints: {pluginRef: files}}"])
def test_file_discovery(form):
    plugins = "[{type: file-discovery, name: files, parameters: {path: /e.yaml, watchFile: true}}]"
    plan = plan_of(f"plugins: {plugins}\ndataLayer: {{discovery: {form}}}")
    assert plan.discovery == FileDiscovery(path="/e.yaml", watch_file=True)


def test_a_tokenizer():
    plan = plan_of("strategy: {chain: [approximate], tokenizer: {tokenizer: /t.json, timeoutMs: 50}}")
    assert (plan.tokenizer.tokenizer, plan.tokenizer.timeout_ms) == ("/t.json", 50)


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("plugins: [{type: queue-scorer, parameters: {depthMax: 1}}]", "plugins[0].parameters.depthMax", "unknown field"),
        ("plugins: [{type: latency-scorer}]", "plugins[0].type", "known to the reference but not available here (yet)"),
        (
            "plugins: [{type: random-picker}]\nsaturationDetector: {pluginRef: random-picker}",
            "saturationDetector.pluginRef",
            "'random-picker' does not detect saturation",
        ),
        (
            "plugins: [{type: utilization-detector}, {type: concurrency-detector}]",
            "plugins[1]",
            "more than one detector (utilization-detector, concurrency-detector)",
        ),
        (
            "plugins: [{type: concurrency-detector}]\nsaturationDetector: &d {pluginRef: concurrency-detector}\n"
            "flowControl: {saturationDetector: *d}",
            "saturationDetector",
            "not both",
        ),
        (
            "plugins: [{type: utilization-detector, parameters: {metricsStalenessThreshold: soon}}]",
            "plugins[0].parameters.metricsStalenessThreshold",
            "a duration above 0",
        ),
        ("featureGates: [flowControl]", "featureGates[0]", "'flowControl' is known to the reference but not available here (yet)"),
        ("featureGates: [a]", "featureGates[0]", "unknown feature gate 'a'"),
        ("featureGates: [flowControl=no]", "featureGates[0]", "a gate is open"),
        ("dataLayer: {crossReplicaSyncInterval: 1s}", "dataLayer.crossReplicaSyncInterval", "not available here (yet)"),
        (
            "plugins: [{type: file-discovery, parameters: {path: x}}]\ndataLayer: {peerDiscovery: {pluginRef: file-discovery}}",
            "dataLayer.peerDiscovery",
            "not available here (yet)",
        ),
        ("strategy: {approximate: {blocks: 1}}", "strategy.approximate.blocks", "unknown field"),
        ("strategy: {consistentHash: {loadFactor: 0}}", "strategy.consistentHash.loadFactor", "Expected `float` >= 1"),
        ("strategy: {tokenizer: {vllm: {url: x}}}", "strategy.tokenizer.vllm", "no render server is asked"),
        (
            "plugins: [{type: token-producer, parameters: {backend: vllm, modelName: m}}]",
            "plugins[0].parameters.backend",
            "no render server is asked",
        ),
        (
            "plugins: [{type: core-metrics-extractor, parameters: {engineConfigs: [{name: a, customMetrics: [{}]}]}}]",
            "plugins[0].parameters.engineConfigs[0].customMetrics",
            "not supported",
        ),
        (
            "plugins: [{type: metrics-data-source, parameters: {clientCertPath: x}}]",
            "plugins[0].parameters.clientCertPath",
            "together",
        ),
        (
            "plugins: [{type: prefix-cache-scorer, parameters: {prefixMatchInfoProducerName: x}}]",
            "plugins[0].parameters.prefixMatchInfoProducerName",
            "no prefix producer is named 'x'",
        ),
        (
            "plugins: [{type: prefix-chain-producer, parameters: {chain: [x]}}, {type: prefix-cache-scorer}]",
            "plugins[0].parameters.chain[0]",
            "no prefix producer is named 'x'",
        ),
        (
            "plugins: [{type: max-score-picker}]\nschedulingProfiles: [{name: a}, {name: b}]",
            "schedulingProfiles",
            "single-profile-handler takes one profile, there are 2",
        ),
        (
            "plugins: [{type: max-score-picker}, {type: random-picker}]\n"
            "schedulingProfiles: [{name: a, plugins: [{pluginRef: max-score-picker}, {pluginRef: random-picker}]}]",
            "schedulingProfiles[0].plugins",
            "a profile has one picker, this one has 2",
        ),
        (
            "plugins: [{type: openai-parser}]\nschedulingProfiles: [{name: a, plugins: [{pluginRef: openai-parser}]}]",
            "schedulingProfiles[0].plugins[0].pluginRef",
            "neither a filter, nor a scorer, nor a picker",
        ),
        (
            "plugins: [{type: queue-scorer}]\nrequestHandler: {parsers: [{pluginRef: queue-scorer}]}",
            "requestHandler.parsers[0].pluginRef",
            "not a parser",
        ),
        (
            "plugins: [{type: queue-scorer}]\ndataLayer: {discovery: {pluginRef: queue-scorer}}",
            "dataLayer.discovery.pluginRef",
            "does not discover endpoints",
        ),
        ("dataLayer: {discovery: {}}", "dataLayer.discovery", "names no plugin"),
        (
            "plugins: [{type: single-profile-handler}, {type: single-profile-handler, name: b}]",
            "plugins",
            "there is one profile handler, not 2",
        ),
        ("plugins: [{type: metrics-data-source}, {type: metrics-data-source, name: b}]", "plugins[1]", "one of this type"),
        *(
            (
                f"plugins: [{{type: label-selector-filter, parameters: {{{first}}}}}, "
                f"{{type: label-selector-filter, name: second, parameters: {{{second}}}}}]",
                "schedulingProfiles[0].plugins[1].pluginRef",
                "they contradict each other about the label 'a'",
            )
            for first, second in (
                ("matchLabels: {a: b}", "matchLabels: {a: c}"),
                ("matchLabels: {a: b}", "matchExpressions: [{key: a, operator: In, values: [c, d]}]"),
                ("matchLabels: {a: b}", "matchExpressions: [{key: a, operator: NotIn, values: [b]}]"),
                ("matchLabels: {a: b}", "matchExpressions: [{key: a, operator: DoesNotExist}]"),
                (
                    "matchExpressions: [{key: a, operator: Exists}]",
                    "matchLabels: {x: y}, matchExpressions: [{key: a, operator: DoesNotExist}]",
                ),
            )
        ),
    ],
)
def test_what_cannot_work_is_refused_with_its_place(text, path, message):
    with pytest.raises(ConfigError) as caught:
        plan_of(text)
    assert caught.value.path == path
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("matchLabels: {a: b}", "matchLabels: {c: d}"),
        ("matchLabels: {a: b}", "matchExpressions: [{key: a, operator: In, values: [b, c]}]"),
        ("matchLabels: {a: b}", "matchExpressions: [{key: a, operator: NotIn, values: [c]}]"),
        (
            "matchExpressions: [{key: a, operator: NotIn, values: [b]}]",
            "matchExpressions: [{key: a, operator: DoesNotExist}]",
        ),
        ("matchExpressions: [{key: a, operator: NotIn, values: [b]}]", "matchExpressions: [{key: a, operator: Exists}]"),
    ],
)
def test_selectors_that_somebody_can_pass(first, second):
    filters = (
        f"{{type: label-selector-filter, name: {name}, parameters: {{{given}}}}}" for name, given in (("x", first), ("y", second))
    )
    assert len(plan_of(f"plugins: [{', '.join(filters)}]").profiles["default"].filters) == 2


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (
            "plugins: [{type: decode-filter}, {type: random-picker}]\n"
            "schedulingProfiles: [{name: a, plugins: [{pluginRef: decode-filter, weight: 2}, {pluginRef: random-picker}]}]",
            "schedulingProfiles[0].plugins[0].weight: has no effect, 'decode-filter' is not a scorer",
        ),
        (
            "plugins: [{type: queue-scorer}]\nschedulingProfiles: [{name: a, plugins: [{pluginRef: queue-scorer, weight: 0}]}]",
            "schedulingProfiles[0]: all weights are 0, so that every endpoint is as good as any other",
        ),
        (
            "plugins: [{type: queue-scorer}, {type: random-picker}]\n"
            "schedulingProfiles: [{name: a, plugins: [{pluginRef: random-picker}]}]",
            "plugins[0]: 'queue-scorer' is in no profile, so it has no effect",
        ),
        (
            "plugins: [{type: queue-scorer}, {type: random-picker}]",
            "schedulingProfiles[0]: random-picker does not look at scores, so the scorers have no effect",
        ),
        (
            "plugins: [{type: decode-filter}]",
            "schedulingProfiles[0]: there is no scorer, so that every endpoint is as good as any other",
        ),
        (
            "plugins: [{type: queue-scorer}, {type: running-requests-size-scorer}]\n"
            "schedulingProfiles: [{name: a, plugins: [{pluginRef: queue-scorer, weight: 0}, "
            "{pluginRef: running-requests-size-scorer}]}]",
            "schedulingProfiles[0]: a weight is 0, so that scorer has no effect",
        ),
        (
            "plugins: [{type: decode-filter}, {type: decode-filter, name: again}, {type: queue-scorer}]",
            "schedulingProfiles[0].plugins[1]: 'again' has no effect the second time",
        ),
        (
            "plugins: [{type: queue-scorer}, {type: queue-scorer, name: again}]",
            "schedulingProfiles[0].plugins[1]: 'again' counts twice",
        ),
        (
            "plugins: [{type: decode-filter}, {type: prefill-filter}, {type: queue-scorer}]",
            "schedulingProfiles[0]: keeps only endpoints that both decode and prefill",
        ),
        (
            "strategy: {chain: [consistent-hash, approximate]}",
            "strategy.chain[1]: is never asked, since 'consistent-hash-producer' before it always knows an answer",
        ),
        (
            "plugins: [{type: consistent-hash-producer, name: h}, {type: approx-prefix-cache-producer, name: a},"
            " {type: prefix-chain-producer, parameters: {chain: [h, a]}}, {type: prefix-cache-scorer}]",
            "plugins[2].parameters.chain[1]: is never asked, since 'h' before it always knows an answer",
        ),
        (
            "strategy: {chain: [approximate], tokenizer: {tokenizer: /t.json}}",
            "strategy.tokenizer: no strategy asks for token ids, so the tokenizer has no effect",
        ),
        (
            "plugins: [{type: approx-prefix-cache-producer}, {type: consistent-hash-producer}, {type: prefix-cache-scorer}]",
            "plugins[1]: nobody asks 'consistent-hash-producer'; it learns, and has no effect",
        ),
        (
            "plugins: [{type: utilization-detector}, {type: concurrency-detector}]\n"
            "flowControl: {saturationDetector: {pluginRef: concurrency-detector}}",
            "plugins[0]: 'utilization-detector' is not the saturation detector, so it has no effect",
        ),
        (
            "plugins: [{type: utilization-detector, parameters: {metricsStalenessThreshold: 200ms}}]",
            "plugins[0].parameters.metricsStalenessThreshold: an idle endpoint is read every 1 s, and would be taken to be full in "
            "between",
        ),
        (
            "modelRewrites: [{name: b, rules: [{matches: [{model: {value: m}}], targets: [{modelRewrite: x}]}]},"
            " {name: a, rules: [{matches: [{model: {value: m}}], targets: [{modelRewrite: y}]}]}]",
            "modelRewrites[0].rules[0]: another rule has all that it matches, so it has no effect",
        ),
        (
            "featureGates: [haPopulateNonLeaderDatastore=false]",
            "featureGates[0]: has no effect, a picker that does not lead follows the pool all the same",
        ),
        ("flowControl: {}", "flowControl: has no effect while the feature gate is shut, but for saturationDetector"),
        (
            "strategy: {chain: [accurate]}",
            "precise-prefix-cache-producer: there is no tokenizer, so it answers only for requests that carry token ids",
        ),
    ],
)
def test_what_is_likely_not_meant_is_a_warning(text, warning):
    assert plan_of(text).warnings == (warning,)


@pytest.mark.parametrize(
    "text",
    [
        "plugins: [{type: concurrency-detector, name: d, parameters: {maxConcurrency: 7}}]",
        "plugins: [{type: concurrency-detector, name: d, parameters: {maxConcurrency: 7}}, {type: utilization-detector}]\n"
        "saturationDetector: {pluginRef: d}",
        "plugins: [{type: utilization-detector}, {type: concurrency-detector, name: d, parameters: {maxConcurrency: 7}}]\n"
        "flowControl: {saturationDetector: {pluginRef: d}}",
    ],
)
def test_the_saturation_detector(text):
    assert plan_of(text).detector == ConcurrencyDetector(max_concurrency=7)
    assert plan_of("").detector == UtilizationDetector()


@pytest.mark.parametrize("path", sorted(STRATEGIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_ready_made_strategies(path):
    text = path.read_text()
    plan = plan_of(text)
    assert text.startswith(f"# {path.stem}: ")
    assert all("tokenizer" in warning for warning in plan.warnings)
    assert len(plan.profiles) == 1


@pytest.mark.parametrize("path", sorted(STRATEGIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_all_of_them_send_a_prompt_to_who_holds_it_while_nobody_is_busy(path):
    assert pick(plan_of(path.read_text()), build_snapshot(3)) == 1


@pytest.mark.parametrize("name", ["accurate", "approximate", "dynamo", "llm-d", "sglang"])
def test_those_that_weigh_load_leave_a_holder_that_is_too_busy(name):
    million = [0, 1_000_000, 0]
    busy = build_snapshot(3, requests=[0, 100, 0], tokens=million, backlog=million, backlog_count=[0, 100, 0], waiting=[0, 90, 0])
    assert pick(plan_of((STRATEGIES / f"{name}.yaml").read_text()), busy) != 1


def pick(plan, snapshot):
    """Return the slot that a plan's profile picks when slot 1 holds the whole prompt."""
    view = build_view(snapshot, build_match([0, 1000, 0], 1000))
    picked, _ = plan.profiles["default"].run(build_request(1000), view, Random(1))
    return picked[0]


def test_there_are_six_ready_made_strategies():
    names = {"accurate", "approximate", "consistent-hash", "dynamo", "llm-d", "sglang"}
    assert {path.stem for path in STRATEGIES.glob("*.yaml")} == names


def test_dynamo_draws():
    plan = plan_of((STRATEGIES / "dynamo.yaml").read_text())
    assert plan.profiles["default"].picker == WeightedRandomPicker()
    assert plan.default_producer == "prefix-chain-producer"


def test_the_ready_made_approximate_is_what_runs_without_a_configuration():
    plan = plan_of((STRATEGIES / "approximate.yaml").read_text())
    assert plan == plan_of("")
    assert plan.profiles["default"].scorers[0][2] == MarginalCostScorer()
