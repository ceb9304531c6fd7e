"""The demo itself, as a newcomer runs it: real Envoy, real picker, stand-ins, all in processes of their own."""

import json
import re
import shlex
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

ROW = re.compile(
    r"^ *(random|consistent-hash|approximate|accurate) +(\d+) +([\d.]+)% +[\d.]+ ms +[\d.]+ ms +([\d.]+) +[\d.]+ ms *$"
)
CHILDREN = ("epp.testing.model_server", "-m epp serve", "envoy --config-path")


def demo(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "epp", "demo", *arguments]


def processes() -> list[tuple[int, str]]:
    """The parent and the command line of everything that runs here."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
            found.append((parent, (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()))
        except OSError:  # ended while we looked
            continue
    return found


def children_of(pid: int) -> list[str]:
    """Command lines of the processes that a process has started."""
    return [command for parent, command in processes() if parent == pid]


def everything_running() -> list[str]:
    return [command for _, command in processes()]


def test_all_strategies_in_one_go_with_reasons_and_without_a_prompt():
    done = subprocess.run(demo("--seconds", "3", "--rate", "8"), check=False, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {found[1]: found for line in done.stdout.splitlines() if (found := ROW.match(line))}
    assert list(rows) == ["random", "consistent-hash", "approximate", "accurate"], done.stdout
    assert all(int(row[2]) > 15 for row in rows.values())
    cached = {name: float(row[3]) for name, row in rows.items()}
    assert min(cached["approximate"], cached["accurate"]) > cached["random"]
    assert re.search(
        r"^  prompt [0-9a-f]{12} -> demo/server-\d: accurate holds [1-9]\d* of its \d+ tokens", done.stdout, re.MULTILINE
    )
    assert "helpful AI writer" not in done.stdout
    assert "\x1b" not in done.stdout


@contextmanager
def kept():
    """The demo with `--keep`, and its lines up to the curl line."""
    command = demo("--keep", "--strategies", "accurate", "--endpoints", "2", "--seconds", "1")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        watchdog = threading.Timer(100, process.kill)
        watchdog.start()
        try:
            lines = []
            for line in process.stdout:
                lines.append(line.rstrip("\n"))
                if line.startswith("curl"):
                    break
            yield process, lines
        finally:
            watchdog.cancel()
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_keep_prints_a_curl_line_that_works_until_it_is_stopped(number):
    with kept() as (process, lines):
        answer = subprocess.run(shlex.split(lines[-1]), check=False, capture_output=True, text=True, timeout=20)
        body = json.loads(answer.stdout)
        assert body["choices"][0]["message"]["content"], answer.stdout
        pages = re.findall(r"http://[\d.]+:\d+/(?:decisions|pool|metrics)", "\n".join(lines))
        assert len(pages) == 3
        for page in pages:
            assert subprocess.run(["curl", "-sf", page], check=False, capture_output=True, timeout=20).returncode == 0, page
        running = children_of(process.pid)
        assert [sum(part in command for command in running) for part in CHILDREN] == [2, 1, 1], running
        process.send_signal(number)
        assert process.wait(20) == 130, process.stderr.read()
    assert not set(running) & set(everything_running())


def test_ctrl_c_in_the_middle_of_the_traffic_stops_everything():
    with subprocess.Popen(
        demo("--strategies", "random", "--seconds", "60"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        watchdog = threading.Timer(100, process.kill)
        watchdog.start()
        try:
            while not process.stdout.readline().startswith(b"random"):
                pass
            running = children_of(process.pid)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
            assert process.stderr.read() == b""
        finally:
            watchdog.cancel()
            process.kill()
    assert len(running) == 5
    assert not set(running) & set(everything_running())


def test_a_component_that_cannot_start_is_shown_with_its_log(tmp_path):
    """A stand-in that does not know its flags: argparse says so, and the demo passes it on."""
    broken = (
        "import sys, epp.cli, epp.demo.run as demo; demo.SERVER_ARGUMENTS = ('--no-such-flag',); sys.exit(epp.cli.main(['demo']))"
    )
    done = subprocess.run([sys.executable, "-c", broken], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "server-0 ended with code 2" in done.stderr
    assert "--no-such-flag" in done.stderr
    assert "Traceback" not in done.stderr
