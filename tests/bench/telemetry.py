"""What being observed costs a request: series, ring and log, each beside the library calls it would otherwise be made of."""

import io
import logging
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from epp.model.decision import Decision, Outcome, ScoreSheet, ScoreStep, Usage
from epp.telemetry import logs
from epp.telemetry.metrics import Metrics
from epp.telemetry.sheets import DecisionRing
from epp.testing.builders import build_endpoint, build_match, build_request, build_snapshot
from tests.bench.frame import Row, cpu_us, show

CALL_US_MAX = 10.0
LABELS = ("model_name", "target_model_name", "fairness_id", "priority")


def build_decision(prompt_bytes: int, endpoints: int) -> Decision:
    """Return a decision as a profile of three scorers leaves it."""
    snapshot = build_snapshot([build_endpoint(i, address=f"10.0.{i // 250}.{i % 250 + 1}") for i in range(endpoints)])
    zeros = snapshot.columns.waiting
    steps = [ScoreStep(name=f"scorer-{i}", weight=1.0, slots=snapshot.slots, values=zeros) for i in range(3)]
    sheet = ScoreSheet(
        profile="default",
        slots=snapshot.slots,
        totals=zeros,
        endpoints=snapshot.endpoints,
        candidates=snapshot.slots,
        scores=steps,
        match=build_match([0.0] * endpoints, 512),
    )
    endpoint = snapshot.endpoints[1]
    assert endpoint is not None
    return Decision(request=build_request(bytes(prompt_bytes)), endpoint=endpoint, slot=1, sheet=sheet, at_s=time.monotonic())


def library_calls() -> Callable[[], None]:
    """Return a request's worth of prometheus-client calls: ten histograms and six counters, children already looked up."""
    registry = CollectorRegistry()
    values = ("tiny", "tiny", "default-flow", "0")
    histograms = [Histogram(f"h{i}", "floor", LABELS, registry=registry).labels(*values) for i in range(10)]
    counters = [Counter(f"c{i}", "floor", LABELS, registry=registry).labels(*values) for i in range(6)]

    def count() -> None:
        for histogram in histograms:
            histogram.observe(0.3)
        for counter in counters:
            counter.inc()

    return count


def measure(quick: bool) -> list[Row]:
    """Return the rows of this bench."""
    number = 200 if quick else 10_000
    small, large, wide = build_decision(2_000, 10), build_decision(200_000, 10), build_decision(2_000, 1000)
    outcome = Outcome(end="complete", status=200, usage=Usage(prompt_tokens=500, completion_tokens=50, cached_tokens=100))
    metrics, ring = Metrics(time.monotonic), DecisionRing(time.time)

    def series() -> None:
        metrics.decided(small, duration_s=1e-4, body_bytes=2000)
        metrics.finished(small, outcome, ttft_s=0.1, duration_s=1.0)

    floor = cpu_us(library_calls(), number=number)
    rows = [
        Row(
            name="series of a request, both calls",
            value=cpu_us(series, number=number),
            floor=floor,
            floor_name="prometheus-client",
            target=CALL_US_MAX,
        )
    ]
    for name, decision in (("2 kB", small), ("200 kB", large), ("2 kB, 1000 endpoints", wide)):
        cost = cpu_us(lambda one=decision: ring.decided(one, duration_s=1e-4, body_bytes=2000), number=number)  # type: ignore[misc]
        rows.append(Row(name=f"ring, {name}", value=cost, floor=floor, floor_name="prometheus-client"))
    rows += [log_row(small, level, number) for level in (logging.INFO, logging.WARNING)]
    return [*rows, page_row(quick)]


def log_row(decision: Decision, level: int, number: int) -> Row:
    """Return the cost of a decision's log line, formatting and writing included, or of not writing it."""
    undo = logs.configure(verbosity=2 if level == logging.INFO else 0, stream=io.StringIO())
    (handler,), lines = logging.getLogger().handlers, 100
    log, plain = logs.DecisionLog(), logging.getLogger("floor")

    def batch(line: Callable[[], None]) -> Callable[[], None]:
        def write() -> None:
            for _ in range(lines):
                line()
            handler.flush()

        return write

    try:
        ours, floor = batch(lambda: log.decided(decision, duration_s=1e-4, body_bytes=2000)), batch(lambda: plain.info("decided"))
        cost, least = (cpu_us(work, number=max(1, number // lines)) / lines for work in (ours, floor))
    finally:
        undo()
    return Row(name=f"log line at {logging.getLevelName(level)}", value=cost, floor=least, floor_name="logging.info, no fields")


def page_row(quick: bool) -> Row:
    """Return the milliseconds a metrics page of 200 models takes, off the event loop."""
    metrics = Metrics(time.monotonic)
    for i in range(10 if quick else 200):
        request = build_request(b"x", model=f"model-{i}")
        decision = build_decision(10, 10)
        decision = Decision(request=request, endpoint=decision.endpoint, slot=1, sheet=decision.sheet)
        metrics.decided(decision, duration_s=1e-4, body_bytes=10)
        metrics.finished(decision, Outcome(end="complete", status=200), ttft_s=0.1, duration_s=1.0)
    registry = CollectorRegistry()
    registry.register(metrics)
    return Row(name="metrics page, 200 models", value=cpu_us(lambda: generate_latest(registry), number=1) / 1e3, unit="ms")


if __name__ == "__main__":
    print(show("telemetry", measure(quick=False)))
