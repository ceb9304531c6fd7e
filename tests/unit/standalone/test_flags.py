"""Flags become options; what follows two dashes is the picker's."""

import argparse
from pathlib import Path

import pytest

from epp.standalone.flags import StandaloneOptions, add_standalone_flags, read_standalone_flags
from epp.standalone.options import Mode


def parsed(*arguments: str) -> StandaloneOptions:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_standalone_flags(parser)
    return read_standalone_flags(parser.parse_args(arguments))


def test_defaults_are_those_of_the_options():
    assert parsed() == StandaloneOptions()


def test_every_flag_has_its_option():
    options = parsed(
        *["--pool-file", "pool.yaml", "--config-file", "picker.yaml", "--host", "0.0.0.0", "--port", "80"],
        *["--admin-port", "9901", "--metrics-port", "9091", "--mode", "lean", "--fail-open", "--concurrency", "4"],
        *["--envoy", "/opt/envoy", "--access-log", "--drain-timeout-s", "2.5", "--", "-v", "4"],
    )
    assert options == StandaloneOptions(
        pool_file=Path("pool.yaml"),
        config_file=Path("picker.yaml"),
        host="0.0.0.0",
        port=80,
        admin_port=9901,
        metrics_port=9091,
        mode=Mode.LEAN,
        fail_open=True,
        concurrency=4,
        envoy=Path("/opt/envoy"),
        access_log=True,
        drain_timeout_s=2.5,
        serve_flags=("-v", "4"),
    )


def test_an_unknown_mode_is_refused():
    with pytest.raises(argparse.ArgumentError, match="full-duplex"):
        parsed("--mode", "half-duplex")


@pytest.mark.parametrize("flag", ["--port", "--admin-port", "--metrics-port"])
@pytest.mark.parametrize("text", ["99999", "-5", "8080 ", "٨٠٨٠", "9" * 5000])
def test_a_port_that_is_none_is_refused(flag, text):
    with pytest.raises(argparse.ArgumentError, match=f"argument {flag}: '{text}' is not a port"):
        parsed(flag, text)
