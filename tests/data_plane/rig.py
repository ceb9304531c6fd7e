"""What the data-plane tests run against: real pickers and real Envoys, as processes, before scripted model servers; free ports."""

import json
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, TypeVar

import grpc
import yaml

from epp.pb import health_pb2
from epp.standalone.endpoints import endpoints_json, write
from epp.standalone.launcher import Envoy, start
from epp.standalone.options import EndpointFile, EnvoyOptions, SocketAddress
from epp.standalone.process import Child
from tests.data_plane.clients import request

DEADLINE_S = 15.0
EXT_PROC = "envoy.service.ext_proc.v3.ExternalProcessor"
PORTS = cycle(random.sample(range(20_000, 30_000), 10_000))
"""Below the range that outgoing connections take theirs from: a port found free here stays free until we bind it. In turn, so that
nobody is given one that another was given a moment ago and has not bound yet."""

APPROXIMATE = {"strategy": {"chain": ["approximate"]}}
RANDOM = {"plugins": [{"type": "random-picker"}]}
"""For tests that want to see every endpoint used."""

T = TypeVar("T")


def eventually(condition: Callable[[], T], what: str, timeout_s: float = DEADLINE_S) -> T:
    """The first true value of `condition`; fails when none comes in time."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.01)
    return value


def free_port() -> int:
    """A port nobody listens on; fixed, so that a picker can come back to it."""
    for port in PORTS:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("a cycle has no end")


@dataclass(frozen=True, kw_only=True)
class Endpoints:
    """Where a pool's model servers are at the start."""

    ports: Sequence[int]
    host: str = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class How:
    """How a picker is started."""

    program: Sequence[str] = ("-m", "epp")
    flags: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=lambda: APPROXIMATE)


def health(host: str, port: int, service: str) -> str:
    """What a gRPC health service says of a service: a status, or the name of the error."""
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(service=service), timeout=2)
        except grpc.RpcError as error:
            return error.code().name
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


class PickerProcess:
    """A picker on three ports of its own, and what it says of itself.

    Args:
        flags: of `epp serve`, but for the ports and what every test wants.
        how: how it is started; its flags come after `flags`, its configuration is the caller's to pass on.
    """

    host = "127.0.0.1"

    def __init__(self, flags: Sequence[object], *, how: How) -> None:
        self.grpc_port, self.health_port, self.port = free_port(), free_port(), free_port()
        ports = ["--grpc-port", self.grpc_port, "--grpc-health-port", self.health_port, "--metrics-port", self.port]
        fixed = ["--bind", self.host, "--log-format", "text", "--drain-timeout", "0s"]
        command = [sys.executable, *how.program, "serve", *fixed, *ports, *flags, *how.flags]
        self._command = [str(part) for part in command]
        self._environment = how.environment
        self.child = self._launch()

    def _launch(self) -> Child:
        return Child("picker", self._command, environment=self._environment)

    def wait_until_ready(self) -> None:
        self.child.wait_until(lambda: self.health(EXT_PROC) == "SERVING", DEADLINE_S, "it is ready")

    def restart(self) -> Child:
        """Start again on the same ports, after it has ended."""
        self.child = self._launch()
        self.wait_until_ready()
        return self.child

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self.child.signal(signal.SIGKILL)
        self.child.wait(DEADLINE_S)

    def health(self, service: str) -> str:
        """What the health port says of a service: a status, or the name of the error."""
        return health(self.host, self.health_port, service)

    def page(self, path: str) -> Any:
        """What a page of the admin port says, which is JSON."""
        page = request(self, "GET", path)
        assert page.status == 200, page.body
        return json.loads(page.body)

    def in_flight(self) -> int:
        """Requests that were given an endpoint and are not over."""
        return int(self.metric("llm_d_epp_request_running"))

    def metric(self, name: str) -> float:
        """The sum over all series of a metric; 0 when there is none."""
        page = request(self, "GET", "/metrics")
        assert page.status == 200
        lines = [line for line in page.body.decode().splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


class Picker(PickerProcess):
    """A picker process with its pool file, and the endpoint file that the Envoys in front of it follow."""

    def __init__(self, directory: Path, endpoints: Endpoints, *, how: How) -> None:
        self._pool_file, self.endpoints_file = directory / "pool.yaml", directory / "endpoints.json"
        config_file = directory / "picker.yaml"
        self._endpoint_host = endpoints.host
        self.set_pool(endpoints.ports)
        discovery = {"type": "file-discovery", "parameters": {"path": str(self._pool_file), "watchFile": True}}
        base = {"apiVersion": "llm-d.ai/v1alpha1", "kind": "EndpointPickerConfig"}
        plugins = [discovery, *how.config.get("plugins", ())]
        wiring = {"dataLayer": {"discovery": {"pluginRef": "file-discovery"}}}
        config_file.write_text(yaml.safe_dump({**base, **how.config, "plugins": plugins, **wiring}), encoding="utf-8")
        super().__init__(["--config-file", config_file], how=how)

    def set_pool(self, ports: Sequence[int], *, known_to_gateway: Sequence[int] | None = None) -> None:
        """Replace the list of endpoints in both files."""
        write(
            self.endpoints_file,
            endpoints_json([SocketAddress(host=self._endpoint_host, port=port) for port in (known_to_gateway or ports)]),
        )
        listed = [
            {"name": f"server-{port}", "namespace": "test", "address": self._endpoint_host, "port": str(port)} for port in ports
        ]
        self.write_pool(yaml.safe_dump({"endpoints": listed}))

    def write_pool(self, text: str) -> None:
        """Replace the picker's pool file, with whatever text."""
        write(self._pool_file, text)


class Lab:
    """Starts the processes, keeps them for the log on failure, and ends them."""

    def __init__(self, directory: Path, *, transport: str) -> None:
        self._directory = directory
        self.transport = transport
        self.children: list[Child] = []

    @contextmanager
    def picker(self, ports: Sequence[int], *, host: str = "127.0.0.1", flags: Sequence[str] = (), **how) -> Iterator[Picker]:
        """A picker of its own, ready; stopped at the end. Takes the fields of `How`."""
        flags = ["--transport", self.transport, *flags]
        picker = Picker(self._new_directory(), Endpoints(ports=ports, host=host), how=How(flags=flags, **how))
        self.children.append(picker.child)
        try:
            picker.wait_until_ready()
            yield picker
        finally:
            picker.child.stop()

    @contextmanager
    def gateway(self, picker: Picker, **options) -> Iterator[Envoy]:
        """An Envoy in front of a picker; stopped at the end."""
        envoy = start(
            EnvoyOptions(
                **{
                    "listener": SocketAddress(port=0),
                    "pickers": (SocketAddress(port=picker.grpc_port),),
                    "pool": EndpointFile(path=picker.endpoints_file),
                    "access_log": True,
                    "health_interval_s": 0.2,
                    **options,
                }
            ),
            self._new_directory(),
        )
        self.children.append(envoy.child)
        try:
            yield envoy
        finally:
            envoy.stop()

    def restart(self, picker: Picker) -> None:
        """Start an ended picker again."""
        self.children.append(picker.restart())

    def _new_directory(self) -> Path:
        directory = self._directory / str(len(list(self._directory.iterdir())))
        directory.mkdir()
        return directory
