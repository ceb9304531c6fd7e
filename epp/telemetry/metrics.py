"""What the request path counts. One `Metrics` object is told of every decision and its end, and yields families when scraped.

The director calls it once or twice per request, so a call is a few dictionary look-ups and additions; label strings are made when a
combination is first seen. Values that clients choose are capped, or a client could make the page, and us, grow without end.

`collect` may run on another thread than the rest: it reads copies of the tables and plain numbers.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field

from prometheus_client.metrics_core import Metric

from epp.errors import NoEndpoint, Overloaded, RequestError
from epp.model.decision import Decision, Outcome
from epp.model.request import InferenceRequest, RequestHead
from epp.telemetry import series as s

LABEL_VALUES_MAX = 1000
"""Different model names (and fairness ids) that get a label of their own; as the reference."""
LABEL_SETS_MAX = 500
"""Different combinations of all labels of a request: clients choose them, and each is up to 20 kB of the metrics page."""
LABEL_CHARS_MAX = 256
ATTEMPTS_MAX = 10_000
"""Different (model, endpoint) pairs that are told apart."""
OTHER = "other"
FAIRNESS_HEADERS = ("x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id")
FAIRNESS_DEFAULT = "default-flow"

RequestKey = tuple[str, str, str, int]
"""Model, target model, fairness id, priority. Priorities are not capped: operators make them, not clients."""


class Cap:
    """Lets the first so many different values through; every other becomes `other`, for the life of the process."""

    def __init__(self, values_max: int) -> None:
        self._max = values_max
        self._seen: set[str] = set()

    def label(self, value: str) -> str:
        """Return `value` or `other`: when the cap is full, when it is too long, and when it could not be written as UTF-8."""
        if value in self._seen:
            return value
        if len(self._seen) >= self._max or len(value) > LABEL_CHARS_MAX or not value.isprintable():
            return OTHER
        self._seen.add(value)
        return value


@dataclass(slots=True)
class _Cells:
    """Everything that is counted for one combination of the request labels."""

    requests: int = 0
    running: int = 0
    request_bytes: s.Histogram = field(default_factory=s.REQUEST_BYTES.histogram)
    response_bytes: s.Histogram = field(default_factory=s.RESPONSE_BYTES.histogram)
    duration: s.Histogram = field(default_factory=s.DURATION.histogram)
    input_tokens: s.Histogram = field(default_factory=s.INPUT.histogram)
    output_tokens: s.Histogram = field(default_factory=s.OUTPUT.histogram)
    cached_tokens: s.Histogram = field(default_factory=s.CACHED.histogram)
    ntpot: s.Histogram = field(default_factory=s.NTPOT.histogram)
    tpot: s.Histogram = field(default_factory=s.TPOT.histogram)
    ttft_streaming: s.Histogram = field(default_factory=s.TTFT.histogram)
    ttft_whole: s.Histogram = field(default_factory=s.TTFT.histogram)


_CELL_SERIES: tuple[tuple[s.Series, str], ...] = (
    (s.REQUESTS, "requests"),
    (s.RUNNING, "running"),
    (s.REQUEST_BYTES, "request_bytes"),
    (s.RESPONSE_BYTES, "response_bytes"),
    (s.DURATION, "duration"),
    (s.INPUT, "input_tokens"),
    (s.OUTPUT, "output_tokens"),
    (s.CACHED, "cached_tokens"),
    (s.NTPOT, "ntpot"),
    (s.TPOT, "tpot"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What became of all requests so far; two of them make what became of those between."""

    requests: int = 0
    """Those that were given an endpoint and are over, and those that `is_failure` of ours."""
    failed: int = 0
    reports: int = 0
    """Requests whose server reported what it had cached."""
    prompt_tokens: int = 0
    """Of those."""
    cached_tokens: int = 0


def is_failure(how: Outcome | RequestError) -> bool:
    """Return whether a request failed by no fault of its own: a 5xx, no answer, or no endpoint for it."""
    if isinstance(how, RequestError):
        return how.status >= 500 or how.status == Overloaded.status
    return how.status >= 500 or how.end in {"local-reply", "error"}


class Metrics:
    """The series of the request path. An `Observer` of the director.

    Args:
        clock: monotonic seconds; the director's.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._models = Cap(LABEL_VALUES_MAX)
        self._flows = Cap(LABEL_VALUES_MAX)
        self._cells: dict[RequestKey, _Cells] = {}
        """By labels; a request whose own values are its labels finds its cells here at once."""
        self._errors: Counter[tuple[str, str, str, int, str]] = Counter()
        self._attempts: Counter[tuple[str, str, str, int]] = Counter()
        """By status, target model, endpoint name, port."""
        self._decisions: Counter[tuple[str, str]] = Counter()
        self._rewrites: Counter[tuple[str, str, str]] = Counter()
        """By rewrite, model, target model."""
        self._rejections: Counter[tuple[str, str]] = Counter()
        self._ends: Counter[str] = Counter()
        self._requests = 0
        """As `Totals` has them."""
        self._failed = 0
        self._compared: Counter[str] = Counter()
        self._predicted: Counter[str] = Counter()
        self._reported: Counter[str] = Counter()
        self._scheduler = s.SCHEDULER.histogram()
        self._processing = s.PROCESSING.histogram()
        self.loop_lag = s.LOOP_LAG.histogram()
        """Observed by `loop_lag.watch`."""

    def decided(self, decision: Decision, *, duration_s: float, body_bytes: int) -> None:
        """Count a request that was given an endpoint. `duration_s`: from the whole body to the decision."""
        request, endpoint = decision.request, decision.endpoint
        cells = self._cells_of(request)
        cells.requests += 1
        cells.running += 1
        cells.request_bytes.observe(body_bytes)
        self._processing.observe(duration_s)
        self._scheduler.observe(self._clock() - decision.at_s)
        self._attempt("success", request.target_model, endpoint.name, endpoint.port)
        match = decision.sheet.match
        reason = "nothing-known" if match is None or not match.source else "fallback" if match.passed_over else "preferred"
        self._decisions[decision.strategy or "none", reason] += 1
        if request.rewrite:
            self._rewritten(request)

    def rejected(self, request: InferenceRequest, error: RequestError) -> None:
        """Count a request that the picker answered itself; its model is empty when it could not be read."""
        self._error(request, error.code)
        self._rejections[str(error.status), error.reason or ""] += 1
        if request.priority >= 0 and is_failure(error):  # to shed what may be shed is none
            self._requests += 1
            self._failed += 1
        if isinstance(error, (NoEndpoint, Overloaded)):
            self._attempt("failure", request.target_model, "", 0)

    def finished(self, decision: Decision, outcome: Outcome, *, ttft_s: float | None, duration_s: float) -> None:
        """Count the end of a request that `decided` counted."""
        request = decision.request
        cells = self._cells_of(request)
        cells.running -= 1
        self._requests += 1
        self._failed += is_failure(outcome)
        self._ends[outcome.end] += 1
        if outcome.status >= 400 or outcome.end in {"local-reply", "error"}:
            code = "Internal" if outcome.end == "error" else "ModelServerError"
            self._error(request, code)
        if outcome.end == "released":
            return  # The answer was not seen: no duration, no size, no tokens.
        cells.duration.observe(duration_s)
        cells.response_bytes.observe(outcome.response_bytes)
        if ttft_s is not None:
            (cells.ttft_streaming if request.stream else cells.ttft_whole).observe(ttft_s)
        if outcome.usage is not None:
            self._used(decision, outcome, cells)
            generated = outcome.usage.completion_tokens or 0
            if generated:
                cells.ntpot.observe(duration_s / generated)
            if generated > 1 and ttft_s is not None and request.stream:
                cells.tpot.observe((duration_s - ttft_s) / (generated - 1))

    def _used(self, decision: Decision, outcome: Outcome, cells: _Cells) -> None:
        """Count reported tokens, and cached ones beside what was believed."""
        usage = outcome.usage
        if usage is None:
            return
        if usage.prompt_tokens is not None:
            cells.input_tokens.observe(usage.prompt_tokens)
        if usage.completion_tokens is not None:
            cells.output_tokens.observe(usage.completion_tokens)
        if usage.cached_tokens is not None:
            cells.cached_tokens.observe(usage.cached_tokens)
            strategy = decision.strategy or "none"
            self._compared[strategy] += usage.prompt_tokens or decision.prompt_tokens
            self._predicted[strategy] += round(decision.matched_tokens)
            self._reported[strategy] += usage.cached_tokens

    def _cells_of(self, request: InferenceRequest) -> _Cells:
        cells = self._cells.get((request.model, request.target_model, self._flow_value(request.head), request.head.priority))
        return cells if cells is not None else self._cells[self._labels(request)]

    def _labels(self, request: InferenceRequest) -> RequestKey:
        """Return the capped labels of a request, with cells for them in place."""
        labels = self._names(request)
        if labels not in self._cells:
            if len(self._cells) >= LABEL_SETS_MAX:
                labels = OTHER, OTHER, OTHER, request.priority
            self._cells.setdefault(labels, _Cells())
        return labels

    def _names(self, request: InferenceRequest) -> RequestKey:
        head = request.head
        return self._models.label(request.model), self._models.label(request.target_model), self._flow(head), head.priority

    def _error(self, request: InferenceRequest, code: str) -> None:
        key = (*self._names(request), code)
        full = key not in self._errors and len(self._errors) >= LABEL_SETS_MAX
        self._errors[(OTHER, OTHER, OTHER, request.priority, code) if full else key] += 1

    @staticmethod
    def _flow_value(head: RequestHead) -> str:
        return head.headers.get(FAIRNESS_HEADERS[0]) or head.headers.get(FAIRNESS_HEADERS[1]) or FAIRNESS_DEFAULT

    def _flow(self, head: RequestHead) -> str:
        return self._flows.label(self._flow_value(head))

    def _rewritten(self, request: InferenceRequest) -> None:
        key = request.rewrite, self._models.label(request.model), self._models.label(request.target_model)
        self._rewrites[key if key in self._rewrites or len(self._rewrites) < LABEL_SETS_MAX else (OTHER, OTHER, OTHER)] += 1

    def _attempt(self, status: str, model: str, endpoint: str, port: int) -> None:
        key = status, model, endpoint, port
        if key not in self._attempts:
            full = len(self._attempts) >= ATTEMPTS_MAX
            key = (status, OTHER, OTHER, 0) if full else (status, self._models.label(model), endpoint, port)
        self._attempts[key] += 1

    def keep_endpoints(self, names: Set[str]) -> None:
        """Drop what was counted for endpoints other than these; to be called when some have left the pool."""
        for key in [key for key in self._attempts if key[2] not in names and key[2] not in {"", OTHER}]:
            del self._attempts[key]

    def totals(self) -> Totals:
        """Return the sums over all requests. Cost: up to a millisecond, with thousands of label sets."""
        return Totals(
            requests=self._requests,
            failed=self._failed,
            reports=sum(sum(cells.cached_tokens.counts) for cells in self._cells.values()),
            prompt_tokens=sum(self._compared.values()),
            cached_tokens=sum(self._reported.values()),
        )

    def collect(self) -> Iterator[Metric]:
        """Yield all families."""
        yield from self._collect_requests()
        attempts = s.ATTEMPTS.family()
        for (status, model, endpoint, port), count in self._attempts.copy().items():
            namespace, _, name = endpoint.rpartition("/")
            s.ATTEMPTS.add(attempts, (status, model, name, namespace, str(port or "")), count)
        yield attempts
        tables: tuple[tuple[s.Series, Counter[str] | Counter[tuple[str, str]] | Counter[tuple[str, str, str]]], ...] = (
            (s.DECISIONS, self._decisions),
            (s.REWRITES, self._rewrites),
            (s.REJECTIONS, self._rejections),
            (s.OUTCOMES, self._ends),
            (s.COMPARED, self._compared),
            (s.PREDICTED, self._predicted),
            (s.REPORTED, self._reported),
        )
        for series, counts in tables:
            family = series.family()
            for key, count in counts.copy().items():
                series.add(family, (key,) if isinstance(key, str) else key, count)
            yield family
        for series, total in ((s.OVER, self._requests), (s.FAILED, self._failed)):  # from the start, so that there is a ratio
            family = series.family()
            series.add(family, (), total)
            yield family
        for series, histogram in (
            (s.SCHEDULER, self._scheduler),
            (s.PROCESSING, self._processing),
            (s.LOOP_LAG, self.loop_lag),
        ):
            family = series.family()
            series.add(family, (), histogram)
            yield family

    def _collect_requests(self) -> Iterator[Metric]:
        cells = self._cells.copy()
        for series, attribute in _CELL_SERIES:
            family = series.family()
            for labels, cell in cells.items():
                series.add(family, tuple(map(str, labels)), getattr(cell, attribute))
            yield family
        ttft = s.TTFT.family()
        for labels, cell in cells.items():
            s.TTFT.add(ttft, (*map(str, labels), "true"), cell.ttft_streaming)
            s.TTFT.add(ttft, (*map(str, labels), "false"), cell.ttft_whole)
        yield ttft
        errors = s.ERRORS.family()
        for key, count in self._errors.copy().items():
            s.ERRORS.add(errors, tuple(map(str, key)), count)
        yield errors
