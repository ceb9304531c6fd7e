"""What the tests on Kubernetes run against. In five lines:

    def test_something(namespace, pods, rig):
        namespace.pool(labels=pods.labels, ports=pods.ports)       # a real InferencePool in a real API server
        pods.add(), pods.add()                                     # real Pods, a real stand-in server behind each
        with rig.picker(namespace) as picker, rig.gateway(picker) as gateway, traffic(gateway) as sent:
            ...                                                    # `epp serve --pool-name pool` as a ServiceAccount, a real Envoy

`namespace` also has `kubectl`, `helm`, `objective`, `service_account(name, rules) -> kubeconfig`; `control_plane` (one for the
whole run) has `stop_api`, `start_api`, `compact`, `install("gateway-api")`, `kubeconfig`, `kubectl`, `helm`, `api`.
A `Link` is a way to the API server that one picker alone can be cut off from.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from epp.standalone.endpoints import endpoints_json, write
from epp.standalone.launcher import Envoy, start
from epp.standalone.options import EnvoyOptions, OriginalDestination, SocketAddress
from epp.standalone.process import Child
from tests.data_plane.rig import How, PickerProcess, eventually
from tests.kube.control_plane import ControlPlane
from tests.kube.namespace import Namespace
from tests.kube.pods import Pod
from tests.kube.traffic import LATE_S

BASE = {"apiVersion": "llm-d.ai/v1alpha1", "kind": "EndpointPickerConfig"}
EITHER_TRANSPORT = pytest.mark.parametrize("rig", ["native", "grpcio"], indirect=True)
"""For tests in which streams live and end while pickers or pods come and go; the others run over the picker's own choice."""
APPROXIMATE: Mapping[str, Any] = {"strategy": {"chain": ["approximate"]}}
POOL = "pool"


def known(picker: PickerProcess) -> dict[str, str]:
    """The endpoints that a picker knows: name without the namespace -> address and port."""
    return {row["name"].rpartition("/")[2]: row["authority"] for row in picker.page("/pool")["endpoints"]}


def addresses(*pods: Pod) -> set[str]:
    """All addresses with ports of some pods."""
    return {address for pod in pods for address in pod.addresses}


def until_known(picker: PickerProcess, *pods: Pod) -> None:
    """Return when the picker knows the endpoints of these pods and no others; fails when it does not in time."""
    eventually(lambda: set(known(picker).values()) == addresses(*pods), "the picker knows the pods", LATE_S + 1)


def write_endpoints(file: Path, pods: Sequence[Pod]) -> None:
    """Tell an Envoy that follows this file (`EndpointFile`) of these pods; as a gateway's controller does."""
    file.parent.mkdir(exist_ok=True)
    places = [SocketAddress(host=pod.ip, port=port) for pod in pods for port in pod.ports]
    write(file, endpoints_json(places))


class Rig:
    """Starts pickers and Envoys, keeps them for the log on failure, and ends them."""

    def __init__(self, control_plane: ControlPlane, directory: Path, transport: str = "native") -> None:
        self.control_plane = control_plane
        self._directory = directory
        self._transport = transport
        self.children: list[Child] = []

    @contextmanager
    def picker(
        self,
        namespace: Namespace,
        *,
        kubeconfig: Path | None = None,
        target: Sequence[str] = ("--pool-name", POOL),
        config: Mapping[str, Any] | None = APPROXIMATE,
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        ready: bool = True,
    ) -> Iterator[PickerProcess]:
        """A picker in front of a pool, stopped at the end.

        Args:
            namespace: of the pool.
            kubeconfig: whose rights it has; by default those of a ServiceAccount with the chart's Role.
            target: the flags that say which pods are its endpoints.
            config: written to a file for `--config-file`; None: the test's own flags say what is configured.
            flags: more of them.
            environment: variables added.
            ready: return once it is ready to be asked.
        """
        directory = self._new_directory()
        given = ["--pool-namespace", namespace.name, *target]
        if config is not None:
            file = directory / "picker.yaml"
            file.write_text(yaml.safe_dump({**BASE, **config}), encoding="utf-8")
            given += ["--config-file", str(file)]
        user = kubeconfig or self._discoverer(namespace)
        variables = {"KUBECONFIG": str(user), "NAMESPACE": namespace.name, **(environment or {})}
        picker = PickerProcess(given, how=How(flags=[f"--transport={self._transport}", *flags], environment=variables))
        self.children.append(picker.child)
        try:
            if ready:
                picker.wait_until_ready()
            yield picker
        finally:
            picker.child.stop()

    @contextmanager
    def gateway(self, *pickers: PickerProcess, **options: Any) -> Iterator[Envoy]:
        """An Envoy in front of pickers, stopped at the end. Takes the fields of `EnvoyOptions`.

        It knows no endpoint and goes where it is told: a wrong pick fails, where a list of endpoints would hide it.
        """
        given = {
            "listener": SocketAddress(port=0),
            "pickers": tuple(SocketAddress(port=picker.grpc_port) for picker in pickers),
            "pool": OriginalDestination(),
            "health_interval_s": 0.2,
        }
        envoy = start(EnvoyOptions(**{**given, **options}), self._new_directory())
        self.children.append(envoy.child)
        try:
            yield envoy
        finally:
            envoy.stop()

    def restart(self, picker: PickerProcess) -> None:
        """Start an ended picker again."""
        self.children.append(picker.restart())

    def _discoverer(self, namespace: Namespace) -> Path:
        """The kubeconfig of a ServiceAccount of the namespace that may discover, made when it is first asked for."""
        file = self.control_plane.directory / f"{namespace.name}-picker.kubeconfig"
        return file if file.exists() else namespace.service_account("picker")

    def _new_directory(self) -> Path:
        directory = self._directory / str(len(list(self._directory.iterdir())))
        directory.mkdir()
        return directory
