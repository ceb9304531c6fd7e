"""Servers, each started once and only when a test asks for it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from epp.transport.tls import self_signed
from tests.transport.server import KINDS
from tests.unit.transport.streams import DEADLINE_S

ROOT = Path(__file__).parents[2]


class Server:
    """A running `tests.transport.server`."""

    def __init__(self, kind: str, certificate: Path | None = None) -> None:
        """Start it, with TLS if there is a certificate, a file called tls.crt beside its key."""
        self.certificate = certificate
        program = [sys.executable, "-m", "tests.transport.server", kind, *([str(certificate.parent)] if certificate else [])]
        self._process = subprocess.Popen(program, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self._process.stdout.readline())
        self.address = f"localhost:{self.port}"

    def counts(self) -> tuple[int, int]:
        """How many streams have begun, and how many ended."""
        return self._ask("counts")

    def serve(self, serving: bool) -> None:
        """Have the health service say so from now on."""
        self._ask("serving" if serving else "not-serving")

    def _ask(self, wish: str) -> tuple[int, int]:
        self._process.stdin.write(f"{wish}\n")
        self._process.stdin.flush()
        begun, ended = json.loads(self._process.stdout.readline())
        return begun, ended

    def stop(self) -> int:
        self._process.stdin.close()
        self._process.stdout.close()
        return self._process.wait(DEADLINE_S)


@contextmanager
def running(kind: str, certificate: Path | None = None) -> Iterator[Server]:
    server = Server(kind, certificate)
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a certificate for localhost, with its key beside it."""
    directory = tmp_path_factory.mktemp("certificate")
    pem, key = self_signed()
    (directory / "tls.crt").write_bytes(pem)
    (directory / "tls.key").write_bytes(key)
    return directory / "tls.crt"


@pytest.fixture(scope="session", params=KINDS)
def any_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Each transport, in plaintext, the native one on both event loops."""
    with running(request.param) as server:
        yield server


@pytest.fixture(scope="session", params=["plaintext", "tls"])
def native(request: pytest.FixtureRequest) -> Iterator[Server]:
    """The native transport."""
    with running("native", request.getfixturevalue("certificate") if request.param == "tls" else None) as server:
        yield server
