import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from epp.prefix.accurate import Accurate
from epp.prefix.approximate import Approximate
from epp.prefix.blocks import Blocks
from epp.prefix.chain import Chain
from epp.telemetry import series
from epp.telemetry.state_metrics import ConfigState, Sources, members, take
from epp.testing.builders import build_endpoint, build_request, build_snapshot
from epp.tokenizer import TokenizerCounts


class Page(CollectorRegistry):
    def __init__(self, sources: Sources) -> None:
        super().__init__()
        self._sources = sources

    def collect(self):
        return (one.family() for one in take(self._sources))

    def values(self, name: str, label: str = "") -> dict[str, float] | float:
        families = text_string_to_metric_families(generate_latest(self).decode())
        found = {s.labels.get(label, ""): s.value for family in families for s in family.samples if s.name == name}
        return found if label else found[""]


def build_page(**columns) -> Page:
    snapshot = build_snapshot(3, **columns)
    return Page(Sources(snapshot=lambda: snapshot, clock=lambda: 1000.0, pool_name="pool"))


def test_averages_are_over_fresh_endpoints():
    page = build_page(waiting=[2, 4, 900], running=[1, 1, 900], kv_usage=[0.5, 0.7, 0.9], scraped_s=[999.9, 998.5, -np.inf])
    assert page.values("llm_d_epp_ready_endpoints") == 2
    assert page.values("epp_endpoints") == 3
    assert page.values("llm_d_epp_average_queue_size") == 3
    assert page.values("llm_d_epp_std_dev_queue_size") == 1
    assert page.values("llm_d_epp_average_running_requests") == 1
    assert page.values("llm_d_epp_average_kv_cache_utilization") == pytest.approx(0.6)


def test_saturation_is_the_director_s():
    snapshot = build_snapshot(1)
    page = Page(Sources(snapshot=lambda: snapshot, clock=lambda: 0.0, saturation=lambda: 1.25))
    assert page.values("epp_pool_saturation") == 1.25


def test_an_empty_pool_has_no_ready_endpoint_and_no_load():
    page = Page(Sources(snapshot=lambda: build_snapshot(0), clock=lambda: 0.0))
    assert page.values("llm_d_epp_ready_endpoints") == 0
    assert page.values("llm_d_epp_average_queue_size") == 0


def test_endpoints_by_name():
    page = build_page(waiting=[2, 0, 5], requests=[1, 2, 3])
    assert page.values("llm_d_epp_per_endpoint_queue_size", "model_server_endpoint") == {
        "default/server-0": 2,
        "default/server-1": 0,
        "default/server-2": 5,
    }
    assert page.values("epp_endpoint_requests", "model_server_endpoint")["default/server-2"] == 3


def test_a_chain_shows_its_members_their_health_and_what_came_of_asking():
    accurate, approximate = Accurate(), Approximate(Blocks())
    accurate.feed.attach(0, build_endpoint(0), replayable=True)
    chain = Chain([accurate, approximate])
    snapshot, request = build_snapshot(2), build_request(b"word " * 500)
    keys = chain.prepare(request)
    chain.match(keys, request, snapshot, snapshot.slots)
    chain.record(keys, request, snapshot, 1, 0.0)
    page = Page(Sources(snapshot=lambda: snapshot, clock=lambda: 0.0, strategies=lambda: [chain]))
    assert members([chain]) == [accurate, approximate]
    families = {family.name: family for family in page.collect()}
    conditions = {(s.labels["strategy"], s.labels["condition"]) for s in families["epp_strategy_condition"].samples if s.value == 1}
    assert conditions == {("chain", "degraded"), ("accurate", "unavailable"), ("approximate", "healthy")}
    asked = {(s.labels["strategy"], s.labels["verdict"]): s.value for s in families["epp_strategy_asked"].samples}
    assert asked == {("accurate", "unavailable"): 1, ("approximate", "nothing-known"): 1}
    assert page.values("epp_index_entries", "strategy")["approximate"] > 0
    assert page.values("epp_index_bytes", "strategy")["approximate"] > 0
    assert set(page.values("epp_kv_blocks", "model_server_endpoint")) == {"default/server-0"}
    assert page.values("epp_kv_standing", "standing") == {"exact": 0, "recovering": 1, "degraded": 0}
    events = page.values("epp_kv_events_total", "event")
    assert {"orphans", "gaps", "stored", "removed", "batches"} <= set(events)
    assert not any(events.values())


def test_no_label_of_ours_is_one_that_prometheus_sets():
    """The Prometheus Operator names targets by these; a series' own then becomes `exported_...`. The reference's names stay."""
    ours = [one for one in vars(series).values() if isinstance(one, series.Series) and one.name.startswith("epp_")]
    assert len(ours) > 30
    set_by_prometheus = {"container", "endpoint", "instance", "job", "namespace", "node", "pod", "service"}
    assert [one.name for one in ours if set_by_prometheus & set(one.labels)] == []


def test_two_strategies_of_one_name_do_not_spoil_the_page():
    page = Page(
        Sources(
            snapshot=lambda: build_snapshot(1), clock=lambda: 0.0, strategies=lambda: [Approximate(Blocks()), Approximate(Blocks())]
        )
    )
    samples = [s for family in page.collect() for s in family.samples]
    assert len({(s.name, tuple(s.labels.items())) for s in samples}) == len(samples)


def test_configuration_errors_and_build():
    page = Page(
        Sources(
            snapshot=lambda: build_snapshot(0),
            clock=lambda: 0.0,
            bodies_held=lambda: 77,
            config=lambda: ConfigState(hash="abc", generation=3, last_success_s=5.5, failures=4, up_to_date=False, parked=2),
            poll_errors=lambda: {"timeout": 2, "refused": 5},
            untokenized=lambda: TokenizerCounts(late=3, too_long=1).without,
            build={"commit": "c0ffee", "build_ref": "v1"},
        )
    )
    assert page.values("epp_config_info", "hash") == {"abc": 1}
    assert page.values("epp_config_generation") == 3
    assert page.values("epp_config_last_success_timestamp_seconds") == 5.5
    assert page.values("epp_config_last_failure_timestamp_seconds") == 0
    assert page.values("epp_config_failures_total") == 4
    assert page.values("epp_config_up_to_date") == 0
    assert page.values("epp_config_on_trial") == 0
    assert page.values("epp_parked_strategies") == 2
    assert page.values("epp_request_bodies_held_bytes") == 77
    assert page.values("llm_d_epp_datalayer_poll_errors_total", "source_type") == {"metrics-data-source": 7}
    assert page.values("epp_scrape_errors_total", "cause") == {"timeout": 2, "refused": 5}
    assert page.values("epp_untokenized_prompts_total", "reason") == {"queue-full": 0, "too-long": 1, "late": 3, "failed": 0}
    assert page.values("llm_d_epp_info", "commit") == {"c0ffee": 1}
