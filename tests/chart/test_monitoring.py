"""Alerts and dashboard: Prometheus understands them, they fire when they should, and every series in them exists."""

import json
import re
import subprocess
from collections.abc import Mapping, Sequence

import pytest
import yaml

from tests.chart.installed import ask
from tests.chart.rendered import CHART, ISSUED, NAME, NAMESPACE
from tests.data_plane.clients import request

RULES = ("metrics.prometheusRule.enabled=true", "replicas=2")
"""With a leader, so that the alert about it is there."""
SERIES = re.compile(r"\b(?:llm_d_)?epp_\w+")
OURS = f'job="{NAME}",namespace="{NAMESPACE}"'
MINUTES = 120
WELL: Mapping[str, str] = {
    "epp_endpoints": "3+0x",
    "llm_d_epp_request_total": "0+600x",
    "epp_config_up_to_date": "1+0x",
    'epp_config_info{hash="a"}': "1+0x",
    'epp_strategy_condition{strategy="approximate",condition="healthy"}': "1+0x",
    'epp_strategy_condition{strategy="approximate",condition="unavailable"}': "0+0x",
    "epp_predicted_cached_tokens_total": "0+500x",
    "epp_reported_cached_tokens_total": "0+550x",
    "epp_compared_prompt_tokens_total": "0+1000x",
    'epp_kube_failing{resource="pods"}': "0+0x",
    "epp_endpoint_scrape_age_seconds": "0.1+0x",
    'epp_event_loop_lag_seconds_bucket{le="0.01"}': "0+1000x",
    'epp_event_loop_lag_seconds_bucket{le="0.1"}': "0+1000x",
    'epp_event_loop_lag_seconds_bucket{le="+Inf"}': "0+1000x",
    'epp_leader{pod="a"}': "1+0x",
    'epp_leader{pod="b"}': "0+0x",
}
"""A picker that is well: series -> values a minute, in promtool's form without the number of them."""
WRONG: Mapping[str, Mapping[str, str]] = {
    "EndpointPickerAway": {"epp_endpoints": "_x"},
    "EndpointPickerWithoutEndpoints": {"epp_endpoints": "0+0x"},
    "EndpointPickerRequestsFail": {'llm_d_epp_request_error_total{error_code="x"}': "0+60x"},
    "EndpointPickerRefuses": {'epp_rejections_total{status="429",reason="x"}': "0+60x"},
    "EndpointPickerConfigurationRefused": {"epp_config_up_to_date": "0+0x"},
    "EndpointPickerConfigurationsDiffer": {'epp_config_info{hash="b"}': "1+0x"},
    "EndpointPickerStrategyUnavailable": {'epp_strategy_condition{strategy="approximate",condition="unavailable"}': "1+0x"},
    "EndpointPickerBelievesWrongly": {"epp_reported_cached_tokens_total": "0+100x"},
    "EndpointPickerBehind": {'epp_kube_failing{resource="pods"}': "1+0x"},
    "EndpointPickerBlindToLoad": {"epp_endpoint_scrape_age_seconds": "300+0x"},
    "EndpointPickerSlow": {'epp_event_loop_lag_seconds_bucket{le="0.01"}': "0+900x"},
    "EndpointPickerLeaders": {'epp_leader{pod="a"}': "0+0x"},
}
"""What makes each alert fire, put in the place of what is well."""


def groups(chart) -> Sequence[Mapping]:
    return chart.render(*RULES).one("PrometheusRule")["spec"]["groups"]


def panels() -> list[dict]:
    board = json.loads((CHART / "files" / "dashboard.json").read_text())
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def expressions(chart) -> list[str]:
    """All of the alerts and of the dashboard."""
    alerts = [rule["expr"] for group in groups(chart) for rule in group["rules"]]
    return [*alerts, *(target["expr"] for panel in panels() for target in panel["targets"])]


def run(promtool: str, *arguments: str) -> str:
    done = subprocess.run([promtool, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_understands_the_alerts(chart, promtool, tmp_path):
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": groups(chart)}))
    assert f"{len(WRONG)} rules found" in run(promtool, "check", "rules", str(file))


def test_prometheus_understands_the_dashboard(promtool, tmp_path):
    """As recording rules, with values where Grafana has variables."""
    variables = {"$namespace": NAMESPACE, "$job": NAME, "$__rate_interval": "5m"}
    rules = []
    for panel in panels():
        for place, target in enumerate(panel["targets"]):
            expression = target["expr"]
            for name, value in variables.items():
                expression = expression.replace(name, value)
            rules.append({"record": f"panel:{panel['id']}:{place}", "expr": expression})
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    run(promtool, "check", "rules", str(file))


def of_this_release(series: str) -> str:
    """A series with the labels that a monitor gives it."""
    return f"{series[:-1]},{OURS}}}" if series.endswith("}") else f"{series}{{{OURS}}}"


def scenario(wrong: Mapping[str, str], fires: str) -> dict:
    """What promtool is to check: that after two hours of this, exactly this alert fires; empty: none."""
    series = [{"series": of_this_release(name), "values": f"{values}{MINUTES}"} for name, values in {**WELL, **wrong}.items()]
    samples = [{"labels": f'{{alertname="{fires}"}}', "value": 1}] if fires else []
    query = 'count by (alertname) (ALERTS{alertstate="firing"}) >= bool 1'
    check = {"expr": query, "eval_time": f"{MINUTES}m", "exp_samples": samples}
    return {"interval": "1m", "input_series": series, "promql_expr_test": [check]}


@pytest.mark.parametrize("alert", ["", *WRONG])
def test_an_alert_fires_when_it_should_and_no_other_does(chart, promtool, tmp_path, alert):
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups(chart)}))
    test = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [scenario(WRONG.get(alert, {}), alert)]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    run(promtool, "test", "rules", str(tmp_path / "test.yaml"))


def test_each_alert_says_what_and_what_to_look_at(chart):
    for group in groups(chart):
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in {"critical", "warning"}
            assert NAME in rule["annotations"]["summary"], rule["alert"]
            assert rule["annotations"]["description"]


def test_no_alert_of_a_leader_where_none_is_elected(chart):
    rules = chart.render("metrics.prometheusRule.enabled=true").one("PrometheusRule")["spec"]["groups"][0]["rules"]
    assert [rule["alert"] for rule in rules] == list(WRONG)[:-1]


@pytest.mark.parametrize(
    ("values", "selector"),
    [
        ((), OURS),
        (("metrics.serviceMonitor.enabled=true",), OURS),
        (("metrics.podMonitor.enabled=true",), f'job="{NAMESPACE}/{NAME}"'),
        (('metrics.prometheusRule.selector=job="x"',), 'job="x"'),
    ],
)
def test_alerts_are_of_this_release(chart, values, selector):
    for group in chart.render("metrics.prometheusRule.enabled=true", *values).one("PrometheusRule")["spec"]["groups"]:
        for rule in group["rules"]:
            assert f"{{{selector}" in rule["expr"]


def test_monitors(chart):
    token = "metrics.authentication.tokenSecret.name=reader"
    for kind, switch, endpoints in (
        ("ServiceMonitor", "serviceMonitor", "endpoints"),
        ("PodMonitor", "podMonitor", "podMetricsEndpoints"),
    ):
        rendered = chart.render(f"metrics.{switch}.enabled=true", f"metrics.{switch}.labels.release=prometheus", token)
        monitor = rendered.one(kind)
        assert monitor["metadata"]["labels"]["release"] == "prometheus"
        assert monitor["spec"]["selector"]["matchLabels"].items() <= rendered.one("Service")["metadata"]["labels"].items()
        (endpoint,) = monitor["spec"][endpoints]
        assert endpoint == {
            "port": "http-metrics",
            "path": "/metrics",
            "interval": "15s",
            "authorization": {"type": "Bearer", "credentials": {"name": "reader", "key": "token"}},
        }
        ports = {port["name"] for port in (*rendered.one("Service")["spec"]["ports"], *rendered.picker["ports"])}
        assert endpoint["port"] in ports


def test_the_dashboard_is_what_grafanas_sidecar_looks_for(chart):
    config_map = chart.render("metrics.dashboard.enabled=true", *ISSUED).named("ConfigMap", f"{NAME}-dashboard")
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
    ((file, text),) = config_map["data"].items()
    assert file == f"{NAME}.json"
    board = json.loads(text)
    assert {one["name"] for one in board["templating"]["list"]} == {"datasource", "namespace", "job"}
    places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
    assert len(set(places)) == len(places), "no panel lies on another"


def test_every_series_in_alerts_and_dashboard_exists(chart, release, rig):
    """Of a picker that leads, since the series about leading are there only where one is elected."""
    release.upgrade("replicas=2")
    with release.picker(rig) as picker, rig.gateway(picker) as gateway:
        assert ask(gateway).status == 200
        page = request(picker, "GET", "/metrics").body.decode()
        assert picker.metric("epp_leader") == 1
    known = {line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")}
    known |= {f"{name}{end}" for name in known for end in ("_bucket", "_sum", "_count")}
    named = {name for one in expressions(chart) for name in SERIES.findall(one)}
    assert len(named) > 30
    assert named <= known
