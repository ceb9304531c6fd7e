"""What a configuration holds that works but is likely not meant. `epp config check` shows it, `epp serve` logs it at start."""

from collections.abc import Iterator, Mapping

from epp.config.document import EndpointPickerConfig, FlowControl
from epp.config.durations import duration_s
from epp.config.expansion import PRODUCERS
from epp.config.objectives import ModelRewrite
from epp.scheduling.api import Detector, Filter, Picker, Plugin, Producer, Scorer
from epp.scheduling.detectors.utilization import UtilizationDetector
from epp.scheduling.producers.prefix_chain import PrefixChainProducer
from epp.scheduling.settings import TokenProducer


def find_doubts(config: EndpointPickerConfig, plugins: Mapping[str, Plugin]) -> Iterator[str]:
    """Yield one sentence for each, with the path.

    Args:
        config: expanded.
        plugins: what it comes to, by name.
    """
    flow = config.flow_control
    if flow is not None and (flow.saturation_detector is None or flow != FlowControl(saturation_detector=flow.saturation_detector)):
        yield "flowControl: has no effect while the feature gate is shut, but for saturationDetector"
    yield from _profiles(config, plugins)
    yield from _unused(config, plugins)
    yield from _detectors(config, plugins)
    yield from _rewrites(config.model_rewrites)
    accurate = [plugin.label for plugin in config.plugins if plugin.type == PRODUCERS["accurate"]]
    if accurate and not any(isinstance(plugin, TokenProducer) and plugin.tokenizer for plugin in plugins.values()):
        yield f"{accurate[0]}: there is no tokenizer, so it answers only for requests that carry token ids"


def _profiles(config: EndpointPickerConfig, plugins: Mapping[str, Plugin]) -> Iterator[str]:
    for index, profile in enumerate(config.scheduling_profiles):
        path = f"schedulingProfiles[{index}]"
        weights = []
        for place, member in enumerate(profile.plugins):
            if isinstance(plugins[member.plugin_ref], Scorer):
                weights.append(1.0 if member.weight is None else member.weight)
            elif member.weight is not None:
                yield f"{path}.plugins[{place}].weight: has no effect, {member.plugin_ref!r} is not a scorer"
        if weights and not any(weights):
            yield f"{path}: all weights are 0, so that every endpoint is as good as any other"


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
