"""The Grafana dashboard of the chart, from a table of panels; `hack/render_manifests.py` writes it.

Every series named here has to exist: tests/chart holds the table against the page of a running picker.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

SELECTOR = '{namespace="$namespace",job="$job"}'
WINDOW = "[$__rate_interval]"
COLUMNS, WIDTH, HEIGHT = 3, 8, 7


@dataclass(frozen=True)
class Panel:
    """A graph."""

    title: str
    unit: str
    """Grafana's name of it."""
    lines: Sequence[tuple[str, str]]
    """Expression, with a bare series name in it for each series, and legend."""
    description: str = ""


def rate(series: str, *by: str) -> str:
    """Per second, summed up."""
    return f"sum by ({', '.join(by)}) (rate({series}{SELECTOR}{WINDOW}))"


def quantile(share: float, series: str) -> str:
    """Of a histogram."""
    return f"histogram_quantile({share}, {rate(f'{series}_bucket', 'le')})"


def quantiles(series: str) -> Sequence[tuple[str, str]]:
    """The median and the worst in a hundred."""
    return (quantile(0.5, series), "median"), (quantile(0.99, series), "99 %")


def last(series: str, *by: str) -> str:
    """A gauge as it is, the largest of all pickers."""
    return f"max by ({', '.join(by)}) ({series}{SELECTOR})"


NOT_HEALTHY = f'max by (strategy, condition) (epp_strategy_condition{SELECTOR[:-1]},condition!="healthy"}})'

ROWS: Sequence[tuple[str, Sequence[Panel]]] = (
    (
        "Requests",
        (
            Panel(
                "Requests",
                "reqps",
                [(rate("llm_d_epp_request_total", "target_model_name"), "{{target_model_name}}")],
                "Given an endpoint.",
            ),
            Panel(
                "Answered with an error",
                "reqps",
                [
                    (rate("llm_d_epp_request_error_total", "error_code"), "{{error_code}}"),
                    (rate("epp_requests_failed_total"), "failed"),
                ],
                "Here or there. Failed are those that were neither shed nor at fault themselves.",
            ),
            Panel(
                "Answered by the picker itself",
                "reqps",
                [(rate("epp_rejections_total", "status", "reason"), "{{status}} {{reason}}")],
                "No endpoint, too many requests, or not understood.",
            ),
            Panel("Time to first token", "s", quantiles("llm_d_epp_request_ttft_seconds"), "From the decision."),
            Panel("Time per token after it", "s", quantiles("llm_d_epp_request_streaming_tpot_seconds")),
            Panel("Whole response", "s", quantiles("llm_d_epp_request_duration_seconds")),
        ),
    ),
    (
        "Cache",
        (
            Panel(
                "Prompt tokens found cached",
                "percentunit",
                [
                    (
                        f"{rate('epp_reported_cached_tokens_total')} / {rate('epp_compared_prompt_tokens_total')}",
                        "as the servers report",
                    ),
                    (f"{rate('epp_predicted_cached_tokens_total')} / {rate('epp_compared_prompt_tokens_total')}", "as believed"),
                ],
                "Far apart: another tokenizer than the servers', or traffic that passes by the picker.",
            ),
            Panel("Decisions by strategy", "reqps", [(rate("epp_decisions_total", "strategy"), "{{strategy}}")]),
            Panel(
                "Strategies that cannot answer fully",
                "short",
                [
                    (
                        NOT_HEALTHY,
                        "{{strategy}} {{condition}}",
                    )
                ],
            ),
            Panel("Memory of what is known", "bytes", [(last("epp_index_bytes", "strategy"), "{{strategy}}")]),
            Panel("Events of the engines", "ops", [(rate("epp_kv_events_total", "event"), "{{event}}")]),
            Panel(
                "Age of events on arrival",
                "s",
                [(last("epp_kv_lag_seconds", "model_server_endpoint"), "{{model_server_endpoint}}")],
            ),
        ),
    ),
    (
        "Pool",
        (
            Panel(
                "Endpoints",
                "short",
                [(last("epp_endpoints"), "may be picked"), (last("llm_d_epp_ready_endpoints"), "report")],
            ),
            Panel(
                "Requests in flight",
                "short",
                [(last("epp_endpoint_requests", "model_server_endpoint"), "{{model_server_endpoint}}")],
            ),
            Panel(
                "Requests queued in the engine",
                "short",
                [(last("llm_d_epp_per_endpoint_queue_size", "model_server_endpoint"), "{{model_server_endpoint}}")],
            ),
            Panel(
                "Prompt tokens ahead",
                "short",
                [(last("epp_endpoint_backlog_tokens", "model_server_endpoint"), "{{model_server_endpoint}}")],
                "Not cached, first token not come.",
            ),
            Panel("KV cache in use", "percentunit", [(last("llm_d_epp_average_kv_cache_utilization"), "mean")]),
            Panel(
                "Age of scraped values",
                "s",
                [(last("epp_endpoint_scrape_age_seconds", "model_server_endpoint"), "{{model_server_endpoint}}")],
            ),
        ),
    ),
    (
        "Picker",
        (
            Panel(
                "Body to decision",
                "s",
                quantiles("llm_d_epp_request_processing_duration_seconds"),
                "What the picker adds to a request.",
            ),
            Panel("Lateness of the event loop", "s", quantiles("epp_event_loop_lag_seconds"), "What every request waits for."),
            Panel(
                "Configuration",
                "short",
                [
                    (last("epp_config_generation"), "generation"),
                    (last("epp_config_up_to_date"), "newest in force"),
                    (last("epp_config_on_trial"), "on trial"),
                    (last("epp_config_pinned"), "pinned"),
                ],
            ),
            Panel("Cannot follow in Kubernetes", "short", [(last("epp_kube_failing", "resource"), "{{resource}}")]),
            Panel("Leaders", "short", [(f"sum(epp_leader{SELECTOR})", "leaders")], "One, where one is elected."),
            Panel("Pages that could not be read", "ops", [(rate("epp_scrape_errors_total", "cause"), "{{cause}}")]),
        ),
    ),
)


def _variable(name: str, label: str, query: str) -> dict[str, object]:
    """A choice at the top of the dashboard, of the values of a label."""
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {"name": name, "label": label, "type": "query", "datasource": source, "query": query, "refresh": 2, "sort": 1}


def _graph(panel: Panel, number: int, x: int, y: int) -> dict[str, object]:
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": {"h": HEIGHT, "w": WIDTH, "x": x, "y": y},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": [
            {"refId": chr(ord("A") + place), "expr": expression, "legendFormat": legend}
            for place, (expression, legend) in enumerate(panel.lines)
        ],
    }


def render() -> str:
    """The dashboard, as JSON."""
    panels: list[dict[str, object]] = []
    y = 0
    for title, row in ROWS:
        place = {"h": 1, "w": COLUMNS * WIDTH, "x": 0, "y": y}
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []})
        y += 1
        for place_in_row, panel in enumerate(row):
            down, right = divmod(place_in_row, COLUMNS)
            panels.append(_graph(panel, len(panels) + 1, right * WIDTH, y + down * HEIGHT))
        y += -(-len(row) // COLUMNS) * HEIGHT
    board = {
        "title": "Endpoint picker",
        "uid": "epp",
        "tags": ["inference"],
        "timezone": "browser",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
                _variable("namespace", "Namespace", "label_values(epp_endpoints, namespace)"),
                _variable("job", "Picker", 'label_values(epp_endpoints{namespace="$namespace"}, job)'),
            ]
        },
        "panels": panels,
    }
    return json.dumps(board, indent=1, ensure_ascii=False) + "\n"
