"""What the conformance suite of the Gateway API Inference Extension asks of a picker, with its pools, ranks, headers and numbers.

The suite itself tests gateways and wants a cluster with one; here is its part that a picker decides, through a real Envoy that goes
where it is told. The pickers start as the suite starts them, with the configuration in manifests/conformance.
"""

import argparse
import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from epp.flags import ServeOptions, add_serve_flags, read_serve_flags
from epp.model.endpoint import join_host_port
from epp.standalone.launcher import Envoy
from epp.standalone.options import EndpointFile
from tests.data_plane.clients import Response, request
from tests.data_plane.rig import PickerProcess, free_port
from tests.kube.echo import EchoServer
from tests.kube.namespace import Namespace
from tests.kube.pods import Pod, Pods, Servers
from tests.kube.rig import Rig, until_known, write_endpoints

MANIFESTS = Path(__file__).parents[2] / "manifests" / "conformance"
CONFIG = yaml.safe_load((MANIFESTS / "config.yaml").read_text())
SELECTION, SERVED = "test-epp-endpoint-selection", "x-conformance-test-served-endpoint"
BODY = b'{"model": "conformance-fake-model", "prompt": "Write as if you were a critic: San Francisco"}'
READ = ["get", "list", "watch"]
RULES = [
    {"apiGroups": ["inference.networking.k8s.io"], "resources": ["inferencepools"], "verbs": READ},
    {"apiGroups": [""], "resources": ["pods"], "verbs": READ},
]
"""The suite's Role: a picker learns of pools and pods and of nothing else."""
REPLICAS = 3


class Suite:
    """Pools of the suite, each with its pods, its picker and its gateway."""

    def __init__(self, namespace: Namespace, pods: Pods, servers: Servers, rig: Rig, directory: Path) -> None:
        self._namespace, self._pods, self._servers, self._rig = namespace, pods, servers, rig
        self._directory = directory
        self._user = namespace.service_account("default-of-the-suite", RULES)

    def pool(self, name: str, ports: Sequence[int], **spec: Any) -> list[Pod]:
        """Make a pool and its pods, an echo server at each of their ports."""
        labels = {"app": f"{name}-model-server"}
        self._namespace.pool(name, labels=labels, ports=ports, **spec)
        pods = [self._pods.add(serving=False, ready=False, labels=labels, ports=ports) for _ in range(REPLICAS)]
        for pod in pods:
            for port in pod.ports:
                server = EchoServer(pod.ip, port, pod.name)
                self._servers.run(server.start())
                pod.running.append(server)
            pod.ready()
        return pods

    @contextmanager
    def picker(self, pool: str, *, config: dict | None = CONFIG) -> Iterator[PickerProcess]:
        """The picker of a pool, with the arguments of the suite's Deployments."""
        target = ["--pool-name", pool, "--zap-encoder", "json"]
        with self._rig.picker(self._namespace, target=target, kubeconfig=self._user, config=config) as picker:
            assert picker.health("inference-extension") == "SERVING", "this is what the probes ask for"
            yield picker

    @contextmanager
    def gateway(self, pool: str, pods: Sequence[Pod], *, config: dict | None = CONFIG) -> Iterator[Envoy]:
        """A gateway before a pool, with its picker."""
        file = self._directory / pool / "endpoints.json"
        write_endpoints(file, pods)
        with self.picker(pool, config=config) as picker, self._rig.gateway(picker, pool=EndpointFile(path=file)) as gateway:
            until_known(picker, *pods)
            yield gateway


@pytest.fixture
def suite(namespace, pods, servers, rig, tmp_path_factory) -> Suite:
    return Suite(namespace, pods, servers, rig, tmp_path_factory.mktemp("endpoints"))


def read(arguments: Sequence[str]) -> ServeOptions:
    """The options that a Deployment's arguments stand for."""
    parser = argparse.ArgumentParser()
    add_serve_flags(parser)
    return read_serve_flags(parser.parse_args(arguments))


def post(gateway: Envoy, path: str, *selected: str) -> Response:
    """A completion, asked for on a path that no model server knows."""
    headers = [("content-type", "application/json"), (SELECTION, ",".join(selected))]
    return request(gateway, "POST", path, BODY, headers)


def servers_of(path: str, *selected: str, gateways: Sequence[Envoy], requests: int, parallel: int) -> Counter[str]:
    """Who answers so many requests; each is answered with 200, by the endpoint that the gateway reports.

    Args:
        path: asked for.
        selected: items of the header.
        gateways: whom each request is sent to, in turn.
        requests: how many.
        parallel: how many at once.
    """
    with ThreadPoolExecutor(parallel) as pool:
        answers = list(pool.map(lambda number: post(gateways[number % len(gateways)], path, *selected), range(requests)))
    assert {answer.status for answer in answers} == {200}
    assert all(answer.header(SERVED) == answer.header("x-served-by") for answer in answers)
    assert all(json.loads(answer.body)["body"].encode() == BODY for answer in answers)
    return Counter(answer.header("x-served-by") for answer in answers)


def test_this_picker_takes_the_place_of_the_suites_own(control_plane, tmp_path):
    """The suite's manifests, put together with ours by the kubectl of the instructions."""
    shutil.copytree(MANIFESTS, tmp_path, dirs_exist_ok=True)
    theirs = control_plane.assets.definitions("conformance")
    (tmp_path / "base.yaml").write_text(yaml.safe_dump_all(theirs))
    objects = list(yaml.safe_load_all(control_plane.kubectl("kustomize", str(tmp_path))))
    before, after = (
        {(one["kind"], one["metadata"]["name"]): one for one in collection if one["kind"] != "Namespace"}
        for collection in (theirs, objects)
    )
    config_map = after.pop(("ConfigMap", "epp-conformance"))
    assert config_map["data"] == {"config.yaml": (MANIFESTS / "config.yaml").read_text()}
    pickers = {name for kind, name in after if kind == "Deployment" and name.endswith("-endpoint-picker")}
    assert len(pickers) == len([one for kind, one in before if kind == "InferencePool"]) == 5
    for name in pickers:
        new, old = after["Deployment", name]["spec"]["template"]["spec"], before["Deployment", name]["spec"]["template"]["spec"]
        (container,), (old_container,) = new["containers"], old["containers"]
        assert new.pop("volumes") == [{"name": "config", "configMap": {"name": "epp-conformance"}}]
        assert container.pop("volumeMounts") == [{"name": "config", "mountPath": "/etc/epp", "readOnly": True}]
        assert container.pop("image") != old_container.pop("image")
        options = read(container["args"])
        assert (options.grpc_port, options.grpc_health_port, str(options.config_file)) == (9002, 9003, "/etc/epp/config.yaml")
        assert ("InferencePool", options.pool_name) in before
        assert options.ignored == ("zap-encoder",)
        assert container["args"].pop() == "--config-file=/etc/epp/config.yaml"
        assert {container[f"{kind}Probe"]["grpc"]["service"] for kind in ("liveness", "readiness")} == {"inference-extension"}
    assert after == before, "nothing else is another"
    assert before["Role", "inference-model-reader"]["rules"] == RULES


def test_gateway_following_epp_routing(suite):
    """GatewayFollowingEPPRouting, GatewayDestinationEndpointServed: by addresses alone, and who served is told."""
    pods = suite.pool("primary", [free_port()])
    with suite.gateway("primary", pods) as gateway:
        for pod in pods:
            (answer,) = servers_of("/destination-endpoint-served-test", pod.ip, gateways=[gateway], requests=1, parallel=1)
            assert answer in pod.addresses
        for chosen in ([pods[2]], [pods[0], pods[1]], pods):
            served = servers_of("/primary-gateway-test", *(pod.ip for pod in chosen), gateways=[gateway], requests=100, parallel=10)
            assert served.keys() <= {address for pod in chosen for address in pod.addresses}


def test_gateway_following_epp_routing_with_data_parallelism(suite):
    """GatewayFollowingEPPRoutingWithDataParallelism: an address alone stands for every rank, with a port for one."""
    ranks = [free_port(), free_port(), free_port()]
    pods = suite.pool("dp", ranks)
    first, second, third = pods
    with suite.gateway("dp", pods) as gateway:
        for pod in pods:
            for address in pod.addresses:
                assert servers_of("/primary-gateway-dp-test", address, gateways=[gateway], requests=1, parallel=1) == {address: 1}
        for header, expected in (
            ([second.ip], second.addresses),
            ([first.ip, f"{third.ip}:{ranks[1]}"], first.addresses | {f"{third.ip}:{ranks[1]}"}),
            (
                [first.ip, f"{second.ip}:{ranks[0]}", f"{second.ip}:{ranks[2]}", third.ip],
                first.addresses | third.addresses | {f"{second.ip}:{ranks[0]}", f"{second.ip}:{ranks[2]}"},
            ),
        ):
            served = servers_of("/primary-gateway-dp-test", *header, gateways=[gateway], requests=100, parallel=10)
            assert served.keys() <= expected


def test_gateway_weighted_across_two_inference_pools(suite):
    """GatewayWeightedAcrossTwoInferencePools: both pickers are given the pods of both pools, and each keeps to its own."""
    port = free_port()
    own, others = suite.pool("primary", [port]), suite.pool("secondary", [port])
    everybody = [pod.ip for pod in (*own, *others)]
    with suite.gateway("primary", own) as first, suite.gateway("secondary", others) as second:
        for gateway, mine, foreign in ((first, own, others), (second, others, own)):
            for pod in mine:
                assert post(gateway, "/weighted-two-pools-test", f"{pod.ip}:{port}").header(SERVED) in pod.addresses
            for pod in foreign:
                refused = post(gateway, "/weighted-two-pools-test", f"{pod.ip}:{port}")
                assert (refused.status, refused.header("x-served-by")) == (429, None), "not answered by another pod instead"
        drawn = random.Random(7).choices([first, second], weights=[70, 30], k=200)
        served = servers_of("/weighted-two-pools-test", *everybody, gateways=drawn, requests=200, parallel=5)
    hits = sum(served[address] for pod in own for address in pod.addresses)
    assert hits == drawn.count(first)
    assert served.total() - hits == sum(served[address] for pod in others for address in pod.addresses)


@pytest.mark.parametrize("protocol", ["http", "kubernetes.io/h2c"])
def test_inference_pool_app_protocol(suite, protocol):
    """InferencePoolAppProtocol: what is spoken to the pods is the gateway's business; the picker is ready, and picks."""
    port = free_port()
    pods = suite.pool("appprotocol", [port], appProtocol=protocol)
    with suite.gateway("appprotocol", pods) as gateway:
        for pod in pods:
            chosen = join_host_port(pod.ip, port)
            answer = post(gateway, "/inferencepool-app-protocol", chosen)
            assert (answer.status, answer.header(SERVED)) == (200, chosen)


def test_requests_without_a_body_and_without_the_header(suite):
    """The tests of routes, which send GET to paths of their own and say nothing of endpoints, so everybody may answer them."""
    pods = suite.pool("primary", [free_port()])
    paths = ["/", "/primary", "/test-port-unspecified", "/test-port-non-matching?a=b", "/secondary-gateway-test", "/v1/models"]
    with suite.gateway("primary", pods) as gateway:
        for path in paths:
            answer = request(gateway, "GET", path, headers=[(SELECTION, "")])
            assert answer.status == 200
            assert answer.header(SERVED) == answer.header("x-served-by")
            echoed = json.loads(answer.body)
            assert (echoed["method"], echoed["path"]) == ("GET", path.partition("?")[0])
        warm = [request(gateway, "POST", "/primary-gateway-test", BODY, [("content-type", "application/json")]) for _ in range(60)]
        assert {answer.status for answer in warm} == {200}
        pinned = [request(gateway, "GET", "/primary", headers=[(SELECTION, pods[1].ip)]) for _ in range(10)]
        assert {answer.header("x-served-by") for answer in pinned} == pods[1].addresses


def test_by_default_nobody_chooses_an_endpoint_or_is_told_which_it_was(suite):
    """Without the suite's configuration: the picker starts with its arguments, is ready, and the two headers mean nothing."""
    pods = suite.pool("primary", [free_port()])
    with suite.gateway("primary", pods, config=None) as gateway:
        answers = [post(gateway, "/primary-gateway-test", "192.0.2.1") for _ in range(10)]
    assert {answer.status for answer in answers} == {200}
    assert {answer.header(SERVED) for answer in answers} == {None}
