"""The command line before an admin port, through real HTTP."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ssl import SSLContext, VerifyMode

import msgspec
import pytest

from epp.admin.config_pages import ConfigPages
from epp.admin.remote import Report, _tls, history_lines, status_lines
from epp.admin.server import Admin
from epp.cli import main
from epp.transport.tls import page_context, self_signed
from tests.unit.admin.test_server import World

REPORT = {
    "hash": "b2",
    "generation": 2,
    "source": "file /etc/epp/config.yaml",
    "cause": "rollback to generation 1",
    "since": "2026-01-01T00:00:00.000+00:00",
    "status": {
        "up_to_date": False,
        "pinned": True,
        "newest": {"hash": "c3", "source": "ConfigMap epp/config", "held": "another one is pinned"},
        "error": {"path": "strategy.chian", "message": "unknown field", "source": "file x", "at": "then"},
        "warnings": ["plugins[0]: is in no profile"],
        "trial": {"for_s": 60.0, "requests": 12, "error_ratio": 0.25},
    },
    "previous": [{"generation": 1, "hash": "a1", "source": "flags", "cause": "start", "since": "before"}],
}


@contextmanager
def serving(world: World, tls: SSLContext | None = None) -> Iterator[str]:
    """The admin port on another thread; yields its address."""
    loop, started = asyncio.new_event_loop(), threading.Event()
    admin = Admin(world.sources, world.metrics, world.ring, world.health, ConfigPages(world.history).routes())
    ports: list[int] = []

    def run() -> None:
        ports.append(loop.run_until_complete(admin.start("127.0.0.1", 0, tls=tls)))
        started.set()
        loop.run_forever()
        loop.run_until_complete(admin.stop())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait(5)
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{ports[0]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


@pytest.fixture
def world(monkeypatch) -> World:
    world = World()
    world.history.report = lambda: REPORT
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    return world


def test_status_says_all_that_stands_in_the_way():
    assert list(status_lines(msgspec.convert(REPORT, Report))) == [
        "generation 2 (b2) is in force since 2026-01-01T00:00:00.000+00:00",
        "  from file /etc/epp/config.yaml: rollback to generation 1",
        "pinned: nothing else goes in force until `epp config unpin`",
        "the newest, c3 from ConfigMap epp/config, stays out: another one is pinned",
        "refused at then, from file x: strategy.chian: unknown field",
        "on trial for 60 s: 12 requests, error ratio 0.25",
        "warning: plugins[0]: is in no profile",
    ]


def test_history_is_a_line_each():
    assert [line.split()[:2] for line in history_lines(msgspec.convert(REPORT, Report))] == [["2", "b2"], ["1", "a1"]]


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        (["status"], []),
        (["history"], []),
        (["rollback"], [("rollback", None)]),
        (["rollback", "1"], [("rollback", 1)]),
        (["pin"], [("pin",)]),
        (["unpin"], [("unpin",)]),
    ],
)
def test_what_is_asked_for_is_done_and_shown(world, capsys, command, asked):
    with serving(world) as admin:
        assert main(["config", *command, "--admin", admin]) == 0
    assert world.history.asked == asked
    assert "b2" in capsys.readouterr().out


def test_over_tls_with_whatever_certificate_on_localhost(world, tmp_path):
    for name, content in zip(("tls.crt", "tls.key"), self_signed(), strict=True):
        (tmp_path / name).write_bytes(content)
    with serving(world, page_context(tmp_path)) as admin:
        assert admin.startswith("https:")
        assert main(["config", "pin", "--admin", admin]) == 0
    assert world.history.asked == [("pin",)]


def test_elsewhere_a_certificate_is_checked():
    assert _tls("https://epp.models.svc:9090").verify_mode is VerifyMode.CERT_REQUIRED
    assert _tls("https://localhost.elsewhere.test:9090").check_hostname


def test_what_changed(world, capsys):
    with serving(world) as admin:
        assert main(["config", "diff", "1", "2", "--admin", admin]) == 0
    assert "+b: 2" in capsys.readouterr().out.splitlines()


def test_no_is_one_line(world, capsys):
    with serving(world) as admin:
        assert main(["config", "rollback", "9", "--admin", admin]) == 2
        assert main(["config", "diff", "7", "--admin", f"{admin}/"]) == 2
        assert main(["config", "status", "--admin", f"{admin}/nowhere"]) == 2
    assert main(["config", "status", "--admin", admin]) == 2
    assert main(["config", "status", "--admin", "localhost"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"epp: {admin}/config/rollback: strategy.chain: there is no other configuration to go back to",
        f"epp: {admin}/config/diff?from=7: generation 7 is not kept",
        f"epp: {admin}/nowhere/config: Not Found",
        f"epp: {admin}: no picker answers: [Errno 111] Connection refused",
        "epp: --admin: 'localhost' is not an address such as http://127.0.0.1:9090",
    ]


ADDRESSES = ["http://127.0.0.1:abc", "http://127.0.0.1:99999", "http://[::1", "http://local host", "http://", "https://ä.test"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_what_is_no_address_is_one_line(capsys, address):
    assert main(["config", "status", "--admin", address]) == 2
    assert capsys.readouterr().err == f"epp: --admin: {address!r} is not an address such as http://127.0.0.1:9090\n"


@pytest.mark.parametrize("content", [b"bin\xff\xfe\x00", b"two\nlines", "schlüssel".encode()])
def test_what_is_no_token_is_one_line_without_it(capsys, tmp_path, content):
    file = tmp_path / "token"
    file.write_bytes(content)
    assert main(["config", "status", "--token-file", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("epp: ")
    assert "lines" not in line


@pytest.mark.parametrize("report", [{}, {"status": "ok"}, {**REPORT, "status": None}, {**REPORT, "previous": [1]}])
def test_what_no_picker_says_is_one_line(world, capsys, report):
    world.history.report = lambda: report
    with serving(world) as admin:
        assert main(["config", "status", "--admin", admin]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"epp: {admin}/config: this is not what a picker answers: ")


@pytest.mark.parametrize("said", [b"[]", b"\xff", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", b""])
def test_who_speaks_something_else_is_one_line(capsys, said):
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer_once, args=(server, said))
        thread.start()
        assert main(["config", "status", "--admin", f"http://127.0.0.1:{server.getsockname()[1]}"]) == 2
        thread.join()
    (line,) = capsys.readouterr().err.splitlines()
    assert ": no picker answers: " in line


def answer_once(server: socket.socket, said: bytes) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(said)
