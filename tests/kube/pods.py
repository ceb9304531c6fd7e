"""Pods: real API objects, with a real model-server stand-in behind each, on a loopback address of its own.

What a kubelet would do is done here: it fills in the status, and when a pod is to go lets the server finish before the object
disappears. The stand-ins run in one thread of the test's process and serve at `pod.ip`, on each of the pod's ports.
"""

import asyncio
import itertools
import os
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Self, TypeVar

from epp.model.endpoint import join_host_port
from epp.testing.model_server import ModelServer
from epp.testing.server_options import ServerOptions
from tests.kube.api import Json
from tests.kube.namespace import Namespace

NODE = "node-of-the-tests"
START_S = 20.0
Engine = Callable[[str, int, int], ServerOptions]
"""What serves at an address and port, given the port's rank among the pod's."""
T = TypeVar("T")


def plain(ip: str, port: int, _rank: int) -> ServerOptions:
    """An engine that publishes nothing."""
    return ServerOptions(host=ip, port=port)


def _addresses():
    """Loopback addresses nobody else on this machine takes; never the same one twice."""
    first, second = 64 + os.getpid() % 128, os.getpid() // 128 % 256
    for third in itertools.cycle(range(1, 255)):
        for last in range(1, 255):
            yield f"127.{first}.{(second + third) % 255}.{last}"


ADDRESSES = _addresses()


class Servers:
    """The thread that the stand-ins live in."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="model servers", daemon=True)
        self._thread.start()

    def start(self, options: ServerOptions) -> ModelServer:
        """Start one; it serves on return."""
        server = ModelServer(options)
        self.run(server.start())
        return server

    def run(self, job: Coroutine[Any, Any, T]) -> T:
        """Run a job on the servers' loop to its end."""
        return self.begin(job).result(START_S)

    def begin(self, job: Coroutine[Any, Any, T]) -> "Future[T]":
        """Start a job on the servers' loop."""
        return asyncio.run_coroutine_threadsafe(job, self._loop)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Pod:
    """One pod. Its object and its servers are separate things, and every step of its life is a method of its own."""

    def __init__(self, namespace: Namespace, servers: Servers, *, name: str, ip: str, ports: Sequence[int]) -> None:
        self.name, self.ip, self.ports = name, ip, tuple(ports)
        self.restarts = 0
        self.is_ready = False
        self.gone_s: float | None = None
        """When the API server said that it is to go, monotonic seconds: not to be picked from then on."""
        self._namespace = namespace
        self._servers = servers
        self.running: list[ModelServer] = []

    @property
    def addresses(self) -> set[str]:
        """Where it serves, as a picker names it and as `x-served-by` does when it has answered."""
        return {join_host_port(self.ip, port) for port in self.ports}

    def create(self, labels: Mapping[str, str], annotations: Mapping[str, str]) -> None:
        """Make the object; bound to a node, not running yet."""
        metadata = {"name": self.name, "labels": dict(labels), "annotations": dict(annotations)}
        spec = {"nodeName": NODE, "containers": [{"name": "server", "image": "server"}]}
        self._namespace.create("pods", {"metadata": metadata, "spec": spec})

    def serve(self, engine: Engine = plain) -> None:
        """Have the stand-ins listen, one for each port."""
        self.running = [self._servers.start(engine(self.ip, port, rank)) for rank, port in enumerate(self.ports)]

    def ready(self, ready: bool = True) -> None:
        """Say that it is ready, or that it is not."""
        self.is_ready = ready
        self._report()

    def restart_container(self, *, before_ready: bool = False) -> None:
        """The engine dies and comes back in place, with nothing in its cache: same pod, same address, another container."""
        for server in self.running:
            self._servers.run(server._restart())
        self.restarts += 1
        if before_ready:
            self.ready(False)
        self.ready(True)

    def mark(self, *, labels: Mapping[str, str | None] | None = None, annotations: Mapping[str, str | None] | None = None) -> None:
        """Change labels and annotations; None removes one."""
        self._patch({"metadata": {"labels": dict(labels or {}), "annotations": dict(annotations or {})}})

    def terminate(self) -> None:
        """Ask it to go, as `kubectl delete` does: the object gets its deletionTimestamp, the servers go on."""
        self._namespace.api.delete(self._namespace.path("pods", self.name), grace_s=30)
        self.gone_s = time.monotonic()

    def kill(self) -> None:
        """Let the servers go: connections are refused from now on."""
        for server in self.running:
            self._servers.run(server.stop())
        self.running = []

    def remove(self) -> None:
        """Remove the object at once."""
        self._namespace.api.delete(self._namespace.path("pods", self.name), grace_s=0)
        if self.gone_s is None:
            self.gone_s = time.monotonic()

    def _report(self) -> None:
        status = "True" if self.is_ready else "False"
        conditions = [{"type": kind, "status": status} for kind in ("Ready", "ContainersReady")]
        conditions += [{"type": kind, "status": "True"} for kind in ("PodScheduled", "Initialized")]
        container = {
            "name": "server",
            "ready": self.is_ready,
            "started": True,
            "restartCount": self.restarts,
            "image": "server",
            "imageID": "server",
            "containerID": f"containerd://{self.name}-{self.restarts}",
            "state": {"running": {}},
        }
        ips = {"hostIP": "127.0.0.1", "podIP": self.ip, "podIPs": [{"ip": self.ip}]}
        self._patch({"status": {"phase": "Running", "conditions": conditions, "containerStatuses": [container], **ips}}, "status")

    def _patch(self, body: Json, sub: str = "") -> None:
        self._namespace.api.patch(self._namespace.path("pods", self.name, sub=sub), body)


class Pods:
    """The pods of a test; at its end the servers stop."""

    def __init__(
        self, namespace: Namespace, servers: Servers, *, labels: Mapping[str, str], ports: Sequence[int], engine: Engine = plain
    ) -> None:
        self._namespace = namespace
        self._servers = servers
        self.labels, self.ports = dict(labels), tuple(ports)
        self._engine = engine
        self.ever: list[Pod] = []
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pod in self.ever:
            pod.kill()

    @property
    def here(self) -> list[Pod]:
        """Those that have not been asked to go."""
        return [pod for pod in self.ever if pod.gone_s is None]

    def add(
        self,
        *,
        ready: bool = True,
        serving: bool = True,
        ip: str = "",
        ports: Sequence[int] = (),
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> Pod:
        """One more, and said to be ready if it is to be. One that is not serving is an object and nothing else."""
        name = f"{self.labels.get('app', 'server')}-{next(self._numbers)}"
        pod = Pod(self._namespace, self._servers, name=name, ip=ip or next(ADDRESSES), ports=ports or self.ports)
        pod.create(self.labels if labels is None else labels, annotations or {})
        self.ever.append(pod)
        if serving:
            pod.serve(self._engine)
        if ready:
            pod.ready()
        return pod

    def replace(self, pod: Pod, *, grace_s: float = 1.0) -> Pod:
        """A rolling update's step: a new one becomes ready, the old one is asked to go, serves on for a while, and goes."""
        new = self.add()
        pod.terminate()
        time.sleep(grace_s)
        pod.kill()
        pod.remove()
        return new
