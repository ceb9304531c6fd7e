"""The bootstrap is what Envoy accepts, in every mode, and says what the options say."""

import json
import subprocess
from pathlib import Path

import pytest

from epp.standalone.bootstrap import bootstrap
from epp.standalone.endpoints import endpoints_json, write
from epp.standalone.launcher import envoy_binary
from epp.standalone.messages import to_json
from epp.standalone.options import (
    CLIENT_MAY_NOT_SEND,
    EndpointFile,
    EndpointList,
    EnvoyOptions,
    Mode,
    OriginalDestination,
    PoolSource,
    SocketAddress,
)

MODES = {
    Mode.FULL_DUPLEX: ("FULL_DUPLEX_STREAMED", "FULL_DUPLEX_STREAMED", "SEND"),
    Mode.LEAN: ("FULL_DUPLEX_STREAMED", None, "SKIP"),
    Mode.BUFFERED: ("BUFFERED", None, "SKIP"),
    Mode.BUFFERED_BOTH: ("BUFFERED", "BUFFERED", "SKIP"),
    Mode.STREAMED: ("STREAMED", "STREAMED", "SEND"),
}


def options(**changes) -> EnvoyOptions:
    return EnvoyOptions(
        **{
            "listener": SocketAddress(port=0),
            "pickers": (SocketAddress(port=9002), SocketAddress(port=9012)),
            "pool": EndpointList(addresses=(SocketAddress(port=8000),)),
            **changes,
        }
    )


def built(**changes) -> dict:
    return json.loads(to_json(bootstrap(options(**changes))))


def manager(config: dict) -> dict:
    return config["staticResources"]["listeners"][0]["filterChains"][0]["filters"][0]["typedConfig"]


def http_filter(config: dict, name: str) -> dict:
    return next(f["typedConfig"] for f in manager(config)["httpFilters"] if f["name"] == f"envoy.filters.http.{name}")


def cluster(config: dict, name: str) -> dict:
    return next(one for one in config["staticResources"]["clusters"] if one["name"] == name)


def refusal(tmp_path: Path, of: EnvoyOptions) -> str:
    """What Envoy has against a bootstrap; empty when it accepts it."""
    config = tmp_path / "envoy.json"
    config.write_text(to_json(bootstrap(of)), encoding="utf-8")
    command = [str(envoy_binary()), "--mode", "validate", "--disable-hot-restart", "--config-path", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return done.stderr if done.returncode else ""


@pytest.mark.parametrize("mode", Mode)
def test_envoy_accepts_every_mode(tmp_path, mode):
    assert refusal(tmp_path, options(mode=mode)) == ""


@pytest.mark.parametrize("kind", ["file", "list", "original-destination"])
def test_envoy_accepts_every_source_of_endpoints(tmp_path, kind):
    file = tmp_path / "endpoints.json"
    write(file, endpoints_json([SocketAddress(port=8000), SocketAddress(host="fd00::1", port=8000)]))
    sources: dict[str, PoolSource] = {
        "file": EndpointFile(path=file),
        "list": EndpointList(addresses=(SocketAddress(host="::1", port=8000),)),
        "original-destination": OriginalDestination(),
    }
    assert refusal(tmp_path, options(pool=sources[kind])) == ""


def test_envoy_accepts_every_switch_thrown_the_other_way(tmp_path):
    hint = {"envoy.lb.subset_hint": {"x-gateway-destination-endpoint-subset": ["10.0.0.1:8000"]}}
    turned = options(picker_tls=False, fail_open=True, client_may_not_send=(), request_metadata=hint, access_log=True)
    assert refusal(tmp_path, turned) == ""


def test_envoy_refuses_what_is_wrong(tmp_path):
    """The check above can fail."""
    assert "port_value" in refusal(tmp_path, options(listener=SocketAddress(port=70_000)))


def test_mode_decides_what_passes_through_the_picker():
    for mode, (request, response, trailers) in MODES.items():
        processing = http_filter(built(mode=mode), "ext_proc")["processingMode"]
        assert (processing["requestBodyMode"], processing.get("responseBodyMode"), processing["responseTrailerMode"]) == (
            request,
            response,
            trailers,
        )
        assert processing["requestTrailerMode"] == "SEND"


def test_metadata_is_received_and_forwarded():
    metadata = http_filter(built(), "ext_proc")["metadataOptions"]
    assert metadata["receivingNamespaces"] == {"untyped": ["envoy.lb"]}
    assert metadata["forwardingNamespaces"] == {"untyped": ["envoy.lb", "envoy.lb.subset_hint"]}


def test_clients_cannot_choose_the_destination():
    mutation = manager(built())["earlyHeaderMutationExtensions"][0]["typedConfig"]
    assert [one["remove"] for one in mutation["mutations"]] == list(CLIENT_MAY_NOT_SEND)
    assert "earlyHeaderMutationExtensions" not in manager(built(client_may_not_send=()))


def test_picker_cluster_lists_every_process_and_notices_its_death():
    picker = cluster(built(), "picker")
    members = picker["loadAssignment"]["endpoints"][0]["lbEndpoints"]
    assert [m["endpoint"]["address"]["socketAddress"]["portValue"] for m in members] == [9002, 9012]
    assert picker["commonLbConfig"] == {"healthyPanicThreshold": {}}, "a threshold of 0, which JSON leaves out"
    assert picker["healthChecks"][0]["noTrafficInterval"] == picker["healthChecks"][0]["interval"] == "2s"
    assert picker["healthChecks"][0]["grpcHealthCheck"]["serviceName"] == "envoy.service.ext_proc.v3.ExternalProcessor"


def test_picker_tls_is_on_unless_switched_off(tmp_path):
    assert cluster(built(), "picker")["transportSocket"]["typedConfig"]["commonTlsContext"] == {"alpnProtocols": ["h2"]}
    assert "transportSocket" not in cluster(built(picker_tls=False), "picker")
    checked = cluster(built(picker_ca=tmp_path / "ca.crt"), "picker")["transportSocket"]["typedConfig"]["commonTlsContext"]
    assert checked["validationContext"] == {"trustedCa": {"filename": str(tmp_path / "ca.crt")}}


def test_both_clusters_take_more_streams_than_a_busy_hour_has():
    for name in ("picker", "pool"):
        (limits,) = cluster(built(), name)["circuitBreakers"]["thresholds"]
        assert set(limits.values()) == {40_000}


def test_pool_reads_metadata_first_then_the_header_and_reports_who_served():
    policy = cluster(built(), "pool")["loadBalancingPolicy"]["policies"][0]["typedExtensionConfig"]["typedConfig"]
    key = {"key": "envoy.lb", "path": [{"key": "x-gateway-destination-endpoint"}]}
    assert policy["overrideHostSources"] == [{"metadata": key}, {"header": "x-gateway-destination-endpoint"}]
    assert policy["selectedHostKey"]["path"] == [{"key": "x-gateway-destination-endpoint-served"}]


def test_buffered_modes_hold_a_whole_body():
    sizes = {mode: built(mode=mode)["staticResources"]["listeners"][0]["perConnectionBufferLimitBytes"] for mode in Mode}
    assert sizes[Mode.FULL_DUPLEX] == sizes[Mode.LEAN] == sizes[Mode.STREAMED] == 1 << 20
    assert sizes[Mode.BUFFERED] == sizes[Mode.BUFFERED_BOTH] == 64 << 20


def test_what_the_server_never_saw_is_tried_again_unless_it_announces_trailers():
    announced, other = manager(built())["routeConfig"]["virtualHosts"][0]["routes"]
    assert announced["match"]["headers"] == [{"name": "trailer", "presentMatch": True}]
    assert "retryPolicy" not in announced["route"]
    assert other["route"]["retryPolicy"] == {"retryOn": "connect-failure,refused-stream", "numRetries": 2}
    (only,) = manager(built(retries=0))["routeConfig"]["virtualHosts"][0]["routes"]
    assert "retryPolicy" not in only["route"]


def test_a_stream_that_cannot_be_opened_is_opened_at_another_picker():
    policy = http_filter(built(), "ext_proc")["grpcService"]["retryPolicy"]
    assert policy["retryOn"] == "connect-failure,refused-stream,reset-before-request", "nothing that a picker may have seen"
    assert policy["numRetries"] == 2
    assert policy["retryHostPredicate"][0]["name"] == "envoy.retry_host_predicates.previous_hosts"
    assert "retryPolicy" not in http_filter(built(picker_retries=0), "ext_proc")["grpcService"]
