"""What a configuration holds that works but is likely not meant. `epp config check` shows it, `epp serve` logs it."""

from collections.abc import Iterator, Mapping

from epp.config.document import EndpointPickerConfig, FlowControl
from epp.config.durations import duration_s
from epp.config.expansion import PRODUCERS
from epp.config.objectives import ModelRewrite
from epp.scheduling.api import Detector, Filter, Picker, Plugin, Producer, Scorer
from epp.scheduling.detectors.utilization import UtilizationDetector
from epp.scheduling.filters.decode import DecodeFilter
from epp.scheduling.filters.prefill import PrefillFilter
from epp.scheduling.pickers.random import RandomPicker
from epp.scheduling.producers.consistent_hash import ConsistentHashProducer
from epp.scheduling.producers.prefix_chain import PrefixChainProducer
from epp.scheduling.settings import TokenProducer


def find_doubts(config: EndpointPickerConfig, plugins: Mapping[str, Plugin], paths: Mapping[str, str]) -> Iterator[str]:
    """Yield one sentence for each, with the path.

    Args:
        config: expanded.
        plugins: what it comes to, by name.
        paths: where their parameters stand, by name.
    """
    flow = config.flow_control
    if flow is not None and (flow.saturation_detector is None or flow != FlowControl(saturation_detector=flow.saturation_detector)):
        yield "flowControl: has no effect while the feature gate is shut, but for saturationDetector"
    for index, gate in enumerate(config.feature_gates):
        if gate == "haPopulateNonLeaderDatastore=false":
            yield f"featureGates[{index}]: has no effect, a picker that does not lead follows the pool all the same"
    yield from _profiles(config, plugins)
    yield from _unused(config, plugins)
    yield from _detectors(config, plugins)
    yield from _rewrites(config.model_rewrites)
    yield from _never_asked(plugins, paths)
    accurate = [plugin.label for plugin in config.plugins if plugin.type == PRODUCERS["accurate"]]
    if accurate and not any(isinstance(plugin, TokenProducer) and plugin.tokenizer for plugin in plugins.values()):
        yield f"{accurate[0]}: there is no tokenizer, so it answers only for requests that carry token ids"
    for name, plugin in plugins.items():
        if isinstance(plugin, TokenProducer) and plugin.tokenizer and not accurate:
            yield f"{paths[name]}: no strategy asks for token ids, so the tokenizer has no effect"


def _profiles(config: EndpointPickerConfig, plugins: Mapping[str, Plugin]) -> Iterator[str]:
    for index, profile in enumerate(config.scheduling_profiles):
        path = f"schedulingProfiles[{index}]"
        weights = []
        seen: list[Plugin] = []
        for place, member in enumerate(profile.plugins):
            plugin = plugins[member.plugin_ref]
            if isinstance(plugin, Scorer):
                weights.append(1.0 if member.weight is None else member.weight)
            elif member.weight is not None:
                yield f"{path}.plugins[{place}].weight: has no effect, {member.plugin_ref!r} is not a scorer"
            if plugin in seen and isinstance(plugin, (Filter, Scorer)):
                effect = "has no effect the second time" if isinstance(plugin, Filter) else "counts twice"
                yield f"{path}.plugins[{place}]: {member.plugin_ref!r} {effect}"
            seen.append(plugin)
        yield from _weights(path, weights, drawn=any(isinstance(plugin, RandomPicker) for plugin in seen))
        kinds = {type(plugin) for plugin in seen}
        if {DecodeFilter, PrefillFilter} <= kinds:
            yield f"{path}: keeps only endpoints that both decode and prefill"


def _weights(path: str, weights: list[float], *, drawn: bool) -> Iterator[str]:
    """Find scores that make no difference; `drawn`: the picker does not look at them."""
    if drawn:
        if any(weights):
            yield f"{path}: random-picker does not look at scores, so the scorers have no effect"
    elif not any(weights):
        missing = "all weights are 0" if weights else "there is no scorer"
        yield f"{path}: {missing}, so that every endpoint is as good as any other"
    elif not all(weights):
        yield f"{path}: a weight is 0, so that scorer has no effect"


def _never_asked(plugins: Mapping[str, Plugin], paths: Mapping[str, str]) -> Iterator[str]:
    """Find strategies of a chain that stand behind one that always knows an answer."""
    for name, plugin in plugins.items():
        if not isinstance(plugin, PrefixChainProducer):
            continue
        sure = next((member for member in plugin.chain if isinstance(plugins.get(member), ConsistentHashProducer)), "")
        if sure and sure != plugin.chain[-1]:
            place = plugin.chain.index(sure) + 1
            yield f"{paths[name]}.chain[{place}]: is never asked, since {sure!r} before it always knows an answer"


def _unused(config: EndpointPickerConfig, plugins: Mapping[str, Plugin]) -> Iterator[str]:
    used = {member.plugin_ref for profile in config.scheduling_profiles for member in profile.plugins}
    asked = {name for plugin in plugins.values() if (name := getattr(plugin, "prefix_match_info_producer_name", ""))}
    producers = [name for name, plugin in plugins.items() if isinstance(plugin, Producer)]
    for plugin in plugins.values():
        if isinstance(plugin, PrefixChainProducer):
            asked.update(plugin.chain)
    default = next(
        (name for name in producers if isinstance(plugins[name], PrefixChainProducer)), producers[0] if producers else ""
    )
    for index, spec in enumerate(config.plugins):
        plugin = plugins[spec.label]
        if isinstance(plugin, (Filter, Scorer, Picker)) and spec.label not in used:
            yield f"plugins[{index}]: {spec.label!r} is in no profile, so it has no effect"
        elif isinstance(plugin, Producer) and spec.label not in asked and spec.label != default:
            yield f"plugins[{index}]: nobody asks {spec.label!r}; it learns, and has no effect"


def _detectors(config: EndpointPickerConfig, plugins: Mapping[str, Plugin]) -> Iterator[str]:
    flow = config.flow_control
    used = (flow.saturation_detector if flow is not None else None) or config.saturation_detector
    for index, spec in enumerate(config.plugins):
        plugin, path = plugins[spec.label], f"plugins[{index}]"
        if isinstance(plugin, Detector) and used is not None and used.plugin_ref != spec.label:
            yield f"{path}: {spec.label!r} is not the saturation detector, so it has no effect"
        elif isinstance(plugin, UtilizationDetector):
            idle_s = config.scrape.idle_interval_ms / 1000
            if duration_s(plugin.metrics_staleness_threshold) <= idle_s:
                path = f"{path}.parameters.metricsStalenessThreshold"
                yield f"{path}: an idle endpoint is read every {idle_s:g} s, and would be taken to be full in between"


def _rewrites(rewrites: tuple[ModelRewrite, ...]) -> Iterator[str]:
    """Find rules that none of their models gets to, in the order in which rules are asked (`epp.objectives.rewrites`)."""
    claimed: set[str | None] = set()
    for index, rewrite in sorted(enumerate(rewrites), key=lambda one: one[1].name):
        for place, rule in enumerate(rewrite.rules):
            models: set[str | None] = {match.model.value for match in rule.matches} or {None}
            if models <= claimed:
                yield f"modelRewrites[{index}].rules[{place}]: another rule has all that it matches, so it has no effect"
            claimed |= models
