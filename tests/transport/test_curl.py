"""curl, which knows HTTP/2 and nothing of gRPC: by prior knowledge, and over TLS where the two sides agree on it."""

import subprocess
from pathlib import Path

import pytest

from epp.transport.routes import PROCESS_METHOD
from tests.transport.conftest import Server
from tests.transport.tools import installed
from tests.unit.transport.raw import framed

GRPC = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
MESSAGES = b"".join(framed(bytes([size % 251]) * size) for size in (0, 1, 20_000, 1_000_000))


class Curl:
    """Asks a server; what came back is in `headers`, trailers included, `body` and `version`."""

    def __init__(self, server: Server, directory: Path, *arguments: str, path: str = PROCESS_METHOD) -> None:
        if server.certificate:
            url, how = f"https://{server.address}{path}", ["--http2", "--cacert", str(server.certificate)]
        else:
            url, how = f"http://{server.address}{path}", ["--http2-prior-knowledge"]
        files = ["-D", directory / "headers", "-o", directory / "body", "-w", "%{http_version}"]
        command = [installed("curl"), "-sS", "-m", "30", "--noproxy", "*", *how, *files, *arguments, url]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        self.exit_status, self.version = done.returncode, done.stdout
        if self.exit_status == 0:
            self.headers = (directory / "headers").read_text().splitlines()
            self.body = (directory / "body").read_bytes()


def test_a_call(native, tmp_path):
    (tmp_path / "messages").write_bytes(MESSAGES)
    curl = Curl(native, tmp_path, *GRPC, "--data-binary", f"@{tmp_path / 'messages'}")
    assert curl.exit_status == 0
    assert curl.version == "2"
    assert curl.headers[0].strip() == "HTTP/2 200"
    assert curl.body == MESSAGES
    assert "grpc-status: 0" in curl.headers


def test_an_upload_larger_than_every_window(native, tmp_path):
    (tmp_path / "messages").write_bytes(framed(bytes(15_000_000)) * 2)
    curl = Curl(native, tmp_path, *GRPC, "-T", str(tmp_path / "messages"), "-X", "POST")
    assert curl.exit_status == 0
    assert curl.body == (tmp_path / "messages").read_bytes()


def test_what_is_not_grpc(native, tmp_path):
    curl = Curl(native, tmp_path, path="/")
    assert curl.exit_status == 0
    assert curl.headers[0].strip() == "HTTP/2 415"
    assert curl.body == b"this port speaks gRPC\n"


def test_an_unknown_method(native, tmp_path):
    curl = Curl(native, tmp_path, *GRPC, "--data-binary", "", path="/no.such.Service/Method")
    assert curl.exit_status == 0
    assert "grpc-status: 12" in curl.headers


@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
def test_an_older_http_is_turned_away(native, tmp_path, version):
    assert Curl(native, tmp_path, version).exit_status != 0
