"""A real etcd and a real kube-apiserver, as processes: RBAC on, ServiceAccount tokens, inference CRDs.

There is no controller manager and no kubelet: what those would do (a pod's status, its removal) the tests do themselves, see
`pods.py`. A namespace that is deleted therefore stays; every test takes a new one.
"""

import base64
import http.client
import itertools
import json
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import yaml

from epp.standalone.process import Child
from tests.data_plane.rig import eventually, free_port
from tests.kube import certificates
from tests.kube.api import Api, Refused, kubeconfig
from tests.kube.assets import GROUP, POOLS, Assets
from tests.kube.namespace import Namespace

CHART = Path(__file__).parents[2] / "charts" / "epp"
READY_S = 60.0
COMMAND_S = 60.0
ISSUER = "https://kubernetes.default.svc"
CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


class ControlPlane:
    """Both processes on ports of their own that stay the same over a restart. `start` before, `stop` after."""

    def __init__(self, assets: Assets, directory: Path) -> None:
        self.assets = assets
        self.directory = directory
        self.port, self._etcd_port, self._etcd_peer_port = free_port(), free_port(), free_port()
        self.certificates = certificates.make(directory)
        self.api = Api(self.port, self.certificates)
        self.children: list[Child] = []
        self._numbers = itertools.count(1)
        admin = {"client-certificate": str(self.certificates.admin), "client-key": str(self.certificates.admin_key)}
        self.kubeconfig = self.kubeconfig_for("admin", admin)
        """Of the administrator."""

    @property
    def server(self) -> str:
        """The API server's address."""
        return f"https://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start both and install the CRDs of pools, objectives and rewrites."""
        self._etcd = self._launch_etcd()
        self.start_api()
        self.install(POOLS, GROUP)

    def stop(self) -> None:
        for child in (self._api_server, self._etcd):
            child.signal(signal.SIGKILL)
            child.wait(READY_S)

    def start_api(self) -> None:
        """Start the API server, after `stop_api`; returns when it serves."""
        self._api_server = self._launch_api_server()
        self._api_server.wait_until(self.api.answers, READY_S, "the API server is ready")

    def stop_api(self) -> None:
        """End the API server at once, as a crash does; every connection to it breaks."""
        self._api_server.signal(signal.SIGKILL)
        self._api_server.wait(READY_S)

    def compact(self) -> None:
        """Make etcd forget every revision but the newest. A watch that wants to go on from an older one expires (410)
        once the API server has been restarted: until then it serves the past from memory.
        """
        revision = self._ask_etcd("range", {"key": base64.b64encode(b"/").decode()})["header"]["revision"]
        self._ask_etcd("compaction", {"revision": revision, "physical": True})

    def install(self, *names: str) -> None:
        """Install CRDs: names of `hack/kube_assets.py`, or "llm-d.ai". Returns when the API serves them."""
        definitions = [one for name in names for one in self.assets.definitions(name)]
        for definition in definitions:
            try:
                self.api.create(CRD_PATH, definition)
            except Refused as error:
                if error.status != 409:
                    raise
        self._until_served(definitions, True)

    def uninstall(self, *names: str) -> None:
        """Remove CRDs and all objects of their kinds. Returns when the API serves them no more."""
        definitions = [one for name in names for one in self.assets.definitions(name)]
        for definition in definitions:
            self.api.delete(f"{CRD_PATH}/{definition['metadata']['name']}")
        self._until_served(definitions, False)

    def _until_served(self, definitions: Sequence[Mapping], served: bool) -> None:
        paths = [
            f"/apis/{one['spec']['group']}/{version['name']}/{one['spec']['names']['plural']}"
            for one in definitions
            for version in one["spec"]["versions"]
            if version["served"]
        ]
        for path in paths:
            eventually(lambda path=path: self.api.answers(path) is served, f"{path} served: {served}", READY_S)

    def namespace(self, prefix: str = "test") -> Namespace:
        """A new one, empty."""
        name = f"{prefix}-{next(self._numbers)}"
        self.api.create("/api/v1/namespaces", {"metadata": {"name": name}})
        return Namespace(self, name)

    @cache  # noqa: B019 - there is one control plane in a run
    def picker_rules(self) -> list[dict]:
        """The rules of the Role that the chart makes for a picker."""
        return self.chart_rules("role")

    def chart_rules(self, name: str, *values: str, namespace: str = "default") -> list[dict]:
        """The rules of one of the chart's roles, by the name of its template; of a release in a namespace."""
        values = ("pool.selector.app=server", *values)
        template = ["template", "picker", str(CHART), "--namespace", namespace, "--show-only", f"templates/{name}.yaml"]
        return yaml.safe_load(self.helm(*template, "--set", ",".join(values)))["rules"]

    def kubeconfig_for(self, name: str, user: Mapping[str, object], *, server: str = "", namespace: str = "default") -> Path:
        """Write the kubeconfig of a user."""
        return kubeconfig(
            self.directory / f"{name}.kubeconfig",
            server=server or self.server,
            authority=self.certificates.authority,
            user=dict(user),
            namespace=namespace,
        )

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Standard output of kubectl, run as administrator; fails with what it complains of."""
        return self._run(self.assets.kubectl, arguments, stdin)

    def helm(self, *arguments: str, stdin: str = "") -> str:
        """The same with helm."""
        return self._run(self.assets.helm, arguments, stdin)

    def _run(self, program: str, arguments: Sequence[str], stdin: str) -> str:
        home = self.directory / "home"
        environment = {"KUBECONFIG": str(self.kubeconfig), "HOME": str(home), "PATH": "/usr/bin:/bin"}
        command = [program, *arguments]
        done = subprocess.run(command, input=stdin, env=environment, capture_output=True, text=True, timeout=COMMAND_S, check=False)
        assert done.returncode == 0, f"{Path(program).name} {' '.join(arguments)}: {done.stderr or done.stdout}"
        return done.stdout

    def _launch_etcd(self) -> Child:
        here, peer = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{self._etcd_peer_port}"
        command = [self.assets.etcd, "--data-dir", str(self.directory / "etcd"), "--log-level", "warn"]
        command += ["--listen-client-urls", here, "--advertise-client-urls", here, "--listen-peer-urls", peer]
        command += ["--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]
        return self._child("etcd", command)

    def _launch_api_server(self) -> Child:
        files = self.certificates
        flags = {
            "etcd-servers": f"http://127.0.0.1:{self._etcd_port}",
            "bind-address": "127.0.0.1",
            "advertise-address": "127.0.0.1",
            "secure-port": self.port,
            "tls-cert-file": files.server,
            "tls-private-key-file": files.server_key,
            "client-ca-file": files.authority,
            "authorization-mode": "RBAC",
            "service-account-issuer": ISSUER,
            "service-account-key-file": files.service_account_key,
            "service-account-signing-key-file": files.service_account_key,
            "service-cluster-ip-range": "10.0.0.0/24",
            "endpoint-reconciler-type": "none",
            "disable-admission-plugins": "ServiceAccount",  # wants what the controller manager makes: a "default" one everywhere
            "watch-cache": "true",
            "v": 1,
        }
        return self._child("kube-apiserver", [self.assets.kube_apiserver, *(f"--{key}={value}" for key, value in flags.items())])

    def _child(self, name: str, command: Sequence[str]) -> Child:
        child = Child(name, command)
        self.children = [*(one for one in self.children if one.exit_code is None), child]
        return child

    def _ask_etcd(self, method: str, body: Mapping[str, object]) -> dict:
        """Through etcd's JSON gateway."""
        connection = http.client.HTTPConnection("127.0.0.1", self._etcd_port, timeout=COMMAND_S)
        try:
            connection.request("POST", f"/v3/kv/{method}", json.dumps(body))
            response = connection.getresponse()
            said = json.loads(response.read())
        finally:
            connection.close()
        assert response.status == 200, said
        return said


def timed(action: Callable[[], object]) -> float:
    """How long an action takes, in seconds."""
    began_s = time.monotonic()
    action()
    return time.monotonic() - began_s
