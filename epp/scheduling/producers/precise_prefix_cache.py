"""`precise-prefix-cache-producer`: who holds a prompt, by the KV events of the model servers."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from epp.config.durations import duration_s
from epp.errors import ConfigError
from epp.prefix.accurate import Accurate
from epp.prefix.kv_sources import EVENTS_PORT, EVENTS_PORT_LABEL, REPLAY_PORT_LABEL, Ports
from epp.scheduling.api import Producer

Port = Annotated[int, Meta(ge=1, le=65535)]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """A part of the parameters."""


class TokenProcessorConfig(_Section, frozen=True):
    """How the reference cuts and hashes tokens. Here the engines' own block sizes are used, and hashes never leave the process."""

    block_size_tokens: Annotated[int, Meta(ge=1, description="Accepted for compatibility: events say the block size.")] = 16
    block_size: Annotated[int, Meta(description="Older name of `blockSizeTokens`.")] = 0
    hash_seed: Annotated[str, Meta(description="Accepted for compatibility: need not equal PYTHONHASHSEED of the engines.")] = ""
    hash_algorithm: Annotated[str, Meta(description="Accepted for compatibility, without effect.")] = ""


class PodDiscovery(_Section, frozen=True):
    """Where endpoints publish."""

    socket_port: Annotated[
        Port,
        Meta(
            description=f"Port of the event stream, plus the data-parallel rank. An endpoint's label {EVENTS_PORT_LABEL} overrules."
        ),
    ] = EVENTS_PORT
    replay_socket_port: Annotated[
        int,
        Meta(le=65535, description=f"Port for replays, plus the rank; 0: none. An endpoint's label {REPLAY_PORT_LABEL} overrules."),
    ] = 0
    pod_label_selector: Annotated[str, Meta(description="Accepted for compatibility: the pool says who the endpoints are.")] = ""
    pod_namespace: Annotated[str, Meta(description="Accepted for compatibility: the pool says who the endpoints are.")] = ""
    data_parallel_size: Annotated[int, Meta(description="Accepted for compatibility: a rank is an endpoint.")] = 0


class KvEventsConfig(_Section, frozen=True):
    """How events are received."""

    topic_filter: Annotated[
        str, Meta(description="Accepted for compatibility: everything is taken, since an endpoint is known by its connection.")
    ] = ""
    engine_type: Annotated[
        Literal["", "vllm", "sglang"], Meta(description="Accepted for compatibility: both are understood at once.")
    ] = ""
    discover_pods: Annotated[bool, Meta(description="Must be true: every endpoint is subscribed to.")] = True
    pod_discovery_config: Annotated[PodDiscovery | None, Meta(description="Where endpoints publish.")] = None
    pod_discovery: Annotated[PodDiscovery | None, Meta(description="Short name of `podDiscoveryConfig`.")] = None
    zmq_endpoint: Annotated[str, Meta(description="Must be empty: engines do not connect to the picker.")] = ""
    concurrency: Annotated[int, Meta(description="Accepted for compatibility, without effect.")] = 4
    tracing: Annotated[bool, Meta(description="Accepted for compatibility, without effect.")] = False


class PrecisePrefixCacheProducer(Producer, frozen=True):
    """Makes the strategy `accurate`.

    Takes the parameters of the reference's producer of this name; those that choose among its indexes have no meaning here.
    """

    kv_events_config: Annotated[KvEventsConfig, Meta(description="How events are received.")] = KvEventsConfig()
    token_processor_config: Annotated[TokenProcessorConfig, Meta(description="Accepted for compatibility: the engines decide.")] = (
        TokenProcessorConfig()
    )
    indexer_config: Annotated[
        dict[str, Any] | None, Meta(description="Accepted for compatibility: there is one index, bounded per endpoint.")
    ] = None
    kv_cache_backend_configs: Annotated[
        list[dict[str, Any]] | None,
        Meta(description="Accepted for compatibility: a token in host memory counts 0.8, in storage 0.25."),
    ] = None
    speculative_indexing: Annotated[
        bool, Meta(description="Believe that a prompt is where it was just sent, until the engine's events say so.")
    ] = True
    speculative_ttl: Annotated[str, Meta(description="For how long, such as `2s` or `500ms`.")] = msgspec.field(
        default="2s", name="speculativeTTL"
    )

    @property
    def ports(self) -> Ports:
        """Where endpoints publish that do not say so themselves."""
        where = self.kv_events_config.pod_discovery_config or self.kv_events_config.pod_discovery or PodDiscovery()
        return Ports(events=where.socket_port, replay=where.replay_socket_port if where.replay_socket_port > 0 else None)

    def check(self) -> None:
        """Raise ConfigError for ways of receiving events that do not exist here."""
        events = self.kv_events_config
        if events.zmq_endpoint:
            raise ConfigError(
                "not available here (yet): the picker connects to the engines, not they to it; give podDiscoveryConfig",
                "kvEventsConfig.zmqEndpoint",
            )
        if events.pod_discovery is not None and events.pod_discovery_config is not None:
            raise ConfigError("give podDiscovery or podDiscoveryConfig, not both", "kvEventsConfig.podDiscovery")
        if not events.discover_pods:
            raise ConfigError("must be true: without it nobody would be subscribed to", "kvEventsConfig.discoverPods")
        if duration_s(self.speculative_ttl) <= 0:
            raise ConfigError("a duration above 0 such as 2s or 500ms", "speculativeTTL")

    def build(self) -> Accurate:
        """Return a new, empty strategy."""
        return Accurate(speculative=self.speculative_indexing, speculative_ttl_s=duration_s(self.speculative_ttl))
