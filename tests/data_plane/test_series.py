"""What Prometheus is told of real requests: as many as there were, timed, and with the usage that the servers reported."""

import asyncio
from random import Random

from epp.standalone import launcher
from epp.testing.load_client import LoadClient
from epp.testing.stack import MODEL, Fleet, Gateway
from epp.testing.workload import one_system_prompt, paced
from tests.data_plane.rig import APPROXIMATE, eventually

REQUEST = f'model_name="{MODEL}"'


def values(gateway: Gateway) -> dict[str, float]:
    """Every series of the page, by name and labels."""
    status, page = launcher.fetch("127.0.0.1", gateway.admin_port, "/metrics")
    assert status == 200
    pairs = (line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def total(series: dict[str, float], name: str, label: str = "") -> float:
    """The sum over the series of a metric that have a label."""
    return sum(value for key, value in series.items() if key.partition("{")[0] == name and label in key)


def test_requests_times_and_usage(tmp_path):
    traffic = paced(one_system_prompt(Random(3), 12, system=200, question=20, answer=6), 20.0)
    with Fleet(tmp_path / "fleet", 2, ["--time-scale", "0.1"]) as fleet, Gateway(fleet, APPROXIMATE, tmp_path / "gw") as gateway:
        results = asyncio.run(LoadClient(gateway.base, MODEL).run(traffic))
        eventually(lambda: total(values(gateway), "llm_d_epp_request_running") == 0, "all are over")
        series = values(gateway)
    assert not any(result.error for result in results)
    count = len(results)
    assert total(series, "llm_d_epp_request_total", REQUEST) == count
    assert total(series, "llm_d_epp_request_ttft_seconds_count", 'streaming="true"') == count
    assert 0 < total(series, "llm_d_epp_request_ttft_seconds_sum") < sum(result.ttft_s for result in results)
    assert total(series, "llm_d_epp_request_input_tokens_sum") == sum(result.prompt_tokens for result in results)
    assert total(series, "llm_d_epp_request_output_tokens_sum") == sum(result.completion_tokens for result in results)
    cached = sum(result.cached_tokens for result in results)
    assert total(series, "llm_d_epp_request_cached_tokens_sum") == cached > 0
    assert total(series, "epp_reported_cached_tokens_total") == cached
    assert total(series, "epp_predicted_cached_tokens_total", "approximate") > 0
    assert total(series, "epp_decisions_total") == count
    assert total(series, "epp_outcomes_total", 'end="complete"') == count
    assert total(series, "llm_d_epp_ready_endpoints") == 2
    assert total(series, "epp_event_loop_lag_seconds_count") > 0
