"""From a configuration to what runs: plugins made and checked, profiles put together, everything else looked up by its role.

Called at start and for every new configuration; pure, so that `config check` runs the very same code. What cannot work is an error
with its path; what works but is likely not meant is a warning.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from epp.config.document import DataLayer, EndpointPickerConfig, ProfileSpec
from epp.config.expansion import PRODUCERS, expand
from epp.errors import ConfigError
from epp.parsers.select import PARSERS
from epp.scheduling.api import Detector, Filter, Picker, Plugin, Producer, ProfileHandler, Scorer
from epp.scheduling.detectors.utilization import UtilizationDetector
from epp.scheduling.doubts import find_doubts
from epp.scheduling.filters.label_selector import LabelSelectorFilter, contradiction
from epp.scheduling.producers.prefix_chain import PrefixChainProducer
from epp.scheduling.profile import Profile
from epp.scheduling.profiles.single import SingleProfileHandler
from epp.scheduling.registry import Registry, make
from epp.scheduling.settings import CoreMetricsExtractor, FileDiscovery, MetricsDataSource, TokenProducer

P = TypeVar("P", bound=Plugin)

NOT_HERE = "known to the reference but not available here (yet)"
GATES = {"flowControl": False, "haPopulateNonLeaderDatastore": True}
"""Feature gates of the reference, and whether they may be open here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a configuration comes to."""

    config: EndpointPickerConfig
    """Expanded, every plugin with all its parameters. Building it again gives an equal plan."""
    plugins: Mapping[str, Plugin]
    """Everything in the list, by name."""
    profiles: Mapping[str, Profile]
    handler: ProfileHandler
    producers: Mapping[str, Producer]
    """What makes prefix strategies, by name; those of the chain stand before it."""
    default_producer: str = ""
    """The producer that plugins mean when they name none: the chain if there is one, else the first; empty when there is none."""
    detector: Detector = field(default_factory=UtilizationDetector)
    """Says when requests are shed."""
    parsers: tuple[str, ...] = tuple(PARSERS)
    """Types, for `epp.parsers.select.Parsers`."""
    discovery: FileDiscovery | None = None
    """Absent: Kubernetes."""
    metrics_source: MetricsDataSource = field(default_factory=MetricsDataSource)
    metrics_extractor: CoreMetricsExtractor = field(default_factory=CoreMetricsExtractor)
    tokenizer: TokenProducer | None = None
    """Present only if it names a tokenizer."""
    paths: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Where in the configuration each plugin's parameters stand, by name."""
    warnings: tuple[str, ...] = field(default=(), compare=False)

    def path_of(self, plugin: Plugin) -> str:
        """Return where in the configuration a plugin's parameters stand; empty when it is in no list."""
        return next((self.paths[name] for name, one in self.plugins.items() if one is plugin), "")


def build(config: EndpointPickerConfig, registry: Registry) -> Plan:
    """Return what the configuration comes to.

    Args:
        config: as loaded, or expanded already.
        registry: the plugins there are.

    Raises:
        ConfigError: it cannot work; carries the path of the field that is in the way.
    """
    _check_strategy_parameters(config, registry)
    short = {"prefix-chain-producer": "strategy", "token-producer": "strategy.tokenizer"} if config.strategy is not None else {}
    config = expand(config)
    builder = _Builder(config, registry)
    check_available(config)
    profiles = {spec.name: builder.profile(index, spec) for index, spec in enumerate(config.scheduling_profiles)}
    producers, default = builder.producers()
    tokenizer = builder.only(TokenProducer)
    paths = {name: short.get(name, f"{path}.parameters") for name, path in builder.paths.items()}
    return Plan(
        config=builder.effective(),
        plugins=builder.plugins,
        profiles=profiles,
        handler=builder.handler(),
        producers=producers,
        default_producer=default,
        detector=builder.detector(),
        parsers=builder.parsers(),
        discovery=builder.discovery(),
        metrics_source=builder.only(MetricsDataSource) or MetricsDataSource(),
        metrics_extractor=builder.only(CoreMetricsExtractor) or CoreMetricsExtractor(),
        tokenizer=tokenizer if tokenizer is not None and tokenizer.tokenizer else None,
        paths=paths,
        warnings=tuple(find_doubts(config, builder.plugins, paths)),
    )


def check_available(config: EndpointPickerConfig) -> None:
    """Raise ConfigError for a part of the published format, other than a plugin, that does not exist here."""
    for index, gate in enumerate(config.feature_gates):
        path = f"featureGates[{index}]"
        name, _, value = gate.partition("=")
        if name not in GATES:
            raise ConfigError(f"unknown feature gate {name!r}; there is {', '.join(GATES)}", path)
        if value not in ("", "true", "false"):
            raise ConfigError("a gate is open (`name`, `name=true`) or shut (`name=false`)", path)
        if value != "false" and not GATES[name]:
            raise ConfigError(f"{name!r} is {NOT_HERE}", path)
    for name in ("peer_discovery", "cross_replica_syncer_plugin_ref", "cross_replica_sync_interval"):
        if getattr(config.data_layer, name) is not None:
            raise ConfigError(NOT_HERE, f"dataLayer.{DataLayer.__struct_encode_fields__[DataLayer.__struct_fields__.index(name)]}")


def _check_strategy_parameters(config: EndpointPickerConfig, registry: Registry) -> None:
    """Raise ConfigError for wrong parameters in the `strategy` block, with the path they have there, before it is expanded."""
    if config.strategy is None:
        return
    given = {
        "accurate": ("accurate", config.strategy.accurate),
        "approximate": ("approximate", config.strategy.approximate),
        "consistent-hash": ("consistentHash", config.strategy.consistent_hash),
    }
    for name in config.strategy.chain:
        field_name, parameters = given[name]
        make(registry.find(PRODUCERS[name], "strategy.chain"), parameters, f"strategy.{field_name}")
    if config.strategy.tokenizer is not None:
        make(registry.find("token-producer", "strategy.tokenizer"), config.strategy.tokenizer, "strategy.tokenizer")


class _Builder:
    """The plugins of one configuration, and what is made of them."""

    def __init__(self, config: EndpointPickerConfig, registry: Registry) -> None:
        self.config = config
        self.plugins: dict[str, Plugin] = {}
        self.paths: dict[str, str] = {}
        for index, spec in enumerate(config.plugins):
            self.paths[spec.label] = f"plugins[{index}]"
            self.plugins[spec.label] = registry.create(spec.type, spec.parameters, f"plugins[{index}]")

    def effective(self) -> EndpointPickerConfig:
        """Return the configuration with the parameters that the file left to their defaults filled in."""
        specs = [
            msgspec.structs.replace(spec, parameters=msgspec.json.decode(msgspec.json.encode(self.plugins[spec.label])))
            for spec in self.config.plugins
        ]
        return msgspec.structs.replace(self.config, plugins=tuple(specs))

    def profile(self, index: int, spec: ProfileSpec) -> Profile:
        """Return one profile, its plugins sorted by kind."""
        path = f"schedulingProfiles[{index}]"
        filters: list[tuple[str, Filter]] = []
        scorers: list[tuple[str, float, Scorer]] = []
        pickers: list[Picker] = []
        for place, member in enumerate(spec.plugins):
            plugin = self.plugins[member.plugin_ref]
            match plugin:
                case Filter():
                    filters.append((member.plugin_ref, plugin))
                    if isinstance(plugin, LabelSelectorFilter) and (label := contradiction(filters)):
                        message = (
                            f"no endpoint can pass all filters up to here: they contradict each other about the label {label!r}"
                        )
                        raise ConfigError(message, f"{path}.plugins[{place}].pluginRef")
                case Scorer():
                    scorers.append((member.plugin_ref, 1.0 if member.weight is None else member.weight, plugin))
                case Picker():
                    pickers.append(plugin)
                case _:
                    message = f"{member.plugin_ref!r} is neither a filter, nor a scorer, nor a picker"
                    raise ConfigError(message, f"{path}.plugins[{place}].pluginRef")
        if len(pickers) != 1:
            raise ConfigError(f"a profile has one picker, this one has {len(pickers)}", f"{path}.plugins")
        return Profile(name=spec.name, filters=tuple(filters), scorers=tuple(scorers), picker=pickers[0])

    def handler(self) -> ProfileHandler:
        """Return the one profile handler."""
        found = self.of_kind(ProfileHandler)
        if len(found) != 1:
            raise ConfigError(f"there is one profile handler, not {len(found)} ({', '.join(found)})", "plugins")
        name, handler = next(iter(found.items()))
        if isinstance(handler, SingleProfileHandler) and len(self.config.scheduling_profiles) > 1:
            raise ConfigError(f"{name} takes one profile, there are {len(self.config.scheduling_profiles)}", "schedulingProfiles")
        return handler

    def producers(self) -> tuple[Mapping[str, Producer], str]:
        """Return the producers by name, a chain after those it names, and the name of the default one."""
        found = self.of_kind(Producer)
        chains = {name: plugin for name, plugin in found.items() if isinstance(plugin, PrefixChainProducer)}
        plain = {name: plugin for name, plugin in found.items() if name not in chains}
        if len(chains) > 1:
            raise ConfigError(f"there is one chain at most, not {len(chains)} ({', '.join(chains)})", "plugins")
        for name, chain in chains.items():
            for place, member in enumerate(chain.chain):
                if member not in plain:
                    raise ConfigError(f"no prefix producer is named {member!r}", f"{self.paths[name]}.parameters.chain[{place}]")
        self._check_readers(found)
        return {**plain, **chains}, next(iter({**chains, **plain}), "")

    def _check_readers(self, producers: Mapping[str, Producer]) -> None:
        """Raise ConfigError if a plugin asks a producer that does not exist, or the default one where there is none."""
        for name, plugin in self.plugins.items():
            asked = getattr(plugin, "prefix_match_info_producer_name", None)
            if not isinstance(plugin, (Filter, Scorer)) or asked is None:
                continue
            if asked and asked not in producers:
                path = f"{self.paths[name]}.parameters.prefixMatchInfoProducerName"
                raise ConfigError(f"no prefix producer is named {asked!r}", path)
            if not producers:
                raise ConfigError(f"{name!r} needs a prefix producer and there is none", self.paths[name])

    def parsers(self) -> tuple[str, ...]:
        """Return the types of the parsers in use."""
        types = {spec.label: spec.type for spec in self.config.plugins}
        chosen = []
        for index, ref in enumerate(self.config.request_handler.parsers):
            if types[ref.plugin_ref] not in PARSERS:
                raise ConfigError(f"{ref.plugin_ref!r} is not a parser", f"requestHandler.parsers[{index}].pluginRef")
            chosen.append(types[ref.plugin_ref])
        return tuple(chosen) or tuple(PARSERS)

    def detector(self) -> Detector:
        """Return the saturation detector: the one that is referred to, the only one there is, or the default one."""
        flow, found = self.config.flow_control, self.of_kind(Detector)
        refs = {
            "flowControl.saturationDetector": flow.saturation_detector if flow is not None else None,
            "saturationDetector": self.config.saturation_detector,
        }
        given = {path: ref.plugin_ref for path, ref in refs.items() if ref is not None}
        for path, name in given.items():
            if name not in found:
                raise ConfigError(f"{name!r} does not detect saturation", f"{path}.pluginRef")
        if len(given) > 1:
            raise ConfigError("give it here or as flowControl.saturationDetector, not both", "saturationDetector")
        if not given and len(found) > 1:
            message = f"there is more than one detector ({', '.join(found)}); name one as flowControl.saturationDetector"
            raise ConfigError(message, self.paths[list(found)[1]])
        return next((found[name] for name in given.values()), next(iter(found.values()), UtilizationDetector()))

    def discovery(self) -> FileDiscovery | None:
        """Return what finds the endpoints, or None for Kubernetes."""
        wanted = self.config.data_layer.discovery
        if wanted is None:
            return None
        name = wanted.endpoints.plugin_ref if wanted.endpoints is not None else wanted.plugin_ref
        if name is None:
            raise ConfigError("names no plugin", "dataLayer.discovery")
        plugin = self.plugins[name]
        if not isinstance(plugin, FileDiscovery):
            raise ConfigError(f"{name!r} does not discover endpoints", "dataLayer.discovery.pluginRef")
        return plugin

    def of_kind(self, kind: type[P]) -> dict[str, P]:
        """Return the plugins of one kind by name, in the order of the list."""
        return {name: plugin for name, plugin in self.plugins.items() if isinstance(plugin, kind)}

    def only(self, kind: type[P]) -> P | None:
        """Return the one plugin of a kind of which there is one at most."""
        found = self.of_kind(kind)
        if len(found) > 1:
            raise ConfigError(f"there is one of this type at most, not {len(found)}", self.paths[list(found)[1]])
        return next(iter(found.values()), None)
