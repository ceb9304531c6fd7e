"""What a cluster does for the conformance suite beside its API server: kubelet, Deployments, EndpointSlices, a gateway, in short.

`step` looks at what there is and does what is wanting, again and again, in the main thread (Envoys are started there). Pods of a
Deployment are made once: a model server becomes an echo server, a picker becomes `epp` as a process with the Deployment's own
arguments, each at a loopback address of its own. A gateway is a `Front`, and an Envoy for each pool.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from epp.model.endpoint import join_host_port
from epp.standalone.endpoints import endpoints_json, write
from epp.standalone.launcher import Envoy, start
from epp.standalone.options import EndpointFile, EnvoyOptions, SocketAddress
from epp.standalone.process import Child
from tests.conformance.front import Front, Rule
from tests.data_plane.rig import health
from tests.kube.api import Json, Refused
from tests.kube.control_plane import ControlPlane
from tests.kube.echo import EchoServer
from tests.kube.namespace import Namespace
from tests.kube.pods import ADDRESSES, NODE, START_S, Servers

INFRA, BACKEND = "inference-conformance-infra", "inference-conformance-app-backend"
GATEWAY_API, POOL_API = "gateway.networking.k8s.io/v1", "inference.networking.k8s.io/v1"
CONTROLLER, CLASS = "example.com/small-cluster", "small-cluster"
STARTED = "2026-01-01T00:00:00Z"


def condition(kind: str, status: bool, reason: str, generation: int) -> Json:
    return {
        "type": kind,
        "status": str(status),
        "reason": reason,
        "message": "",
        "observedGeneration": generation,
        "lastTransitionTime": STARTED,
    }


def name_of(one: Mapping[str, Any]) -> str:
    return one["metadata"]["name"]


def selected(selector: Mapping[str, str], pods: Sequence[Json]) -> list[Json]:
    return [pod for pod in pods if selector.items() <= pod["metadata"].get("labels", {}).items()]


class SmallCluster:
    """One for a run of the suite."""

    def __init__(self, control_plane: ControlPlane, servers: Servers, directory: Path) -> None:
        self._control_plane, self._servers, self._directory = control_plane, servers, directory
        self._api = control_plane.api
        self._backend = Namespace(control_plane, BACKEND)
        self._infra = Namespace(control_plane, INFRA)
        self.children: list[Child] = []
        self._running: list[EchoServer | Front] = []
        self._deployed: set[str] = set()
        self._fronts: dict[str, Front] = {}
        self._envoys: dict[str, Envoy] = {}
        self._written: dict[str, Json] = {}
        """Statuses as last written, by path."""

    def begin(self) -> None:
        """Say that gateways are made here."""
        body = {"apiVersion": GATEWAY_API, "kind": "GatewayClass", "metadata": {"name": CLASS}}
        body["spec"] = {"controllerName": CONTROLLER}
        made = self._api.create(f"/apis/{GATEWAY_API}/gatewayclasses", body)
        accepted = [condition("Accepted", True, "Accepted", made["metadata"]["generation"])]
        self._report(f"/apis/{GATEWAY_API}/gatewayclasses/{CLASS}", {"conditions": accepted})

    def end(self) -> None:
        for envoy in self._envoys.values():
            envoy.stop()
        for child in self.children:
            child.stop()
        for server in self._running:
            self._servers.run(server.stop())

    def logs(self) -> dict[str, str]:
        """The ends of the pickers' logs, for when something fails."""
        return {child.name: child.tail() for child in self.children}

    def step(self) -> None:
        """Do what is wanting now."""
        for deployment in self._all("deployments", api="apps/v1"):
            if name_of(deployment) not in self._deployed:
                self._deployed.add(name_of(deployment))
                self._deploy(deployment)
        pods = [pod for pod in self._all("pods") if pod["status"].get("podIP")]
        services = self._all("services")
        self._slice(services, pods)
        gateways = self._all("gateways", api=GATEWAY_API, namespace=self._infra)
        for gateway in gateways:
            self._gateway(gateway)
        routes = self._all("httproutes", api=GATEWAY_API)
        pools = {name_of(one): one for one in self._all("inferencepools", api=POOL_API)}
        self._pools(pools, routes, services, pods)
        self._routes(routes, pools)

    # What the kubelet and the controllers of Kubernetes do.

    def _deploy(self, deployment: Json) -> None:
        template = deployment["spec"]["template"]
        containers = template["spec"]["containers"]
        is_picker = containers[0]["name"] == "epp"
        ports = {port["containerPort"] for one in containers for port in one["ports"]}
        for number in range(deployment["spec"]["replicas"]):
            pod, ip = f"{name_of(deployment)}-{number}", next(ADDRESSES)
            self._make_pod(self._backend, pod, template["metadata"]["labels"])
            if is_picker:
                self._start_picker(pod, ip, template["spec"])
            else:
                for port in ports:
                    self._run(EchoServer(ip, port, pod, BACKEND))
            self._pod_is_ready(self._backend, pod, ip)

    def _start_picker(self, pod: str, ip: str, spec: Json) -> None:
        """Start what a picker's container would: the arguments are the Deployment's, the ConfigMap lies where it is mounted."""
        (container,) = spec["containers"]
        arguments = [str(self._mounted(spec, one)) for one in container["args"]]
        service_account = self._service_account()
        command = [sys.executable, "-m", "epp", *arguments, "--bind", ip, "--log-format", "text", "--drain-timeout", "0s"]
        child = Child(pod, command, environment={"KUBECONFIG": str(service_account)})
        self.children.append(child)
        probe = container["readinessProbe"]["grpc"]
        child.wait_until(lambda: health(ip, probe["port"], probe["service"]) == "SERVING", START_S, f"{pod} is ready")

    def _mounted(self, spec: Json, argument: str) -> str:
        for volume, mount in zip(spec.get("volumes", ()), spec["containers"][0].get("volumeMounts", ()), strict=True):
            directory = self._directory / volume["name"]
            directory.mkdir(exist_ok=True)
            found = self._api.get(self._backend.path("configmaps", volume["configMap"]["name"]))
            for name, text in found["data"].items():
                (directory / name).write_text(text)
            argument = argument.replace(mount["mountPath"], str(directory))
        return argument

    def _service_account(self) -> Path:
        file = self._control_plane.directory / f"{BACKEND}-default.kubeconfig"
        if not file.exists():
            self._backend.create("serviceaccounts", {"metadata": {"name": "default"}})
            self._backend.kubeconfig("default")
        return file

    def _make_pod(self, namespace: Namespace, name: str, labels: Mapping[str, str]) -> None:
        spec = {"nodeName": NODE, "containers": [{"name": "all", "image": "all"}]}
        namespace.create("pods", {"metadata": {"name": name, "labels": labels}, "spec": spec})

    def _pod_is_ready(self, namespace: Namespace, name: str, ip: str) -> None:
        conditions = [{"type": kind, "status": "True"} for kind in ("Ready", "ContainersReady", "PodScheduled", "Initialized")]
        status = {"phase": "Running", "conditions": conditions, "podIP": ip, "podIPs": [{"ip": ip}]}
        self._report(namespace.path("pods", name), status)

    def _slice(self, services: Sequence[Json], pods: Sequence[Json]) -> None:
        """Keep an EndpointSlice for each Service, for whoever counts; it may hold no loopback address, so it holds others."""
        for service in services:
            found = selected(service["spec"]["selector"], pods)
            endpoints = [{"addresses": [f"192.0.2.{number}"], "conditions": {"ready": True}} for number in range(len(found))]
            name = name_of(service)
            path = self._backend.path("endpointslices", api="discovery.k8s.io/v1")
            body = {"addressType": "IPv4", "endpoints": endpoints}
            if self._written.get(f"{path}/{name}") == body:
                continue
            metadata = {"name": name, "labels": {"kubernetes.io/service-name": name}}
            if f"{path}/{name}" in self._written:
                self._api.patch(f"{path}/{name}", body)
            else:
                self._api.create(path, {"metadata": metadata, **body})
            self._written[f"{path}/{name}"] = body

    # What a gateway and its controller do.

    def _gateway(self, gateway: Json) -> None:
        name, generation = name_of(gateway), gateway["metadata"]["generation"]
        if name not in self._fronts:
            ip = next(ADDRESSES)
            (listener,) = gateway["spec"]["listeners"]
            self._fronts[name] = self._run(Front(ip, listener["port"]))
            self._make_pod(self._infra, name, {"gateway": name})
            self._pod_is_ready(self._infra, name, ip)
            conditions = [condition(kind, True, kind, generation) for kind in ("Accepted", "Programmed")]
            status = {"addresses": [{"type": "IPAddress", "value": ip}], "conditions": conditions}
            self._report(self._infra.path("gateways", name, api=GATEWAY_API), status)

    def _pools(self, pools: Mapping[str, Json], routes: Sequence[Json], services: Sequence[Json], pods: Sequence[Json]) -> None:
        known = {name_of(one): one for one in services}
        for name, pool in pools.items():
            ref = pool["spec"].get("endpointPickerRef", {"name": ""})
            resolved = ref["name"] in known
            parents = sorted({parent for route in routes if name in backends(route) for parent in parents_of(route)})
            generation = pool["metadata"]["generation"]
            conditions = [
                condition("Accepted", True, "Accepted", generation),
                condition("ResolvedRefs", resolved, "ResolvedRefs" if resolved else "InvalidExtensionRef", generation),
            ]
            kind = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": INFRA}
            status = {"parents": [{"parentRef": {**kind, "name": parent}, "conditions": conditions} for parent in parents]}
            self._report(self._backend.path("inferencepools", name, api=POOL_API), status, key=pool["metadata"]["uid"])
            if resolved:
                self._envoy(pool, selected(known[ref["name"]]["spec"]["selector"], pods), pods)

    def _envoy(self, pool: Json, pickers: Sequence[Json], pods: Sequence[Json]) -> None:
        """Keep the Envoy of a pool, once its picker runs, and its list of endpoints."""
        name, spec = name_of(pool), pool["spec"]
        members = selected(spec["selector"]["matchLabels"], pods)
        directory = self._directory / name
        directory.mkdir(exist_ok=True)
        file = directory / "endpoints.json"
        ports = [port["number"] for port in spec["targetPorts"]]
        places = [SocketAddress(host=pod["status"]["podIP"], port=port) for pod in members for port in ports]
        write(file, endpoints_json(places))
        if name in self._envoys or not pickers:
            return
        ref = spec["endpointPickerRef"]
        options = EnvoyOptions(
            listener=SocketAddress(port=0),
            pickers=[SocketAddress(host=pod["status"]["podIP"], port=ref["port"]["number"]) for pod in pickers],
            pool=EndpointFile(path=file),
            fail_open=ref.get("failureMode") == "FailOpen",
            health_interval_s=0.2,
        )
        self._envoys[name] = start(options, directory)

    def _routes(self, routes: Sequence[Json], pools: Mapping[str, Json]) -> None:
        for route in routes:
            there = all(backend in pools for backend in backends(route))
            generation = route["metadata"]["generation"]
            conditions = [
                condition("Accepted", True, "Accepted", generation),
                condition("ResolvedRefs", there, "ResolvedRefs" if there else "BackendNotFound", generation),
            ]
            parents = [
                {"parentRef": parent, "controllerName": CONTROLLER, "conditions": conditions}
                for parent in route["spec"]["parentRefs"]
            ]
            path = self._backend.path("httproutes", name_of(route), api=GATEWAY_API)
            self._report(path, {"parents": parents}, key=route["metadata"]["uid"])
        for gateway, front in self._fronts.items():
            front.rules = [rule for route in routes if gateway in parents_of(route) for rule in self._rules(route)]

    def _rules(self, route: Json) -> list[Rule]:
        rules = []
        for rule in route["spec"]["rules"]:
            targets = {self._target(one["name"]): one.get("weight", 1) for one in rule["backendRefs"]}
            for match in rule.get("matches", [{}]):
                prefix = match.get("path", {"value": "/"})["value"]
                rules.append(Rule(hosts=route["spec"].get("hostnames", ()), prefix=prefix, targets=targets))
        return rules

    def _target(self, pool: str) -> str:
        envoy = self._envoys.get(pool)
        return "" if envoy is None else join_host_port(envoy.host, envoy.port)

    # Means.

    def _all(self, kind: str, *, api: str = "v1", namespace: Namespace | None = None) -> list[Json]:
        return self._api.get((namespace or self._backend).path(kind, api=api))["items"]

    def _report(self, path: str, status: Json, *, key: str = "") -> None:
        """Write a status, if it is another than before; an object may have gone meanwhile."""
        if self._written.get(path + key) != status:
            try:
                self._api.patch(f"{path}/status", {"status": status})
            except Refused as refused:
                if refused.status != 404:
                    raise
            self._written[path + key] = status

    def _run(self, server: Any) -> Any:
        self._servers.run(server.start())
        self._running.append(server)
        return server


def backends(route: Json) -> set[str]:
    """The pools that a route leads to."""
    return {one["name"] for rule in route["spec"]["rules"] for one in rule.get("backendRefs", ())}


def parents_of(route: Json) -> set[str]:
    """The gateways that a route belongs to."""
    return {parent["name"] for parent in route["spec"]["parentRefs"]}
