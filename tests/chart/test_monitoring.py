"""Alerts and dashboard: Prometheus understands them, they fire when they should, and every series in them exists."""

import json
import re
import subprocess
from collections.abc import Mapping, Sequence

import pytest
import yaml

from epp.errors import BadRequest, NoEndpoint, Overloaded
from epp.telemetry.metrics import Metrics
from tests.chart.installed import ask
from tests.chart.rendered import CHART, ISSUED, NAME, NAMESPACE
from tests.data_plane.clients import request
from tests.unit.telemetry.facts import build_decision, build_outcome, build_rejected

RULES = ("metrics.prometheusRule.enabled=true", "replicas=2")
"""With a leader, so that the alert about it is there."""
SERIES = re.compile(r"\b(?:llm_d_)?epp_\w+")
OURS = f'job="{NAME}",namespace="{NAMESPACE}"'
MINUTES = 120
REQUESTS = re.compile(r"(llm_d_)?epp_(request|requests|request_error|requests_failed|rejections)_total")
REFUSALS = {
    "shed": (build_rejected(priority=-1), Overloaded("full", reason="rejected-saturated")),
    "full": (build_rejected(), Overloaded("full", reason="rejected-saturated")),
    "nobody": (build_rejected(), NoEndpoint("none", reason="rejected-no-endpoints")),
    "misread": (build_rejected(), BadRequest("no JSON")),
}


def traffic(**requests: int) -> Mapping[str, str]:
    """What a real picker counts of so many requests a minute: answered with a status, as in `s200=600`, or refused by itself."""
    metrics = Metrics(lambda: 100.0)
    for how, number in requests.items():
        for _ in range(number):
            if how in REFUSALS:
                metrics.rejected(*REFUSALS[how])
            else:
                metrics.decided(decision := build_decision(), duration_s=0.0003, body_bytes=2000)
                metrics.finished(decision, build_outcome(status=int(how[1:])), ttft_s=0.1, duration_s=1.0)
    minute = {}
    for one in (sample for family in metrics.collect() for sample in family.samples if REQUESTS.fullmatch(sample.name)):
        labels = ",".join(f'{name}="{value}"' for name, value in one.labels.items())
        minute[f"{one.name}{{{labels}}}" if labels else one.name] = f"0+{one.value:.0f}x"
    return minute


WELL: Mapping[str, str] = {
    "epp_endpoints": "3+0x",
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
"""A picker that is well: series -> values a minute, in promtool's form without the number of them. Requests come on top."""
USUAL = traffic(s200=600)
WRONG: Mapping[str, Mapping[str, str]] = {
    "EndpointPickerAway": {"epp_endpoints": "_x"},
    "EndpointPickerWithoutEndpoints": {"epp_endpoints": "0+0x"},
    "EndpointPickerRequestsFail": traffic(s200=540, s500=60),
    "EndpointPickerRefuses": traffic(s200=540, shed=60),
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


def scenario(minute: Mapping[str, str], *fire: str) -> dict:
    """What promtool is to check: that after two hours of such minutes exactly these alerts fire."""
    series = [{"series": of_this_release(name), "values": f"{values}{MINUTES}"} for name, values in minute.items()]
    samples = [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in fire]
    query = 'count by (alertname) (ALERTS{alertstate="firing"}) >= bool 1'
    check = {"expr": query, "eval_time": f"{MINUTES}m", "exp_samples": samples}
    return {"interval": "1m", "input_series": series, "promql_expr_test": [check]}


@pytest.fixture
def holds(chart, promtool, tmp_path):
    """Have promtool check a scenario."""
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups(chart)}))

    def check(scenario: dict) -> None:
        test = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [scenario]}
        (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
        run(promtool, "test", "rules", str(tmp_path / "test.yaml"))

    return check


@pytest.mark.parametrize("alert", ["", *WRONG])
def test_an_alert_fires_when_it_should_and_no_other_does(holds, alert):
    holds(scenario({**WELL, **USUAL, **WRONG.get(alert, {})}, *filter(None, [alert])))


@pytest.mark.parametrize(
    ("requests", "fire"),
    [
        ({"s200": 540, "misread": 60}, ()),
        ({"s200": 540, "s404": 60}, ()),
        ({"shed": 600}, ("EndpointPickerRefuses",)),
        ({"s200": 540, "full": 60}, ("EndpointPickerRefuses", "EndpointPickerRequestsFail")),
        ({"nobody": 600}, ("EndpointPickerRefuses", "EndpointPickerRequestsFail")),
        ({"s503": 600}, ("EndpointPickerRequestsFail",)),
        ({}, ()),
    ],
    ids=str,
)
def test_alerts_by_what_becomes_of_requests_since_the_start(holds, requests, fire):
    """What clients get wrong is no failure, nor what is shed because it may be; where none was given an endpoint it shows."""
    holds(scenario({**WELL, **traffic(**requests)}, *fire))


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


def own_board(chart, release: str, namespace: str = NAMESPACE, *values: str) -> dict:
    """The dashboard of a release, and what its variables begin with."""
    rendered = chart.render("metrics.dashboard.enabled=true", *values, more=("--namespace", namespace), release=release)
    board = json.loads(rendered.named("ConfigMap", f"{release}-dashboard")["data"][f"{release}.json"])
    assert board["panels"] == json.loads((CHART / "files" / "dashboard.json").read_text())["panels"]
    begin = {one["name"]: one["current"]["value"] for one in board["templating"]["list"] if "current" in one}
    return {"uid": board["uid"], "title": board["title"], **begin}


def test_dashboards_of_several_releases_stand_side_by_side(chart):
    """Grafana takes one of each uid, of at most 40 characters, and one of each title in a folder."""
    one, other, elsewhere = own_board(chart, "a-epp"), own_board(chart, "b-epp"), own_board(chart, "a-epp", "elsewhere")
    assert len({board["uid"] for board in (one, other, elsewhere)}) == 3
    assert re.fullmatch("[0-9a-f]{1,40}", one["uid"])
    assert one | {"uid": ""} == {"uid": "", "title": f"Endpoint picker {NAMESPACE}/a-epp", "namespace": NAMESPACE, "job": "a-epp"}
    assert other["title"] == f"Endpoint picker {NAMESPACE}/b-epp"
    assert elsewhere["title"] == "Endpoint picker elsewhere/a-epp"
    by_pods = own_board(chart, "a-epp", NAMESPACE, "metrics.podMonitor.enabled=true")
    assert by_pods == one | {"job": f"{NAMESPACE}/a-epp"}, "the same one, on series of another job"


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
