"""Plugin types of the published format whose work is done elsewhere: here they are parameters, read and checked.

Discovery, poller, tokenizer and director take them from the `Plan` that `build` makes of a configuration.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta

from epp.errors import ConfigError
from epp.model.endpoint import ENGINE_LABEL
from epp.pool.engines import EngineConfig, Engines
from epp.scheduling.api import Plugin

Port = Annotated[int, Meta(ge=1, le=65535)]


class Setting(Plugin, frozen=True):
    """Base of the types that are parameters only."""


class FileDiscovery(Setting, frozen=True):
    """`file-discovery`: the endpoints are listed in a file."""

    path: Annotated[str, Meta(min_length=1, description="The file with the list of endpoints.")]
    watch_file: Annotated[bool, Meta(description="Read it again when it changes.")] = False


class MetricsDataSource(Setting, frozen=True):
    """`metrics-data-source`: where an endpoint's metrics are read."""

    scheme: Annotated[Literal["http", "https"], Meta(description="Protocol.")] = "http"
    path: Annotated[str, Meta(pattern="^/", description="Path of the page.")] = "/metrics"
    port: Annotated[Port | None, Meta(description="Port of the page; absent: the endpoint's own.")] = None
    insecure_skip_verify: Annotated[bool, Meta(description="Take any certificate.")] = True
    ca_cert_path: Annotated[str, Meta(description="PEM file of the authorities that sign the certificates.")] = ""
    client_cert_path: Annotated[str, Meta(description="PEM file of our own certificate.")] = ""
    client_key_path: Annotated[str, Meta(description="PEM file of its key.")] = ""
    interval: Annotated[str, Meta(description="Accepted for compatibility: the section `scrape` says how often.")] = ""
    families: Annotated[tuple[str, ...], Meta(description="Accepted for compatibility: only what is used is ever read.")] = ()

    def check(self) -> None:
        """Raise ConfigError when only one of certificate and key is given."""
        if bool(self.client_cert_path) != bool(self.client_key_path):
            raise ConfigError("give clientCertPath and clientKeyPath together", "clientCertPath")


class CoreMetricsExtractor(Setting, frozen=True):
    """`core-metrics-extractor`: what the series of each kind of engine are called."""

    engine_label_key: Annotated[str, Meta(min_length=1, description="Label of an endpoint that names its engine.")] = ENGINE_LABEL
    default_engine: Annotated[str, Meta(min_length=1, description="Engine of an endpoint without the label.")] = "vllm"
    engine_configs: Annotated[tuple[EngineConfig, ...], Meta(description="Further engines; a built-in name replaces it.")] = ()

    def check(self) -> None:
        """Raise ConfigError for an engine that cannot be read."""
        self.engines()

    def engines(self) -> Engines:
        """Return the engines that are known by name."""
        return Engines(self.engine_configs, default=self.default_engine, label=self.engine_label_key)


class EndpointNotificationSource(Setting, frozen=True):
    """`endpoint-notification-source`: endpoints come and go. Whoever needs to know is told here without it."""


class InflightLoadProducer(Setting, frozen=True):
    """`inflight-load-producer`: counts what is under way. The ledger always does, so only its options could matter."""

    add_estimated_output_tokens: Annotated[bool, Meta(description="Must be false: what an answer will be is not guessed.")] = False
    output_ratio: Annotated[float, Meta(ge=0, description="Accepted for compatibility, without effect.")] = 1.5
    max_estimated_output_tokens: Annotated[int | None, Meta(description="Accepted for compatibility, without effect.")] = None
    prefix_match_info_producer_name: Annotated[str, Meta(description="Accepted for compatibility, without effect.")] = ""
    sync_cross_replica_state: Annotated[bool, Meta(description="Accepted for compatibility, without effect.")] = True

    def check(self) -> None:
        """Refuse what this project does not do."""
        if self.add_estimated_output_tokens:
            raise ConfigError("not available here (yet): output tokens are not estimated", "addEstimatedOutputTokens")


class TokenProducer(Setting, frozen=True):
    """`token-producer`: how a prompt becomes token ids: by a tokenizer file, in this process. Without one there are none."""

    tokenizer: Annotated[
        str, Meta(description="A Hugging Face `tokenizer.json`, or the directory that holds it and `tokenizer_config.json`.")
    ] = ""
    chat_template: Annotated[str, Meta(description="File with the chat template; absent: that of `tokenizer_config.json`.")] = ""
    timeout_ms: Annotated[int, Meta(ge=1, le=60_000, description="Longest wait for the ids; then the prompt goes without.")] = 200
    model_name: Annotated[str, Meta(description="Accepted for compatibility, without effect.")] = ""
    backend: Annotated[Literal["", "estimate", "vllm"], Meta(description="Must not be vllm: no other server is asked.")] = ""
    estimate: Annotated[dict[str, Any] | None, Meta(description="Accepted for compatibility, without effect.")] = None
    vllm: Annotated[dict[str, Any] | None, Meta(description="Must be absent: no other server is asked.")] = None

    def check(self) -> None:
        """Refuse what this project does not do."""
        if self.backend == "vllm" or self.vllm is not None:
            message = "not available here (yet): no render server is asked; give a tokenizer file as `tokenizer`"
            raise ConfigError(message, "backend" if self.backend == "vllm" else "vllm")
        if self.chat_template and not self.tokenizer:
            raise ConfigError("a chat template without a tokenizer", "chatTemplate")


class Parser(Setting, frozen=True):
    """A parser of request bodies, chosen by path; which, its type says (`epp.parsers.select`)."""
