"""`epp standalone`: one command serves a file-listed pool, follows the file, finishes what is under way, and says why it ends."""

import json
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from epp.sockets import listen
from epp.standalone.endpoints import write
from epp.standalone.launcher import fetch
from epp.standalone.process import Child
from tests.data_plane.clients import opened, request
from tests.data_plane.rig import DEADLINE_S, eventually, free_port
from tests.data_plane.upstream import Exchange
from tests.unit.standalone.test_process import runs

BODY = b'{"model": "m", "prompt": "hello"}'


@dataclass(frozen=True, kw_only=True)
class Running:
    """The command, serving."""

    child: Child
    host: str
    port: int
    pool_file: Path


def list_pool(file: Path, ports: Sequence[int]) -> None:
    endpoints = [{"name": f"server-{port}", "namespace": "test", "address": "127.0.0.1", "port": str(port)} for port in ports]
    write(file, yaml.safe_dump({"endpoints": endpoints}))


@contextmanager
def standalone(lab, directory: Path, ports: Sequence[int], *flags: str) -> Iterator[Running]:
    pool_file = directory / "pool.yaml"
    list_pool(pool_file, ports)
    command = [sys.executable, "-m", "epp", "standalone", "--pool-file", str(pool_file), "--port", "0"]
    flushes_itself = {"PYTHONUNBUFFERED": ""}
    child = Child("standalone", [*command, "--metrics-port", str(free_port()), *flags], environment=flushes_itself)
    lab.children.append(child)
    try:
        serving = re.compile(r"serving +http://([\d.]+):(\d+)")
        child.wait_until(lambda: serving.search(child.tail()) is not None, DEADLINE_S * 2, "it serves")
        host, port = serving.search(child.tail()).groups()
        yield Running(child=child, host=host, port=int(port), pool_file=pool_file)
    finally:
        child.stop(10)


def used(running: Running, start: int) -> set[int]:
    bodies = [b'{"model": "m", "prompt": "prompt number %d"}' % (start + number) for number in range(12)]
    answers = [request(running, "POST", "/v1/completions", body) for body in bodies]
    assert {answer.status for answer in answers} == {200}
    return {answer.port for answer in answers}


def test_serves_follows_its_file_and_ends_well(lab, fleet, tmp_path):
    first, second, third = fleet.ports
    with standalone(lab, tmp_path, [first, second], "--mode", "lean") as running:
        assert used(running, 0) <= {first, second}
        list_pool(running.pool_file, [third])
        eventually(lambda: used(running, 100) == {third}, "the file is followed")
        running.child.signal(signal.SIGTERM)
        assert running.child.wait(DEADLINE_S) == 0


def test_a_request_has_its_line_at_once(lab, fleet, tmp_path):
    with standalone(lab, tmp_path, fleet.ports, "--access-log") as running:
        assert request(running, "POST", "/v1/completions", BODY).status == 200
        eventually(lambda: "POST /v1/completions" in running.child.tail(), "the line is there")


def test_lets_an_answer_under_way_finish(lab, fleet, tmp_path):
    go_on = threading.Event()

    def script(exchange: Exchange) -> None:
        exchange.start()
        exchange.chunk(b"data: 1\n\n")
        assert go_on.wait(DEADLINE_S)
        exchange.chunk(b"data: 2\n\n")
        exchange.end()

    fleet.scripts["standalone-drain"] = script
    with standalone(lab, tmp_path, fleet.ports) as running:
        with opened(running, "POST", "/v1/completions", BODY, [("x-script", "standalone-drain")]) as connection:
            response = connection.getresponse()
            assert response.read1(100) == b"data: 1\n\n"
            running.child.signal(signal.SIGTERM)
            eventually(lambda: _refuses(running), "no new connection is taken")
            go_on.set()
            assert response.read() == b"data: 2\n\n"
        assert running.child.wait(DEADLINE_S) == 0


def test_a_picker_that_dies_is_started_again(lab, fleet, tmp_path):
    with standalone(lab, tmp_path, fleet.ports) as running:
        assert used(running, 0)
        (picker,) = _pickers_of(running.child.pid)
        os.kill(picker, signal.SIGKILL)
        eventually(
            lambda: request(running, "POST", "/v1/completions", BODY).status == 200 and _pickers_of(running.child.pid) != [picker],
            "again",
        )
        assert "the picker ended with code -9; starting it again" in running.child.tail()


def test_nothing_of_it_stays_when_it_is_killed_and_it_can_be_started_again(lab, fleet, tmp_path):
    ports = ["--port", str(free_port()), "--metrics-port", str(free_port())]
    with standalone(lab, tmp_path, fleet.ports, *ports) as running:
        children = _children_of(running.child.pid)
        assert len(children) == 2
        running.child.signal(signal.SIGKILL)
        running.child.wait(5)
        eventually(lambda: not any(map(runs, children)), "both have ended")
    with standalone(lab, tmp_path, fleet.ports, *ports) as running:
        assert used(running, 0)


def test_its_configuration_can_change_and_a_bad_one_is_said(lab, fleet, tmp_path):
    config, port = tmp_path / "config.yaml", free_port()
    config.write_text("strategy: {chain: [approximate]}\n")

    def strategy() -> str:
        return json.loads(fetch("127.0.0.1", port, "/strategies")[1])["strategies"][0]["name"]

    with standalone(lab, tmp_path, fleet.ports, "--config-file", str(config), "--metrics-port", str(port)) as running:
        assert strategy() == "approximate"
        config.write_text("strategy: {chian: []}\n")
        says = "epp: strategy.chian: unknown field; did you mean 'chain'?; the configuration stays as it is"
        eventually(lambda: says in running.child.tail(), "it says what is wrong")
        config.write_text("strategy: {chain: [consistent-hash]}\n")
        eventually(lambda: strategy() == "consistent-hash", "it is taken up")
        assert used(running, 0)


def _children_of(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def _pickers_of(parent: int) -> list[int]:
    """Process ids of the children that are `epp serve`."""
    return [pid for pid in _children_of(parent) if b"\0serve\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_second_signal_does_not_wait(lab, fleet, tmp_path):
    def script(exchange: Exchange) -> None:
        exchange.start()
        exchange.chunk(b"data: 1\n\n")
        exchange.wait_until_gone()

    fleet.scripts["standalone-stuck"] = script
    with (
        standalone(lab, tmp_path, fleet.ports, "--drain-timeout-s", "600") as running,
        opened(running, "POST", "/v1/completions", BODY, [("x-script", "standalone-stuck")]) as connection,
    ):
        assert connection.getresponse().read1(100) == b"data: 1\n\n"
        running.child.signal(signal.SIGTERM)
        eventually(lambda: _refuses(running), "it drains")
        running.child.signal(signal.SIGINT)
        assert running.child.wait(5) == 130


def test_a_taken_port_is_said(lab, fleet, tmp_path):
    pool_file = tmp_path / "pool.yaml"
    list_pool(pool_file, fleet.ports)
    command = [sys.executable, "-m", "epp", "standalone", "--pool-file", str(pool_file), "--port", str(fleet.ports[0])]
    child = Child("standalone", [*command, "--metrics-port", str(free_port())])
    lab.children.append(child)
    assert child.wait(DEADLINE_S * 2) == 1
    assert "ddress already in use" in child.tail()


def test_says_which_port_it_has_chosen_for_metrics(lab, fleet, tmp_path):
    with standalone(lab, tmp_path, fleet.ports, "--metrics-port", "0") as running:
        said = re.compile(r"metrics +http://127\.0\.0\.1:(\d+)/metrics")
        running.child.wait_until(lambda: said.search(running.child.tail()) is not None, DEADLINE_S, "it says the port")
        assert fetch("127.0.0.1", int(said.search(running.child.tail())[1]), "/readyz")[0] == 200


def test_somebody_elses_picker_is_not_taken_for_its_own(lab, fleet, tmp_path):
    port = str(free_port())
    with standalone(lab, tmp_path, fleet.ports, "--metrics-port", port) as running:
        command = [sys.executable, "-m", "epp", "standalone", "--pool-file", str(running.pool_file), "--port", "0"]
        child = Child("standalone", [*command, "--metrics-port", port])
        lab.children.append(child)
        assert child.wait(DEADLINE_S * 2) == 2
        (line,) = child.tail().splitlines()
        assert line.startswith(f"epp: cannot listen on 127.0.0.1:{port}: Address already in use")


def test_a_picker_that_cannot_have_its_port_again_is_not_started_again_and_again(lab, fleet, tmp_path):
    port = free_port()
    with standalone(lab, tmp_path, fleet.ports, "--metrics-port", str(port)) as running, ExitStack() as taken:

        def take() -> bool:
            with suppress(OSError):
                taken.enter_context(listen("127.0.0.1", port))
                return True
            return False

        (picker,) = _pickers_of(running.child.pid)
        os.kill(picker, signal.SIGKILL)
        eventually(take, "the port is free for a moment")
        assert running.child.wait(DEADLINE_S) == 1
        assert running.child.tail().count("Address already in use") == 1
        assert running.child.tail().endswith("epp: the picker ended with code 2, and would again")


def _refuses(running: Running) -> bool:
    try:
        with opened(running, "GET", "/v1/models"):
            return False
    except ConnectionRefusedError:
        return True
