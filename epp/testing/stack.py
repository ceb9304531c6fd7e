"""Real processes around the picker: a fleet of stand-ins, `epp serve`, and an Envoy in front. For the demo and the benchmarks.

Everything binds to loopback and to ports that are free. Whatever was started is stopped in the reverse order; the log of a process
is kept, for whoever reports that it failed.
"""

import http.client
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from epp.errors import LaunchError
from epp.prefix.kv_sources import EVENTS_PORT_LABEL, REPLAY_PORT_LABEL
from epp.standalone import endpoints, launcher
from epp.standalone.options import EndpointFile, EnvoyOptions, Mode, SocketAddress
from epp.standalone.process import Child
from epp.standalone.run import free_ports
from epp.testing.tokenizer import write_tokenizer

HOST = "127.0.0.1"
READY_TIMEOUT_S = 30.0
IDLE_TIMEOUT_S = 20.0
MODEL = "tiny"
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class StandIn:
    """A stand-in that serves."""

    name: str
    child: Child
    port: int
    kv_port: int
    kv_replay_port: int

    @property
    def authority(self) -> str:
        """`host:port`."""
        return f"{HOST}:{self.port}"

    def post(self, path: str) -> int:
        """Send an empty POST; return the status."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        try:
            connection.request("POST", path)
            return connection.getresponse().status
        finally:
            connection.close()


class Fleet:
    """Stand-ins, each a process of its own.

    Args:
        directory: for their files; made if missing.
        count: how many.
        arguments: of `epp.testing.model_server`, the same for all.
    """

    def __init__(self, directory: Path, count: int, arguments: Sequence[str] = ()) -> None:
        self._directory = directory
        self._count = count
        self._arguments = arguments
        self._stack = ExitStack()
        self.servers: tuple[StandIn, ...] = ()
        self.tokenizer = directory / "tokenizer"
        self.pool_file = directory / "pool.yaml"
        self.endpoints_file = directory / "endpoints.json"

    def __enter__(self) -> Self:
        """Start them all at once and write the files that name them.

        Raises:
            LaunchError: one does not come up.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        write_tokenizer(self.tokenizer)
        try:
            children = [self._launch(number) for number in range(self._count)]
            self.servers = tuple(self._ready(number, child) for number, child in enumerate(children))
        except BaseException:
            self._stack.close()
            raise
        self._write_files()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop them."""
        self._stack.close()

    def reset(self) -> None:
        """Empty every cache, once the requests under way are over.

        Raises:
            LaunchError: they are not over in time.
        """
        deadline_s = time.monotonic() + IDLE_TIMEOUT_S
        for server in self.servers:
            while server.post("/reset_prefix_cache") != http.client.OK:
                if time.monotonic() > deadline_s:
                    raise LaunchError(f"{server.name} is still busy after {IDLE_TIMEOUT_S:g} s\n{server.child.tail()}")
                time.sleep(0.05)

    def _launch(self, number: int) -> Child:
        ready = self._ready_file(number)
        ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", "epp.testing.model_server", "--ready-file", str(ready), "--model", MODEL, *self._arguments]
        child = Child(f"server-{number}", command)
        self._stack.callback(child.stop)
        return child

    def _ready(self, number: int, child: Child) -> StandIn:
        ready = self._ready_file(number)
        child.wait_until(lambda: ready.exists() and ready.read_text().endswith("\n"), READY_TIMEOUT_S, "it is ready")
        said = json.loads(ready.read_text())
        return StandIn(
            name=child.name,
            child=child,
            port=said["port"],
            kv_port=said.get("kv_port", 0),
            kv_replay_port=said.get("kv_replay_port", 0),
        )

    def _ready_file(self, number: int) -> Path:
        return self._directory / f"server-{number}.json"

    def _write_files(self) -> None:
        listed = [
            {
                "name": server.name,
                "namespace": "demo",
                "address": HOST,
                "port": str(server.port),
                "labels": {EVENTS_PORT_LABEL: str(server.kv_port), REPLAY_PORT_LABEL: str(server.kv_replay_port)},
            }
            for server in self.servers
        ]
        self.pool_file.write_text(yaml.safe_dump({"endpoints": listed}))
        addresses = [SocketAddress(host=HOST, port=server.port) for server in self.servers]
        endpoints.write(self.endpoints_file, endpoints.endpoints_json(addresses))


class Gateway:
    """A picker with one configuration, and an Envoy that asks it; in front of a fleet.

    Args:
        fleet: who answers in the end.
        config: of the picker, without the pool.
        directory: for their files; made if missing.
        mode: how much of a request passes through the picker.
        command: what starts the picker, before its flags.
    """

    def __init__(
        self,
        fleet: Fleet,
        config: Mapping[str, Any],
        directory: Path,
        *,
        mode: Mode = Mode.FULL_DUPLEX,
        command: Sequence[str] = (),
    ) -> None:
        self._fleet = fleet
        self._config = config
        self._directory = directory
        self._mode = mode
        self._command = tuple(command) or (sys.executable, "-m", "epp", "serve")
        self._stack = ExitStack()
        self.picker: Child
        self.envoy: launcher.Envoy
        self.admin_port = 0

    def __enter__(self) -> Self:
        """Start the picker, then Envoy.

        Raises:
            LaunchError: one of them does not come up.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        try:
            grpc_port = self._start_picker()
            self.envoy = launcher.start(
                EnvoyOptions(
                    listener=SocketAddress(port=0),
                    pickers=(SocketAddress(port=grpc_port),),
                    picker_tls=False,
                    pool=EndpointFile(path=self._fleet.endpoints_file),
                    mode=self._mode,
                ),
                self._directory,
            )
            self._stack.callback(self.envoy.stop)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop both."""
        self._stack.close()

    @property
    def base(self) -> str:
        """Where clients connect."""
        return f"http://{self.envoy.host}:{self.envoy.port}"

    def admin(self, path: str) -> Any:  # noqa: ANN401 - JSON
        """Return a page of the picker's admin port.

        Raises:
            LaunchError: it does not answer, or not with 200.
        """
        status, body = launcher.fetch(HOST, self.admin_port, path)
        if status != http.client.OK:
            raise LaunchError(f"the picker's {path} answers {status or 'nothing'}\n{self.picker.tail()}")
        return json.loads(body)

    def knows_every_cache(self) -> bool:
        """Whether the accurate strategy, where there is one, follows the events of every endpoint."""
        for strategy in self.admin("/strategies")["strategies"]:
            streams = strategy.get("streams", [])
            if strategy["name"] == "accurate" and sum(stream["standing"] == "exact" for stream in streams) < len(
                self._fleet.servers
            ):
                return False
        return True

    def _start_picker(self) -> int:
        grpc_port, health_port, self.admin_port = free_ports(3)
        file = self._directory / "picker.yaml"
        file.write_text(yaml.safe_dump(with_pool(self._config, self._fleet.pool_file), sort_keys=False))
        flags = ["--config-file", str(file), "--bind", HOST, "--secure-serving=false", "--drain-timeout=0s", "-v=1"]
        ports = [f"--grpc-port={grpc_port}", f"--grpc-health-port={health_port}", f"--metrics-port={self.admin_port}"]
        self.picker = Child("picker", [*self._command, *flags, *ports])
        self._stack.callback(self.picker.stop)
        self.picker.wait_until(
            lambda: launcher.fetch(HOST, self.admin_port, "/readyz")[0] == http.client.OK, READY_TIMEOUT_S, "it is ready"
        )
        return grpc_port


def with_pool(config: Mapping[str, Any], pool_file: Path) -> dict[str, Any]:
    """Return a picker's configuration with the pool that a file lists."""
    discovery = {"type": "file-discovery", "parameters": {"path": str(pool_file), "watchFile": True}}
    return {
        "apiVersion": "llm-d.ai/v1alpha1",
        "kind": "EndpointPickerConfig",
        **config,
        "plugins": [*config.get("plugins", ()), discovery],
        "dataLayer": {"discovery": {"pluginRef": "file-discovery"}},
    }


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process so far, its threads included, in seconds. Linux only; 10 ms coarse."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S
