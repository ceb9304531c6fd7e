"""Fills in what a configuration file may leave out, so that the rest of the program meets one form: plugins, profiles, references.

The `strategy` block becomes plugins and a profile; a profile without a picker gets one; producers that plugins need and nobody
listed are added, as in the reference, and so are the parsers and the detector that a reference may name without their being listed.
What a plugin is follows from the end of its type's name (`-filter`, `-scorer`, `-picker`, `-handler`): all published names but the
two in `FILTERS` keep to it. A plugin of another name works too, where a profile names it.
"""

from collections.abc import Iterable

import msgspec

from epp.config.document import DetectorRef, EndpointPickerConfig, PluginRef, PluginSpec, ProfilePlugin, ProfileSpec, RequestHandler
from epp.config.objectives import check_names
from epp.config.sections import Strategy
from epp.errors import ConfigError

PRODUCERS = {
    "accurate": "precise-prefix-cache-producer",
    "approximate": "approx-prefix-cache-producer",
    "consistent-hash": "consistent-hash-producer",
}
"""Plugin type behind each name of a strategy's chain."""
CHAIN = "prefix-chain-producer"
PREFIX_PRODUCERS = frozenset([*PRODUCERS.values(), CHAIN])
PREFIX_READERS = frozenset(
    [
        "prefix-cache-scorer",
        "token-load-scorer",
        "marginal-cost-scorer",
        "dynamo-cost-scorer",
        "prefix-cache-affinity-filter",
        "cache-aware-filter",
    ]
)
"""Types that ask a prefix producer; the default one is added for them."""
READS = "prefixMatchInfoProducerName"
"""Parameter by which they say which one; the reference makes the approximate one where it is named and not listed."""
LAST_RESORT_SHARE = 0.05
"""`firstShare` of a hash that is asked about prompts which `approximate` has never sent anywhere. They are mostly new: to believe
half of each cached at home, where no server reports otherwise, would send them past idle endpoints. So little decides between
equals."""
LOADS = {
    "marginal-cost": (("marginal-cost-scorer", 1.0),),
    "llm-d": (("queue-scorer", 2.0), ("kv-cache-utilization-scorer", 2.0), ("prefix-cache-scorer", 3.0)),
    "none": (("prefix-cache-scorer", 1.0),),
}
"""Scorers and weights of each load rule."""
FILTERS = ("-filter", "by-label", "by-label-selector")
"""How the names of filters end."""
IMPLIED = frozenset(["anthropic-parser", "openai-parser", "passthrough-parser", "utilization-detector", "vllmhttp-parser"])
"""Types that need not be listed where parsers and the saturation detector are named. The reference makes these itself."""
PICKER, HANDLER, PROFILE = "max-score-picker", "single-profile-handler", "default"


def expand(config: EndpointPickerConfig) -> EndpointPickerConfig:
    """Return the configuration with everything spelled out: no `strategy`, complete profiles. Expanding twice changes nothing.

    Raises:
        ConfigError: two plugins or objectives of one name, a reference to nothing, or a `strategy` beside what contradicts it.
    """
    config = _with_implied(config)
    check_references(config)
    check_names(config.objectives, config.model_rewrites)
    if config.parser is not None:
        parsers = (*config.request_handler.parsers, config.parser)
        config = msgspec.structs.replace(config, parser=None, request_handler=RequestHandler(parsers=parsers))
    if config.strategy is None and not config.scheduling_profiles and not _typed(config, *FILTERS, "-scorer", "-picker"):
        config = msgspec.structs.replace(config, strategy=Strategy())
    if config.strategy is not None and config.strategy.trial is not None:
        config = _with_trial(config, config.strategy)
    config = _with_profile(config) if config.strategy is None else _with_strategy(config, config.strategy)
    return _with_defaults(config)


def check_references(config: EndpointPickerConfig) -> None:
    """Raise ConfigError if two plugins or profiles have one name, or a reference leads nowhere."""
    names: set[str] = set()
    for index, plugin in enumerate(config.plugins):
        if plugin.label in names:
            raise ConfigError(f"there is already a plugin named {plugin.label!r}", f"plugins[{index}].name")
        names.add(plugin.label)
    profiles: set[str] = set()
    for index, profile in enumerate(config.scheduling_profiles):
        if profile.name in profiles:
            raise ConfigError(f"there is already a profile named {profile.name!r}", f"schedulingProfiles[{index}].name")
        profiles.add(profile.name)
    for path, name in references(config):
        if name not in names:
            raise ConfigError(f"no plugin is named {name!r}", path)


def references(config: EndpointPickerConfig) -> Iterable[tuple[str, str]]:
    """Yield the path and the target of every reference to a plugin."""
    for index, profile in enumerate(config.scheduling_profiles):
        for place, plugin in enumerate(profile.plugins):
            yield f"schedulingProfiles[{index}].plugins[{place}].pluginRef", plugin.plugin_ref
    for index, source in enumerate(config.data_layer.sources):
        yield f"dataLayer.sources[{index}].pluginRef", source.plugin_ref
        for place, extractor in enumerate(source.extractors):
            yield f"dataLayer.sources[{index}].extractors[{place}].pluginRef", extractor.plugin_ref
    for index, parser in enumerate(config.request_handler.parsers):
        yield f"requestHandler.parsers[{index}].pluginRef", parser.plugin_ref
    flow, discovery = config.flow_control, config.data_layer.discovery
    if discovery is not None and discovery.plugin_ref is not None:
        yield "dataLayer.discovery.pluginRef", discovery.plugin_ref
    single: tuple[tuple[str, PluginRef | DetectorRef | None], ...] = (
        ("dataLayer.discovery.endpoints.pluginRef", discovery.endpoints if discovery else None),
        ("dataLayer.peerDiscovery.pluginRef", config.data_layer.peer_discovery),
        ("parser.pluginRef", config.parser),
        ("saturationDetector.pluginRef", config.saturation_detector),
        ("flowControl.saturationDetector.pluginRef", flow.saturation_detector if flow else None),
    )
    for path, ref in single:
        if ref is not None:
            yield path, ref.plugin_ref


def _with_implied(config: EndpointPickerConfig) -> EndpointPickerConfig:
    """Return the configuration with the parsers and the detector that are named in their places but not listed."""
    names = {plugin.label for plugin in config.plugins}
    flow = config.flow_control
    refs = (*config.request_handler.parsers, config.parser, config.saturation_detector, flow.saturation_detector if flow else None)
    wanted = dict.fromkeys(ref.plugin_ref for ref in refs if ref is not None)
    added = tuple(PluginSpec(type=name) for name in wanted if name in IMPLIED and name not in names)
    return msgspec.structs.replace(config, plugins=(*config.plugins, *added))


def _with_trial(config: EndpointPickerConfig, strategy: Strategy) -> EndpointPickerConfig:
    """Return the configuration with the strategy's trial where it is for all."""
    if config.trial is not None:
        raise ConfigError("give it here or as the section `trial`, not both", "strategy.trial")
    return msgspec.structs.replace(config, strategy=msgspec.structs.replace(strategy, trial=None), trial=strategy.trial)


def _with_strategy(config: EndpointPickerConfig, strategy: Strategy) -> EndpointPickerConfig:
    """Return the configuration with the strategy's plugins and its one profile; listed filters and a picker join it."""
    if config.scheduling_profiles:
        raise ConfigError("give either a strategy or schedulingProfiles", "strategy")
    for index, plugin in enumerate(config.plugins):
        if plugin.type.endswith("-scorer") or plugin.type in PREFIX_PRODUCERS:
            message = f"{plugin.type} beside a strategy, which brings its own; write schedulingProfiles to combine plugins freely"
            raise ConfigError(message, f"plugins[{index}].type")
    if len(set(strategy.chain)) < len(strategy.chain):
        raise ConfigError("a strategy occurs twice", "strategy.chain")
    scorers = LOADS[strategy.load] if strategy.chain or strategy.load != "none" else ()
    added = [*_strategy_plugins(strategy), *(PluginSpec(type=name) for name, _ in scorers)]
    taken = {plugin.label for plugin in config.plugins}
    for plugin in added:
        if plugin.label in taken:
            raise ConfigError(f"the name {plugin.label!r} is taken by a plugin of the list", "strategy")
    members = [
        *(ProfilePlugin(plugin_ref=plugin.label) for plugin in _typed(config, *FILTERS)),
        *(ProfilePlugin(plugin_ref=name, weight=weight) for name, weight in scorers),
        *(ProfilePlugin(plugin_ref=plugin.label) for plugin in _typed(config, "-picker")),
    ]
    return msgspec.structs.replace(
        config,
        strategy=None,
        plugins=(*config.plugins, *added),
        scheduling_profiles=(ProfileSpec(name=PROFILE, plugins=tuple(members)),),
    )


def _strategy_plugins(strategy: Strategy) -> list[PluginSpec]:
    parameters = {
        "accurate": strategy.accurate,
        "approximate": strategy.approximate,
        "consistent-hash": strategy.consistent_hash,
    }
    for name, given in parameters.items():
        if given is not None and name not in strategy.chain:
            raise ConfigError(
                f"{name!r} is not in the chain", f"strategy.{'consistentHash' if name == 'consistent-hash' else name}"
            )
    if "consistent-hash" in strategy.chain[1:] and "approximate" in strategy.chain[: strategy.chain.index("consistent-hash")]:
        parameters["consistent-hash"] = {"firstShare": LAST_RESORT_SHARE, **(strategy.consistent_hash or {})}
    plugins = [PluginSpec(type=PRODUCERS[name], parameters=parameters[name]) for name in strategy.chain]
    if len(plugins) > 1:
        plugins.append(PluginSpec(type=CHAIN, parameters={"chain": [plugin.label for plugin in plugins]}))
    if strategy.tokenizer is not None:
        plugins.append(PluginSpec(type="token-producer", parameters=strategy.tokenizer))
    return plugins


def _with_profile(config: EndpointPickerConfig) -> EndpointPickerConfig:
    """Return the configuration with a profile of all filters, scorers and pickers, if it has none."""
    if config.scheduling_profiles:
        return config
    members = tuple(ProfilePlugin(plugin_ref=plugin.label) for plugin in _typed(config, *FILTERS, "-scorer", "-picker"))
    return msgspec.structs.replace(config, scheduling_profiles=(ProfileSpec(name=PROFILE, plugins=members),))


def _with_defaults(config: EndpointPickerConfig) -> EndpointPickerConfig:
    """Return the configuration with a picker in each profile, weights, a profile handler, and a producer for readers."""
    types = {plugin.label: plugin.type for plugin in config.plugins}
    plugins = list(config.plugins)

    def ensure(type_name: str) -> None:
        if type_name not in types:
            types[type_name] = type_name
            plugins.append(PluginSpec(type=type_name))

    pickers = [plugin.label for plugin in _typed(config, "-picker")]
    profiles = []
    for profile in config.scheduling_profiles:
        members = [
            msgspec.structs.replace(member, weight=1.0)
            if member.weight is None and types[member.plugin_ref].endswith("-scorer")
            else member
            for member in profile.plugins
        ]
        if not any(types[member.plugin_ref].endswith("-picker") for member in members):
            if not pickers:
                ensure(PICKER)
            # As in the reference, a listed picker that no profile names is meant for those that name none.
            members.append(ProfilePlugin(plugin_ref=pickers[0] if pickers else PICKER))
        profiles.append(msgspec.structs.replace(profile, plugins=tuple(members)))
    if not any(name.endswith("-profile-handler") for name in types.values()):
        ensure(HANDLER)
    named = [(plugin.parameters or {}).get(READS) for plugin in plugins if plugin.type in PREFIX_READERS]
    if PRODUCERS["approximate"] in named or (named and not PREFIX_PRODUCERS.intersection(types.values())):
        ensure(PRODUCERS["approximate"])
    return msgspec.structs.replace(config, plugins=tuple(plugins), scheduling_profiles=tuple(profiles))


def _typed(config: EndpointPickerConfig, *ends: str) -> list[PluginSpec]:
    """Return the plugins whose type ends like that, in the order of the list."""
    return [plugin for plugin in config.plugins if plugin.type.endswith(ends)]
