"""grpc-go: its own client of the interoperability tests, and one that does what Go gateways do."""

import subprocess
from pathlib import Path

import pytest

from tests.transport.conftest import Server
from tests.transport.tools import bring
from tests.transport.waiting import eventually

INTEROP = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "unimplemented_method",
    "unimplemented_service",
    "rpc_soak",
]
CASES = ["ping-pong", "large", "half-close", "cancel", "deadline", "many", "unimplemented", "keepalive"]
CASE_S = 60
READY, NOT_READY = "READY\n", "TRANSIENT_FAILURE\n"


@pytest.fixture(scope="session")
def programs() -> Path:
    return bring("grpc_go.sh")


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=CASE_S, check=False)
    assert done.returncode == 0, done.stderr


def trust(server: Server) -> list[str]:
    return ["-ca", str(server.certificate)] if server.certificate else []


@pytest.mark.parametrize("case", INTEROP)
def test_its_interoperability_tests(programs, any_server, case):
    run(programs / "interop", "--server_host=localhost", f"--server_port={any_server.port}", f"--test_case={case}",
        "--soak_iterations=100")  # fmt: skip
    eventually(lambda: len(set(any_server.counts())) == 1)


@pytest.mark.parametrize("case", CASES)
def test_what_gateways_do(programs, native, case):
    run(programs / "client", *trust(native), native.address, case)
    eventually(lambda: len(set(native.counts())) == 1)


def test_a_channel_heeds_the_health_service(programs, native):
    command = [programs / "client", *trust(native), native.address, "health"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
        states = []
        for serving in (False, True, True):
            states.append(client.stdout.readline())
            native.serve(serving)
            client.stdin.write("\n")
            client.stdin.flush()
        _, why = client.communicate(timeout=CASE_S)
    assert states == [READY, NOT_READY, READY], why
    assert client.returncode == 0, why
