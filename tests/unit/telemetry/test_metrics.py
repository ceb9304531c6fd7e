import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from epp.errors import BadRequest, NoEndpoint, Overloaded
from epp.telemetry import metrics as module
from epp.telemetry.metrics import Cap, Metrics
from epp.telemetry.series import Histogram
from tests.unit.telemetry.facts import build_decision, build_outcome, build_rejected


def page(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return the samples of the rendered page, by name and labels; the page must parse, and no sample be there twice."""
    registry = CollectorRegistry()
    registry.register(metrics)
    samples = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in samples
            samples[key] = sample.value
    return samples


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """Return the one sample of a name that has these labels, None when there is none."""
    found = [v for (n, ls), v in page(metrics).items() if n == name and set(labels.items()) <= set(ls)]
    assert len(found) <= 1
    return found[0] if found else None


def decide(metrics: Metrics, **changes) -> None:
    metrics.decided(build_decision(**changes), duration_s=0.0003, body_bytes=2000)


def test_a_decision_and_its_end_fill_the_references_series():
    metrics = Metrics(lambda: 100.0)
    decision = build_decision(request={"stream": True})
    metrics.decided(decision, duration_s=0.0003, body_bytes=2000)
    labels = {"model_name": "tiny", "target_model_name": "tiny", "fairness_id": "default-flow", "priority": "0"}
    assert value(metrics, "llm_d_epp_request_total", **labels) == 1
    assert value(metrics, "llm_d_epp_request_running", **labels) == 1
    metrics.finished(decision, build_outcome(), ttft_s=0.2, duration_s=1.2)
    assert value(metrics, "llm_d_epp_request_running", **labels) == 0
    sums = {
        "llm_d_epp_request_duration_seconds": 1.2,
        "llm_d_epp_request_size_bytes": 2000,
        "llm_d_epp_response_size_bytes": 5000,
        "llm_d_epp_request_input_tokens": 1000,
        "llm_d_epp_request_output_tokens": 11,
        "llm_d_epp_request_cached_tokens": 700,
        "llm_d_epp_request_ntpot_seconds": 1.2 / 11,
        "llm_d_epp_request_streaming_tpot_seconds": 0.1,
        "llm_d_epp_request_ttft_seconds": 0.2,
    }
    for name, expected in sums.items():
        assert value(metrics, f"{name}_sum", **labels) == pytest.approx(expected)
        assert value(metrics, f"{name}_count", **labels) == 1
    assert value(metrics, "llm_d_epp_request_ttft_seconds_sum", streaming="true") == pytest.approx(0.2)
    assert value(metrics, "llm_d_epp_scheduler_e2e_duration_seconds_sum") == pytest.approx(0.1)
    assert value(metrics, "llm_d_epp_request_processing_duration_seconds_sum") == pytest.approx(0.0003)
    attempt = {"status": "success", "endpoint_name": "server-1", "namespace": "default", "port": "8000"}
    assert value(metrics, "llm_d_epp_scheduler_attempts_total", target_model_name="tiny", **attempt) == 1


def test_belief_and_report_are_counted_over_the_same_requests():
    metrics = Metrics(lambda: 100.0)
    for outcome in (build_outcome(), build_outcome(usage=None)):
        decision = build_decision()
        metrics.decided(decision, duration_s=0.0, body_bytes=1)
        metrics.finished(decision, outcome, ttft_s=None, duration_s=1.0)
    assert value(metrics, "epp_compared_prompt_tokens_total", strategy="approximate") == 1000
    assert value(metrics, "epp_predicted_cached_tokens_total", strategy="approximate") == 768
    assert value(metrics, "epp_reported_cached_tokens_total", strategy="approximate") == 700


def test_decisions_say_which_strategy_knew_and_whether_it_was_the_first_asked():
    metrics = Metrics(lambda: 100.0)
    decide(metrics)
    decide(metrics, match=False)
    fallback = build_decision()
    fallback.sheet.match = replace(fallback.sheet.match, passed_over=["accurate: no endpoint reports its cache"])
    metrics.decided(fallback, duration_s=0.0, body_bytes=1)
    assert value(metrics, "epp_decisions_total", strategy="approximate", reason="preferred") == 1
    assert value(metrics, "epp_decisions_total", strategy="approximate", reason="fallback") == 1
    assert value(metrics, "epp_decisions_total", strategy="none", reason="nothing-known") == 1


def test_a_released_request_is_over_but_its_answer_unseen():
    metrics = Metrics(lambda: 100.0)
    decision = build_decision()
    metrics.decided(decision, duration_s=0.0, body_bytes=1)
    metrics.finished(decision, build_outcome(end="released", usage=None), ttft_s=None, duration_s=0.01)
    assert value(metrics, "llm_d_epp_request_running") == 0
    assert value(metrics, "llm_d_epp_request_duration_seconds_count") is None
    assert value(metrics, "epp_outcomes_total", end="released") == 1


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (build_outcome(status=500), "ModelServerError"),
        (build_outcome(status=429), "ModelServerError"),
        (build_outcome(end="local-reply", status=503), "ModelServerError"),
        (build_outcome(end="error", status=0), "Internal"),
        (build_outcome(), None),
        (build_outcome(end="client-gone"), None),
    ],
)
def test_ends_that_are_errors(outcome, code):
    metrics = Metrics(lambda: 100.0)
    decision = build_decision()
    metrics.decided(decision, duration_s=0.0, body_bytes=1)
    metrics.finished(decision, outcome, ttft_s=None, duration_s=1.0)
    assert value(metrics, "llm_d_epp_request_error_total", model_name="tiny") == (1 if code else None)
    assert value(metrics, "llm_d_epp_request_error_total", error_code=code or "") == (1 if code else None)


def test_rejections():
    metrics = Metrics(lambda: 100.0)
    for error in (BadRequest("no"), NoEndpoint("none", reason="rejected-no-endpoints"), Overloaded("full")):
        metrics.rejected(build_rejected(), error)
    assert value(metrics, "llm_d_epp_request_error_total", error_code="BadRequest") == 1
    assert value(metrics, "epp_rejections_total", status="503", reason="rejected-no-endpoints") == 1
    assert value(metrics, "llm_d_epp_scheduler_attempts_total", status="failure", target_model_name="tiny") == 2
    for code in ("BadRequest", "ServiceUnavailable", "ResourceExhausted"):
        named = {"model_name": "tiny", "target_model_name": "tiny", "error_code": code}
        assert value(metrics, "llm_d_epp_request_error_total", **named) == 1
    assert value(metrics, "llm_d_epp_request_total", model_name="tiny") is None


def test_failures_are_of_those_that_could_have_been_answered():
    def counted() -> tuple[float | None, float | None]:
        return value(metrics, "epp_requests_total"), value(metrics, "epp_requests_failed_total")

    metrics = Metrics(lambda: 100.0)
    assert counted() == (0, 0), "there before the first request"
    for status in (200, 404, 429, 500, 503):
        decision = build_decision()
        metrics.decided(decision, duration_s=0.0, body_bytes=1)
        metrics.finished(decision, build_outcome(status=status), ttft_s=None, duration_s=1.0)
    assert counted() == (5, 2)
    metrics.rejected(build_rejected(), BadRequest("no"))
    metrics.rejected(build_rejected(priority=-1), Overloaded("full"))
    assert counted() == (5, 2)
    metrics.rejected(build_rejected(), Overloaded("full"))
    metrics.rejected(build_rejected(), NoEndpoint("none"))
    assert counted() == (7, 4)
    assert (metrics.totals().requests, metrics.totals().failed) == (7, 4)


def test_names_that_clients_choose_are_capped(monkeypatch):
    monkeypatch.setattr(module, "LABEL_VALUES_MAX", 3)
    metrics = Metrics(lambda: 100.0)
    decisions = [build_decision(model=f"m{i}", headers={"x-llm-d-inference-fairness-id": f"f{i % 2}"}) for i in range(10)]
    for decision in decisions:
        metrics.decided(decision, duration_s=0.0, body_bytes=1)
    models = {dict(labels)["model_name"]: v for (name, labels), v in page(metrics).items() if name == "llm_d_epp_request_total"}
    assert set(models) == {"m0", "m1", "m2", "other"}
    for decision in decisions:
        metrics.finished(decision, build_outcome(), ttft_s=None, duration_s=1.0)
    running = [v for (name, _), v in page(metrics).items() if name == "llm_d_epp_request_running"]
    assert running
    assert not any(running), "what went up under a label comes down under the same"


def test_combinations_and_attempts_are_capped_too(monkeypatch):
    monkeypatch.setattr(module, "LABEL_SETS_MAX", 5)
    monkeypatch.setattr(module, "ATTEMPTS_MAX", 5)
    metrics = Metrics(lambda: 100.0)
    for i in range(50):
        decision = build_decision(model=f"m{i % 10}", headers={"x-gateway-inference-fairness-id": f"f{i}"})
        metrics.decided(decision, duration_s=0.0, body_bytes=1)
    samples = page(metrics)
    for name in ("llm_d_epp_request_total", "llm_d_epp_scheduler_attempts_total"):
        counts = [v for (n, _), v in samples.items() if n == name]
        assert sum(counts) == 50
        assert len(counts) == 6


def test_priorities_are_told_apart():
    metrics = Metrics(lambda: 100.0)
    for priority in (-1, -1, 7):
        decision = build_decision(priority=priority)
        metrics.decided(decision, duration_s=0.0, body_bytes=1)
        metrics.finished(decision, build_outcome(status=500), ttft_s=0.1, duration_s=1.0)
    metrics.rejected(build_rejected(priority=-1), Overloaded("full", reason="rejected-saturated"))
    for name in ("request_total", "request_duration_seconds_count", "request_ttft_seconds_count", "request_error_total"):
        of = {"error_code": "ModelServerError"} if name == "request_error_total" else {}
        assert value(metrics, f"llm_d_epp_{name}", model_name="tiny", priority="-1", **of) == 2
        assert value(metrics, f"llm_d_epp_{name}", model_name="tiny", priority="7", **of) == 1
    assert value(metrics, "llm_d_epp_request_error_total", error_code="ResourceExhausted", priority="-1") == 1
    assert not any(v for (name, _), v in page(metrics).items() if name == "llm_d_epp_request_running")


def test_what_rules_decide_is_counted(monkeypatch):
    metrics = Metrics(lambda: 100.0)
    decide(metrics)
    for target in ("v1", "v2", "v2"):
        decide(metrics, request={"rewrite": "canary", "target_model": target})
    labels = {"model_rewrite_name": "canary", "model_name": "tiny"}
    assert value(metrics, "llm_d_epp_model_rewrite_decisions_total", **labels, target_model="v1") == 1
    assert value(metrics, "llm_d_epp_model_rewrite_decisions_total", **labels, target_model="v2") == 2
    monkeypatch.setattr(module, "LABEL_SETS_MAX", 2)
    for target in ("v2", "v3", "v4"):
        decide(metrics, request={"rewrite": "canary", "target_model": target})
    assert value(metrics, "llm_d_epp_model_rewrite_decisions_total", **labels, target_model="v2") == 3
    assert value(metrics, "llm_d_epp_model_rewrite_decisions_total", model_rewrite_name="other", target_model="other") == 2


@pytest.mark.parametrize("name", ["x" * 300, "line\nbreak", "\ud800 half a character", "\x00"])
def test_a_name_that_would_break_the_page_is_other(name):
    metrics = Metrics(lambda: 100.0)
    decide(metrics, model=name)
    assert value(metrics, "llm_d_epp_request_total", model_name="other") == 1


def test_endpoints_that_left_take_their_series_along():
    metrics = Metrics(lambda: 100.0)
    for chosen in (1, 2):
        decide(metrics, chosen=chosen)
    metrics.rejected(build_rejected(), NoEndpoint("none"))
    metrics.keep_endpoints({"default/server-2"})
    names = {dict(labels)["endpoint_name"] for (name, labels) in page(metrics) if name == "llm_d_epp_scheduler_attempts_total"}
    assert names == {"server-2", ""}


def test_a_page_can_be_rendered_while_requests_are_counted():
    metrics, failures = Metrics(lambda: 100.0), []
    done = threading.Event()

    def scrape() -> None:
        try:
            while not done.is_set():
                page(metrics)
        except Exception as error:  # noqa: BLE001 - of another thread, so it would be lost
            failures.append(error)

    thread = threading.Thread(target=scrape)
    thread.start()
    for i in range(500):
        decide(metrics, model=f"m{i}")
    done.set()
    thread.join()
    assert not failures


@given(st.lists(st.floats(0, 1e6), max_size=50), st.lists(st.floats(0.001, 1e5), min_size=1, max_size=10, unique=True))
def test_a_bucket_counts_what_is_at_most_its_bound(values, bounds):
    bounds.sort()
    histogram = Histogram(bounds)
    for one in values:
        histogram.observe(one)
    expected = [sum(one <= bound for one in values) for bound in (*bounds, float("inf"))]
    assert [count for _, count in histogram.buckets()] == expected
    assert histogram.total == pytest.approx(sum(values))


@settings(max_examples=50)
@given(st.lists(st.text(max_size=5)))
def test_a_cap_is_stable_and_bounded(values):
    cap = Cap(3)
    first = {one: cap.label(one) for one in values}
    assert all(cap.label(one) == label for one, label in first.items() if label != "other")
    assert len(set(first.values()) - {"other"}) <= 3
