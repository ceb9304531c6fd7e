"""The configuration file as frozen typed structs: the published `EndpointPickerConfig`, and this project's own sections beside it.

`reading.load` makes one from text; `expansion.expand` fills in what a file may leave out; `epp.scheduling.build` turns the result
into plugins. Plugin parameters stay raw here, since only the plugin's own class knows them. Unknown fields are errors.

Format: https://github.com/llm-d/llm-d-router, `apix/config/v1alpha1`. The sections `strategy`, `trial`, `objectives`,
`modelRewrites`, `limits`, `scrape`, `slowStart` and `server` are ours; a file that has none of them is the reference's.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from epp.config.objectives import ModelRewrite, Objective
from epp.config.sections import Limits, Scrape, Server, SlowStart, Strategy, Trial

ApiVersion = Literal["llm-d.ai/v1alpha1", "llm-d.ai/v1", "inference.networking.x-k8s.io/v1alpha1"]
Name = Annotated[str, Meta(min_length=1)]
Weight = Annotated[float, Meta(ge=0, le=1e9)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Base of all parts of the published format."""


class PluginRef(Section, frozen=True):
    """Names a plugin of the `plugins` list."""

    plugin_ref: Annotated[Name, Meta(description="Name of a plugin of the `plugins` list.")]


class DetectorRef(Section, frozen=True):
    """Names the saturation detector."""

    plugin_ref: Annotated[Name, Meta(description="Name of a plugin of the `plugins` list.")] = "utilization-detector"


class PluginSpec(Section, frozen=True):
    """One plugin and its parameters."""

    type: Annotated[str, Meta(min_length=1, description="Which plugin: the name it is registered under.")]
    name: Annotated[str, Meta(description="How the file refers to it; its type when empty.")] = ""
    parameters: Annotated[dict[str, Any] | None, Meta(description="What the plugin's type takes.")] = None

    @property
    def label(self) -> str:
        """The name it is referred to by."""
        return self.name or self.type


class ProfilePlugin(PluginRef, frozen=True):
    """A plugin's place in a profile."""

    weight: Annotated[Weight | None, Meta(description="For a scorer, what its score is multiplied by; 1 when absent.")] = None


class ProfileSpec(Section, frozen=True):
    """How one kind of request is scheduled."""

    name: Annotated[str, Meta(min_length=1, description="Name of the profile.")]
    plugins: Annotated[tuple[ProfilePlugin, ...], Meta(description="Filters, in the order they work; scorers; one picker.")] = ()


class SourceSpec(PluginRef, frozen=True):
    """A data source and what is read from it."""

    extractors: Annotated[tuple[PluginRef, ...], Meta(description="Extractors that read this source.")] = ()


class Discovery(Section, frozen=True):
    """Who says which endpoints there are; newer files of the reference write it one level deeper."""

    plugin_ref: Annotated[Name | None, Meta(description="Name of a plugin of the `plugins` list.")] = None
    endpoints: Annotated[PluginRef | None, Meta(description="The same, as newer files have it.")] = None


class DataLayer(Section, frozen=True):
    """Where knowledge of endpoints comes from."""

    inject_defaults: Annotated[bool, Meta(description="Add the metrics source and the core extractor.")] = True
    sources: Annotated[tuple[SourceSpec, ...], Meta(description="Sources, if not the default ones.")] = ()
    discovery: Annotated[Discovery | None, Meta(description="Who says which endpoints there are; absent: Kubernetes.")] = None
    peer_discovery: Annotated[PluginRef | None, Meta(description="Not available here.")] = None
    cross_replica_syncer_plugin_ref: Annotated[str | None, Meta(description="Not available here.")] = None
    cross_replica_sync_interval: Annotated[str | None, Meta(description="Not available here.")] = None


class RequestHandler(Section, frozen=True):
    """How requests are read."""

    parsers: Annotated[tuple[PluginRef, ...], Meta(description="Parsers in use; none named: all.")] = ()


class PriorityBand(Section, frozen=True):
    """Queue of one priority. Read, so that a file of the reference is understood; without effect here."""

    priority: Annotated[int | None, Meta(description="Priority of the band.")] = None
    max_bytes: Annotated[int | str | None, Meta(description="Bytes queued at most.")] = None
    max_requests: Annotated[int | str | None, Meta(description="Requests queued at most.")] = None
    fairness_policy_ref: Annotated[str | None, Meta(description="Policy between flows.")] = None
    ordering_policy_ref: Annotated[str | None, Meta(description="Policy within a flow.")] = None


class FlowControl(Section, frozen=True):
    """Queueing before the decision, for which the feature gate `flowControl` is not available here; and the saturation detector."""

    max_bytes: Annotated[int | str | None, Meta(description="Bytes queued at most.")] = None
    max_requests: Annotated[int | str | None, Meta(description="Requests queued at most.")] = None
    default_request_ttl: Annotated[str | None, Meta(description="How long a request waits at most.")] = msgspec.field(
        default=None, name="defaultRequestTTL"
    )
    no_endpoint_request_ttl: Annotated[str | None, Meta(description="The same where there is no endpoint.")] = msgspec.field(
        default=None, name="noEndpointRequestTTL"
    )
    default_priority_band: Annotated[PriorityBand | None, Meta(description="Band of a priority that has none.")] = None
    default_negative_priority_band: Annotated[PriorityBand | None, Meta(description="The same below 0.")] = None
    priority_bands: Annotated[tuple[PriorityBand, ...], Meta(description="Bands.")] = ()
    usage_limit_policy_plugin_ref: Annotated[str | None, Meta(description="Policy of the ceiling.")] = None
    saturation_detector: Annotated[DetectorRef | None, Meta(description="Says when the pool is full.")] = None
    enable_eviction: Annotated[bool, Meta(description="Revoke requests under way.")] = False


class EndpointPickerConfig(Section, frozen=True):
    """A whole configuration file."""

    api_version: Annotated[ApiVersion, Meta(description="Version of the format.")] = "llm-d.ai/v1alpha1"
    kind: Annotated[Literal["EndpointPickerConfig"], Meta(description="What the file is.")] = "EndpointPickerConfig"
    feature_gates: Annotated[
        tuple[str, ...], Meta(description="Gates to open, as `name` or `name=true`; `name=false` shuts one.")
    ] = ()
    strategy: Annotated[Strategy | None, Meta(description="The short form: says how to route without a list of plugins.")] = None
    plugins: Annotated[tuple[PluginSpec, ...], Meta(description="Plugins in use.")] = ()
    scheduling_profiles: Annotated[
        tuple[ProfileSpec, ...], Meta(description="How requests are scheduled; absent: one profile of all listed plugins.")
    ] = ()
    data_layer: Annotated[DataLayer, Meta(description="Where knowledge of endpoints comes from.")] = DataLayer()
    request_handler: Annotated[RequestHandler, Meta(description="How requests are read.")] = RequestHandler()
    flow_control: Annotated[FlowControl | None, Meta(description="The saturation detector; queueing is not available here.")] = None
    saturation_detector: Annotated[DetectorRef | None, Meta(description="Older place of `flowControl.saturationDetector`.")] = None
    parser: Annotated[PluginRef | None, Meta(description="Older form of `requestHandler.parsers`.")] = None
    trial: Annotated[
        Trial | None,
        Meta(description="Try this configuration in the place of another; absent: it stays whatever happens."),
    ] = None
    objectives: Annotated[
        tuple[Objective, ...], Meta(description="What requests are worth; on Kubernetes, those there are added, and win.")
    ] = ()
    model_rewrites: Annotated[
        tuple[ModelRewrite, ...],
        Meta(description="Models sent on under another name; on Kubernetes, those there are added, and win."),
    ] = ()
    limits: Annotated[Limits, Meta(description="Bounds of everything that could grow.")] = Limits()
    scrape: Annotated[Scrape, Meta(description="How endpoints are asked for their metrics.")] = Scrape()
    slow_start: Annotated[SlowStart, Meta(description="How endpoints that have just come are given their share.")] = SlowStart()
    server: Annotated[Server, Meta(description="How the gateway is talked to.")] = Server()
