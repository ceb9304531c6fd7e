"""Every exported series, one definition each: name, kind, labels, buckets, and what it counts.

`llm_d_epp_*` are the names and labels of the reference picker, so that its dashboards and alerts keep working; `epp_*` are ours.
`metrics` fills those of the request path, `state_metrics` those that are computed when somebody scrapes. The accumulators are plain
Python instead of prometheus-client's, whose locks and value objects cost three times as much; the client renders the page.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

_FAMILIES: Mapping[str, type[Metric]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


class Histogram:
    """Counts per bucket, and their sum. One writer; a reader on another thread may miss the observation under way."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count `value` in. Cost: 0.2 us."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return (upper bound, count up to it), as the client wants them."""
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        return list(zip(bounds, accumulate(self.counts), strict=True))


@dataclass(frozen=True, slots=True)
class Series:
    """What one exported name means."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets."""

    def histogram(self) -> Histogram:
        """Return an empty accumulator with this series' buckets."""
        return Histogram(self.bounds)

    def family(self) -> Metric:
        """Return the client's form of this series, without samples."""
        return _FAMILIES[self.kind](self.name, self.help, labels=self.labels)  # type: ignore[call-arg]

    def add(self, family: Metric, labels: Sequence[str], value: float | Histogram) -> None:
        """Add a sample to `family`; a histogram nothing was observed in is left out."""
        if not isinstance(value, Histogram):
            family.add_metric(labels, value)  # type: ignore[attr-defined]
        elif any(value.counts):
            family.add_metric(labels, value.buckets(), value.total)  # type: ignore[attr-defined]


SECONDS = (0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60, 120, 300, 600)
FIRST_TOKEN_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0)
PER_TOKEN_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
OVERHEAD_SECONDS = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
LAG_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
BYTES = tuple(float(64 << shift) for shift in range(0, 22, 2))
INPUT_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144, 524288, 1048576)
OUTPUT_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)

_REQUEST = ("model_name", "target_model_name", "fairness_id", "priority")

# Requests.
REQUESTS = Series("llm_d_epp_request_total", "counter", "Requests given an endpoint.", _REQUEST)
ERRORS = Series(
    "llm_d_epp_request_error_total", "counter", "Requests answered with an error, here or there.", (*_REQUEST, "error_code")
)
DURATION = Series("llm_d_epp_request_duration_seconds", "histogram", "Decision to end of response.", _REQUEST, SECONDS)
REQUEST_BYTES = Series("llm_d_epp_request_size_bytes", "histogram", "Body of the request.", _REQUEST, BYTES)
RESPONSE_BYTES = Series("llm_d_epp_response_size_bytes", "histogram", "Body of the response, where seen.", _REQUEST, BYTES)
INPUT = Series("llm_d_epp_request_input_tokens", "histogram", "Prompt tokens, as reported.", _REQUEST, INPUT_TOKENS)
OUTPUT = Series("llm_d_epp_request_output_tokens", "histogram", "Generated tokens, as reported.", _REQUEST, OUTPUT_TOKENS)
CACHED = Series("llm_d_epp_request_cached_tokens", "histogram", "Prompt tokens found cached, as reported.", _REQUEST, INPUT_TOKENS)
RUNNING = Series("llm_d_epp_request_running", "gauge", "Requests given an endpoint and not over.", _REQUEST)
NTPOT = Series("llm_d_epp_request_ntpot_seconds", "histogram", "Duration by generated tokens.", _REQUEST, PER_TOKEN_SECONDS)
TTFT = Series(
    "llm_d_epp_request_ttft_seconds", "histogram", "Decision to first token.", (*_REQUEST, "streaming"), FIRST_TOKEN_SECONDS
)
TPOT = Series(
    "llm_d_epp_request_streaming_tpot_seconds", "histogram", "Time per token after the first.", _REQUEST, PER_TOKEN_SECONDS
)

# Scheduling.
SCHEDULER = Series("llm_d_epp_scheduler_e2e_duration_seconds", "histogram", "Match, score, pick, reserve.", (), OVERHEAD_SECONDS)
ATTEMPTS = Series(
    "llm_d_epp_scheduler_attempts_total",
    "counter",
    "Attempts to schedule, by where they led.",
    ("status", "target_model_name", "endpoint_name", "namespace", "port"),
)
PROCESSING = Series(
    "llm_d_epp_request_processing_duration_seconds", "histogram", "Whole body to decision, waits included.", (), OVERHEAD_SECONDS
)
DECISIONS = Series("epp_decisions_total", "counter", "Decisions by the strategy that knew the prompt.", ("strategy", "reason"))
REWRITES = Series(
    "llm_d_epp_model_rewrite_decisions_total",
    "counter",
    "Requests given an endpoint whose model a rule chose.",
    ("model_rewrite_name", "model_name", "target_model"),
)
REJECTIONS = Series("epp_rejections_total", "counter", "Requests answered by the picker itself.", ("status", "reason"))
OVER = Series("epp_requests_total", "counter", "Requests that are over, but for those shed or refused by their own fault.")
FAILED = Series("epp_requests_failed_total", "counter", "Of those, failed: a 5xx, no answer, or no endpoint.")
OUTCOMES = Series("epp_outcomes_total", "counter", "How requests with an endpoint ended.", ("end",))
UNTOKENIZED = Series("epp_untokenized_prompts_total", "counter", "Prompts that went on without token ids, by reason.", ("reason",))
COMPARED = Series("epp_compared_prompt_tokens_total", "counter", "Prompt tokens of requests with a cache report.", ("strategy",))
PREDICTED = Series("epp_predicted_cached_tokens_total", "counter", "Of those, believed cached at decision.", ("strategy",))
REPORTED = Series("epp_reported_cached_tokens_total", "counter", "Of those, cached as the server reports.", ("strategy",))

# The pool.
_POOL = ("name",)
_ENDPOINT = ("name", "model_server_endpoint")
AVERAGE_KV = Series("llm_d_epp_average_kv_cache_utilization", "gauge", "Mean over fresh endpoints, 0..1.", _POOL)
AVERAGE_QUEUE = Series("llm_d_epp_average_queue_size", "gauge", "Mean over fresh endpoints.", _POOL)
AVERAGE_RUNNING = Series("llm_d_epp_average_running_requests", "gauge", "Mean over fresh endpoints.", _POOL)
STD_DEV_KV = Series("llm_d_epp_std_dev_kv_cache_utilization", "gauge", "Spread over fresh endpoints.", _POOL)
STD_DEV_QUEUE = Series("llm_d_epp_std_dev_queue_size", "gauge", "Spread over fresh endpoints.", _POOL)
STD_DEV_RUNNING = Series("llm_d_epp_std_dev_running_requests", "gauge", "Spread over fresh endpoints.", _POOL)
READY = Series("llm_d_epp_ready_endpoints", "gauge", "Endpoints whose metrics are fresh.", _POOL)
QUEUE = Series("llm_d_epp_per_endpoint_queue_size", "gauge", "Requests queued in the engine, scraped.", _ENDPOINT)
ENDPOINTS = Series("epp_endpoints", "gauge", "Endpoints that may be picked.", _POOL)
IN_FLIGHT = Series("epp_endpoint_requests", "gauge", "Requests sent there and not over.", _ENDPOINT)
IN_FLIGHT_TOKENS = Series("epp_endpoint_tokens", "gauge", "Uncached prompt tokens of those requests.", _ENDPOINT)
BACKLOG = Series("epp_endpoint_backlog_tokens", "gauge", "Uncached prompt tokens whose first token has not come.", _ENDPOINT)
RATE = Series("epp_endpoint_prefill_tokens_per_second", "gauge", "Learned prefill rate, after its safety factor.", _ENDPOINT)
SCRAPE_AGE = Series("epp_endpoint_scrape_age_seconds", "gauge", "Age of the scraped values.", _ENDPOINT)
UTILIZATION = Series("epp_pool_utilization_ratio", "gauge", "Share of recent time with prefill backlog.", _POOL)
SATURATION = Series("epp_pool_saturation", "gauge", "How full all endpoints together are; 1 is full.", _POOL)
POLL_ERRORS = Series("llm_d_epp_datalayer_poll_errors_total", "counter", "Metrics pages that could not be read.", ("source_type",))
SCRAPE_ERRORS = Series("epp_scrape_errors_total", "counter", "The same, by cause.", ("cause",))

# The strategies.
CONDITION = Series("epp_strategy_condition", "gauge", "1 for the condition a strategy is in.", ("strategy", "condition"))
ASKED = Series("epp_strategy_asked_total", "counter", "What came of asking a strategy of the chain.", ("strategy", "verdict"))
INDEX_ENTRIES = Series("epp_index_entries", "gauge", "Entries a strategy keeps.", ("strategy",))
INDEX_BYTES = Series("epp_index_bytes", "gauge", "Memory of them, estimated.", ("strategy",))
INDEX_TOKENS = Series("epp_index_tokens", "gauge", "Tokens it believes cached in all endpoints.", ("strategy",))
_STREAM = ("model_server_endpoint",)
KV_EVENTS = Series("epp_kv_events_total", "counter", "What happened on an endpoint's event stream.", (*_STREAM, "event"))
KV_STANDING = Series("epp_kv_standing", "gauge", "1 for how far an endpoint's blocks are known.", (*_STREAM, "standing"))
KV_BLOCKS = Series("epp_kv_blocks", "gauge", "Blocks an endpoint reports to hold.", _STREAM)
KV_LAG = Series("epp_kv_lag_seconds", "gauge", "Age of the last batch on arrival, clock skew included.", _STREAM)

# The election of a leader, where there is one.
LEADER = Series("epp_leader", "gauge", "1 while this picker leads.", ("lease",))
LEADER_CHANGES = Series("epp_leader_changes_total", "counter", "How often it began to lead or ceased to.", ("lease",))
LEADER_ERRORS = Series("epp_leader_errors_total", "counter", "Attempts at the lease that failed, by reason.", ("lease", "reason"))

# What is watched in the Kubernetes API, by resource as in `pods` or `inferencepools.inference.networking.k8s.io`.
_RESOURCE = ("resource",)
KUBE_SYNCED = Series("epp_kube_synced", "gauge", "1 once a resource is known, or known not to exist.", _RESOURCE)
KUBE_FAILING = Series("epp_kube_failing", "gauge", "1 while it cannot be followed; what was last known is used.", _RESOURCE)
KUBE_OBJECTS = Series("epp_kube_objects", "gauge", "Objects known.", _RESOURCE)
KUBE_CONTACT_AGE = Series(
    "epp_kube_last_contact_age_seconds", "gauge", "Since the API server was heard from; up to a minute in peace.", _RESOURCE
)
KUBE_LISTS = Series(
    "epp_kube_lists_total", "counter", "Times a resource was listed whole: once, and after expired watches.", _RESOURCE
)
KUBE_ERRORS = Series("epp_kube_errors_total", "counter", "What went wrong following it, by reason.", ("resource", "reason"))

# The process.
INFO = Series("llm_d_epp_info", "gauge", "Always 1.", ("commit", "build_ref"))
CONFIG_INFO = Series("epp_config_info", "gauge", "Always 1; the configuration in force.", ("hash",))
CONFIG_GENERATION = Series("epp_config_generation", "gauge", "How many configurations have been in force.")
CONFIG_SUCCESS = Series("epp_config_last_success_timestamp_seconds", "gauge", "When a good configuration last came.")
CONFIG_FAILURE = Series("epp_config_last_failure_timestamp_seconds", "gauge", "When one last came that was not taken; 0: never.")
CONFIG_FAILURES = Series("epp_config_failures_total", "counter", "Configurations that were not taken.")
CONFIG_CURRENT = Series("epp_config_up_to_date", "gauge", "1 while the newest configuration is in force; 0: refused or held back.")
CONFIG_PINNED = Series("epp_config_pinned", "gauge", "1 while a configuration is pinned.")
CONFIG_TRIAL = Series("epp_config_on_trial", "gauge", "1 while the configuration in force is on trial.")
PARKED = Series("epp_parked_strategies", "gauge", "Strategies not in use that are kept warm.")
PARKED_BYTES = Series("epp_parked_bytes", "gauge", "Memory of them, estimated.")
BODIES_HELD = Series("epp_request_bodies_held_bytes", "gauge", "Request bodies that wait to be complete or decided.")
LOOP_LAG = Series("epp_event_loop_lag_seconds", "histogram", "How late the event loop was.", (), LAG_SECONDS)
