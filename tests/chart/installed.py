"""A release installed by Helm into a real API server, and its picker, started as its Deployment says.

There is no kubelet here, so what one would do is done by the test: the ConfigMap is put where it would be mounted, the variables
are put into the arguments, and the process is started with the token of the release's ServiceAccount.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.chart.rendered import CHART, NAME, RELEASE
from tests.data_plane.clients import Address, Response, request
from tests.data_plane.rig import PickerProcess
from tests.kube.namespace import Namespace
from tests.kube.rig import Rig

APPS = "apps/v1"
OURS = {"grpc-port", "grpc-health-port", "metrics-port", "drain-timeout", "log-format"}
"""Flags that a test gives another value than the chart, since many pickers share this machine."""

BODY = b'{"model": "tiny", "prompt": "hello", "max_tokens": 1}'


def ask(gateway: Address) -> Response:
    """Send a small request."""
    return request(gateway, "POST", "/v1/completions", BODY, [("content-type", "application/json")])


class Release:
    """What Helm installed.

    Args:
        namespace: where.
        directory: for what would be mounted.
        values: `a.b=c` each.
    """

    def __init__(self, namespace: Namespace, directory: Path, *values: str) -> None:
        self.namespace = namespace
        self._directory = directory
        self._values = list(values)
        self._helm("install", *values)

    def upgrade(self, *values: str) -> None:
        """With more values than before."""
        self._values += values
        self._helm("upgrade", *self._values)

    def rollback(self, revision: int, *flags: str) -> None:
        self.namespace.helm("rollback", RELEASE, str(revision), *flags)

    def uninstall(self) -> None:
        self.namespace.helm("uninstall", RELEASE)

    def _helm(self, action: str, *values: str) -> None:
        self.namespace.helm(action, RELEASE, str(CHART), *(f"--set={one}" for one in values))

    @property
    def deployment(self) -> Mapping[str, Any]:
        return self.namespace.api.get(self.namespace.path("deployments", NAME, api=APPS))

    @property
    def config_map(self) -> Mapping[str, Any]:
        return self.namespace.api.get(self.namespace.path("configmaps", NAME))

    @property
    def arguments(self) -> list[str]:
        """Of `epp serve`, as the container would be given them, without those a test has its own for."""
        pod = self.deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        mounted = self._mount(pod["volumes"], container["volumeMounts"])
        given = [one.replace("$(NAMESPACE)", self.namespace.name) for one in container["args"][1:]]
        for path, directory in mounted.items():
            given = [one.replace(path, str(directory)) for one in given]
        return [one for one in given if one.removeprefix("--").partition("=")[0] not in OURS]

    @contextmanager
    def picker(self, rig: Rig, *, flags: Sequence[str] = (), ready: bool = True) -> Iterator[PickerProcess]:
        """The picker, with the rights of the release and no others."""
        user = self.namespace.kubeconfig(NAME)
        with rig.picker(self.namespace, kubeconfig=user, config=None, target=self.arguments, flags=flags, ready=ready) as picker:
            yield picker

    def _mount(self, volumes: Sequence[Mapping], mounts: Sequence[Mapping]) -> dict[str, Path]:
        """Put volumes into directories; where each would be -> where it is."""
        sources = {volume["name"]: volume for volume in volumes}
        return {mount["mountPath"]: self._fill(sources[mount["name"]]) for mount in mounts}

    def _fill(self, volume: Mapping[str, Any]) -> Path:
        directory = self._directory / volume["name"]
        directory.mkdir(exist_ok=True)
        if "configMap" in volume:
            data = self.namespace.api.get(self.namespace.path("configmaps", volume["configMap"]["name"]))["data"]
            files = {name: text.encode() for name, text in data.items()}
        else:
            data = self.namespace.api.get(self.namespace.path("secrets", volume["secret"]["secretName"]))["data"]
            files = {name: base64.b64decode(text) for name, text in data.items()}
        for name, content in files.items():
            (directory / name).write_bytes(content)
        return directory
