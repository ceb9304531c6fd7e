"""The flags of serve: the reference's names, values in the spellings its deployments use."""

import argparse

import pytest

from epp.errors import ConfigError
from epp.flags import ServeOptions, add_serve_flags, parse_duration, parse_size, read_serve_flags


def read(*argv):
    parser = argparse.ArgumentParser()
    add_serve_flags(parser)
    return read_serve_flags(parser.parse_args(argv))


def test_the_defaults_are_the_references():
    options = read()
    assert (options.grpc_port, options.grpc_health_port, options.metrics_port) == (9002, 9003, 9090)
    assert options.secure_serving
    assert (options.drain_timeout_s, options.refresh_metrics_interval_s) == (30.0, 0.05)
    assert options == ServeOptions()


@pytest.mark.parametrize(("argv", "expected"), [
    ([], True),
    (["--secure-serving"], True),
    (["--secure-serving=false"], False),
    (["--secure-serving", "false"], False),
    (["--secure-serving=0"], False),
    (["--secure-serving", "true"], True),
])  # fmt: skip
def test_booleans_in_all_spellings(argv, expected):
    assert read(*argv).secure_serving is expected


@pytest.mark.parametrize("argv", [["-v=3"], ["-v", "3"], ["--v=3"], ["--v", "3"]])
def test_verbosity_in_all_spellings(argv):
    assert read(*argv).verbosity == 3


@pytest.mark.parametrize(("text", "seconds"), [("50ms", 0.05), ("30s", 30), ("1m30s", 90), ("2", 2), ("1.5h", 5400), ("0", 0)])
def test_durations(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(("text", "size"), [("10MiB", 10 << 20), ("25MB", 25_000_000), ("4194304", 4 << 20), ("", -1), ("-1", -1)])
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "argv",
    [
        ["--drain-timeout=soon"],
        ["--grpc-port=70000"],
        ["--grpc-port=http"],
        ["--secure-serving=maybe"],
        ["--grpc-max-recv-msg-size=big"],
        ["--no-such-flag"],
    ],
)
def test_nonsense_is_refused(argv):
    with pytest.raises(SystemExit) as caught:
        read(*argv)
    assert caught.value.code == 2


def test_scraping_is_never_faster_than_the_floor():
    assert read("--refresh-metrics-interval=1ms").refresh_metrics_interval_s == 0.05


def test_two_configurations_are_one_too_many(tmp_path):
    with pytest.raises(ConfigError, match="exclude each other"):
        read("--config-file", str(tmp_path / "picker.yaml"), "--config-text", "{}")


def test_a_deployment_of_the_reference_starts_and_is_told_what_has_no_effect():
    options = read(
        "--pool-name=primary", "--pool-namespace", "default", "--zap-encoder", "json", "--grpc-port", "9002",
        "--ha-enable-leader-election", "--metrics-endpoint-auth=false", "--tracing=false",
    )  # fmt: skip
    assert options.ignored == ("tracing", "zap-encoder")
    assert options.leader_election
    assert (options.pool_name, options.pool_namespace) == ("primary", "default")
    assert options.pool_group == "inference.networking.k8s.io"


@pytest.mark.parametrize(("argv", "expected"), [
    ([], True),
    (["--metrics-endpoint-auth"], True),
    (["--metrics-endpoint-auth=true"], True),
    (["--metrics-endpoint-auth=false"], False),
])  # fmt: skip
def test_who_reads_the_metrics_shows_a_token_unless_told_otherwise(argv, expected):
    options = read("--pool-name=a", *argv)
    assert (options.metrics_endpoint_auth, options.ignored) == (expected, ())


def test_there_is_nobody_to_show_a_token_to_and_no_lease_beside_a_list_of_endpoints():
    options = read("--metrics-endpoint-auth=true", "--ha-enable-leader-election=false")
    assert options.ignored == ("ha-enable-leader-election", "metrics-endpoint-auth")


def test_the_metrics_port_has_tls_of_its_own(tmp_path):
    options = read("--metrics-cert-dir", str(tmp_path), "--metrics-client-ca-file", str(tmp_path / "ca.crt"))
    assert (options.metrics_cert_dir, options.metrics_client_ca_file) == (tmp_path, tmp_path / "ca.crt")
    assert options.ignored == ()
    with pytest.raises(ConfigError, match="wants --metrics-cert-dir"):
        read("--metrics-client-ca-file", str(tmp_path / "ca.crt"))


def test_a_pool_of_the_older_group():
    assert read("--pool-name=a", "--pool-group=inference.networking.x-k8s.io").pool_group == "inference.networking.x-k8s.io"


@pytest.mark.parametrize(
    "ports", [("--endpoint-target-ports=8000,8001",), ("--endpoint-target-ports=8000", "--endpoint-target-ports=8001")]
)
def test_pods_by_their_labels(ports):
    options = read("--endpoint-selector=app=vllm,llm-d.ai/role=", *ports)
    assert options.endpoint_selector == {"app": "vllm", "llm-d.ai/role": ""}
    assert options.endpoint_target_ports == (8000, 8001)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--pool-name=a", "--endpoint-selector=app=a", "--endpoint-target-ports=1"], "exclude each other"),
        (["--endpoint-selector=app=a"], "wants --endpoint-target-ports"),
        (["--endpoint-selector=app=a", "--endpoint-target-ports=1,2,3,4,5,6,7,8,9"], "1 to 8"),
        (["--endpoint-selector=app=a", "--endpoint-target-ports=1,1"], "names a port twice"),
        (["--pool-name=a", "--endpoint-target-ports=8000"], "belongs to --endpoint-selector"),
    ],
)
def test_endpoints_are_named_in_one_way(argv, said):
    with pytest.raises(ConfigError, match=said):
        read(*argv)


@pytest.mark.parametrize(
    "argv",
    [
        ["--endpoint-selector=app"],
        ["--endpoint-selector=app in (a)"],
        ["--endpoint-selector=app=a,app=b"],
        ["--endpoint-selector=-app=a"],
        ["--endpoint-selector=app=a b"],
        ["--endpoint-selector="],
        ["--endpoint-selector=app=a", "--endpoint-target-ports=0"],
        ["--endpoint-selector=app=a", "--endpoint-target-ports=http"],
        ["--endpoint-selector=app=a", "--endpoint-target-ports=65536"],
        ["--pool-name=../pods"],
        ["--pool-name=a", "--pool-namespace=A"],
        ["--pool-name=a", "--pool-group=example.com"],
    ],
)
def test_what_kubernetes_would_not_take_is_refused(argv):
    with pytest.raises(SystemExit) as caught:
        read(*argv)
    assert caught.value.code == 2


@pytest.mark.parametrize("name", ["native", "grpcio"])
def test_the_transport_is_chosen_by_name(name):
    assert read("--transport", name).transport == name


def test_no_other_transport_is_known(capsys):
    with pytest.raises(SystemExit):
        read("--transport", "carrier-pigeon")
    assert "carrier-pigeon" in capsys.readouterr().err
