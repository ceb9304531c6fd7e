"""The sections of the configuration file that are only ours: `strategy`, `trial`, `limits`, `scrape`, `slowStart`, `server`.

Those of objectives and rewrites are in `objectives`.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from epp.config.durations import duration_s

StrategyName = Literal["accurate", "approximate", "consistent-hash"]
LoadRule = Literal["marginal-cost", "llm-d", "none"]
TRIAL_S_MAX = 3600.0
"""Longest trial. What a new configuration does not use is kept warm for as long, so that going back never starts cold."""
BodyMode = Literal["none", "streamed", "buffered", "buffered-partial", "full-duplex"]


class OwnSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Base of the sections."""


class RevertOn(OwnSection, frozen=True):
    """What ends a trial badly."""

    error_ratio: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(description="Share of requests that end with a 5xx or without an endpoint, if it was not as large before; null: any."),
    ] = 0.05
    hit_ratio_drop: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(description="Loss of prompt tokens found cached, as a share of all prompt tokens (0.1: ten points); null: any."),
    ] = 0.1

    def __post_init__(self) -> None:
        """Refuse a trial that nothing could fail."""
        if self.error_ratio is None and self.hit_ratio_drop is None:
            raise ValueError("give errorRatio or hitRatioDrop")


class Trial(OwnSection, frozen=True):
    """A configuration that is on trial when it takes the place of another one, and gives it back when it does worse."""

    for_: Annotated[str, Meta(description="For how long, such as `10m`; at most `1h`.")] = msgspec.field(default="10m", name="for")
    revert_on: Annotated[RevertOn, Meta(description="What ends it badly.")] = RevertOn()

    @property
    def for_s(self) -> float:
        """The same in seconds."""
        return duration_s(self.for_)

    def __post_init__(self) -> None:
        """Refuse what is no time, or too long a time."""
        if not 0 < self.for_s <= TRIAL_S_MAX:
            raise ValueError("`for` is a duration above 0 and up to 1h, such as 10m")


class Strategy(OwnSection, frozen=True):
    """The short form: says how to route without a list of plugins, and expands to one."""

    chain: Annotated[
        tuple[StrategyName, ...],
        Meta(description="Who is asked where the prefix is, in this order: the first that is well and knows something answers."),
    ] = ("approximate", "consistent-hash")
    load: Annotated[
        LoadRule,
        Meta(
            description="What prefixes are weighed against. `marginal-cost`: what the request would cost everybody; `llm-d`: the "
            "reference's weights, prefix 3, queue 2, KV cache 2; `none`: prefixes alone."
        ),
    ] = "marginal-cost"
    tokenizer: Annotated[dict[str, Any] | None, Meta(description="Parameters of `token-producer`; `accurate` wants one.")] = None
    accurate: Annotated[dict[str, Any] | None, Meta(description="Parameters of `precise-prefix-cache-producer`.")] = None
    approximate: Annotated[dict[str, Any] | None, Meta(description="Parameters of `approx-prefix-cache-producer`.")] = None
    consistent_hash: Annotated[dict[str, Any] | None, Meta(description="Parameters of `consistent-hash-producer`.")] = None
    trial: Annotated[Trial | None, Meta(description="The section `trial`, written here.")] = None


class Limits(OwnSection, frozen=True):
    """Bounds of everything that could grow with what comes from outside."""

    body_bytes_max: Annotated[
        int,
        Meta(ge=1024, le=1 << 30, description="Longest request body that is read, in bytes; a longer one is answered with 413."),
    ] = 64 << 20
    bodies_bytes_max: Annotated[
        int,
        Meta(
            ge=1024,
            le=1 << 40,
            description="Request bodies held until they are decided, in bytes, of all requests together; the one that passes it is "
            "answered with 429 and Retry-After. Never less than `bodyBytesMax`.",
        ),
    ] = 512 << 20
    endpoints_max: Annotated[int, Meta(ge=1, le=65_536, description="Endpoints in the pool; more are refused.")] = 4096
    requests_max: Annotated[
        int, Meta(ge=1, le=1 << 20, description="Requests under way; more are answered with 429 and Retry-After.")
    ] = 65_536
    decisions_kept: Annotated[int, Meta(ge=0, le=100_000, description="Latest decisions kept to be explained.")] = 1000


class Scrape(OwnSection, frozen=True):
    """How endpoints are asked for their metrics."""

    busy_interval_ms: Annotated[
        int, Meta(ge=20, le=60_000, description="Time between two readings of an endpoint with traffic.")
    ] = 100
    idle_interval_ms: Annotated[int, Meta(ge=20, le=60_000, description="The same of an endpoint without.")] = 1000
    timeout_ms: Annotated[int, Meta(ge=10, le=60_000, description="Longest wait for a page.")] = 1000
    page_bytes_max: Annotated[int, Meta(ge=1024, le=64 << 20, description="Longest page that is read, in bytes.")] = 4 << 20
    concurrency_max: Annotated[int, Meta(ge=1, le=65_536, description="Readings under way in all.")] = 256


class SlowStart(OwnSection, frozen=True):
    """How endpoints that have just come into the pool are given their share."""

    window_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=3_600_000,
            description="How long after its coming an endpoint is a candidate for every request; until then for a share that grows "
            "with the time that has passed. 0: at once.",
        ),
    ] = 0
    share_min: Annotated[
        float, Meta(ge=0, le=1, description="Share of the requests that it is a candidate for from the first moment.")
    ] = 0.1

    @property
    def window_s(self) -> float:
        """The window in seconds."""
        return self.window_ms / 1000


class Server(OwnSection, frozen=True):
    """How the gateway is talked to."""

    echo_headers: Annotated[
        bool,
        Meta(description="Set all headers again to what they were, as the reference does. Loses repeated ones; for comparison."),
    ] = False
    emit_endpoint_scores: Annotated[
        bool, Meta(description="Publish the score of every rated endpoint as `x-gateway-destination-endpoint-scores`.")
    ] = False
    served_header: Annotated[
        str,
        Meta(
            pattern="^[a-z0-9-]*$",
            description="Response header that tells the client which endpoint answered, where the gateway reports it; empty: none.",
        ),
    ] = ""
    body_mode_default: Annotated[BodyMode, Meta(description="How bodies come when the gateway does not say.")] = "full-duplex"
    body_mode_forced: Annotated[BodyMode | None, Meta(description="How bodies come, whatever the gateway says.")] = None
    skip_response_body: Annotated[
        bool, Meta(description="Ask not to be sent the response where both bodies are buffered: else it is held back to its end.")
    ] = True
