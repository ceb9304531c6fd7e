"""The files in manifests/: a real API server accepts them, and they fit together."""

import json
from pathlib import Path

import pytest
import yaml

from epp.config import load
from epp.scheduling.build import build
from epp.scheduling.registry import Registry
from tests.chart.rendered import ROOT
from tests.chart.test_providers import ADDED

MANIFESTS = ROOT / "manifests"
EXAMPLES = MANIFESTS / "examples"
STRATEGIES = sorted(one.stem for one in (MANIFESTS / "strategies").iterdir())


def objects(file: Path) -> list[dict]:
    return [one for one in yaml.load_all(file.read_text(), yaml.CSafeLoader) if one]


def test_the_api_server_accepts_them(control_plane, definitions, namespace):
    """The rendered ones are for the namespace `default`; the others are for any."""
    for where, files in (
        ("default", sorted((MANIFESTS / "install").iterdir())),
        (namespace.name, sorted([*EXAMPLES.rglob("*.yaml"), *(MANIFESTS / "configmaps").iterdir()])),
    ):
        text = "\n---\n".join(file.read_text() for file in files)
        arguments = ["apply", "--dry-run=server", "--validate=strict", "--namespace", where, "--filename", "-"]
        said = control_plane.kubectl(*arguments, stdin=text)
        assert len(said.splitlines()) == sum(len(objects(file)) for file in files)


def test_there_is_one_of_each_for_every_gateway():
    providers = set(ADDED) - {"none"}
    assert {file.stem for file in (EXAMPLES / "gateways").iterdir()} == providers
    assert {file.stem for file in (MANIFESTS / "install").iterdir()} == providers | {"epp", "active-active", "leader", "standalone"}


@pytest.mark.parametrize("file", sorted((EXAMPLES / "gateways").iterdir()), ids=lambda file: file.stem)
def test_the_routes_lead_to_the_pool_of_the_release_they_name(file):
    gateway, route = objects(file)
    assert "helm install llama" in file.read_text()
    assert route["spec"]["parentRefs"] == [{"name": gateway["metadata"]["name"]}]
    (rule,) = route["spec"]["rules"]
    assert rule["backendRefs"] == [{"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "llama"}]


@pytest.mark.parametrize("name", STRATEGIES)
def test_each_strategy_is_a_config_map_for_the_picker_installed_as_epp(name):
    (config_map,) = objects(MANIFESTS / "configmaps" / f"{name}.yaml")
    assert config_map["data"]["config.yaml"] == (MANIFESTS / "strategies" / f"{name}.yaml").read_text()
    assert build(load(config_map["data"]["config.yaml"]), Registry()).profiles
    deployment = next(one for one in objects(MANIFESTS / "install" / "epp.yaml") if one["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert f"--config-map={config_map['metadata']['name']}/config.yaml" in container["args"]


def test_rendered_manifests_do_not_say_that_helm_made_them():
    for file in (MANIFESTS / "install").iterdir():
        assert "managed-by" not in file.read_text()
        assert "helm.sh/chart" not in file.read_text()


def test_the_model_servers_publish_where_accurate_listens():
    deployment, policy = objects(EXAMPLES / "vllm.yaml")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    arguments = container["args"]
    events = json.loads(arguments[arguments.index("--kv-events-config") + 1])
    assert events["enable_kv_cache_events"] is True
    assert "--enable-prefix-caching" in arguments
    accurate = yaml.safe_load((MANIFESTS / "strategies" / "accurate.yaml").read_text())["strategy"]["accurate"]
    discovery = accurate["kvEventsConfig"]["podDiscovery"]
    assert events["endpoint"] == f"tcp://*:{discovery['socketPort']}"
    assert events["replay_endpoint"] == f"tcp://*:{discovery['replaySocketPort']}"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": 8000, "kv-events": discovery["socketPort"], "kv-replay": discovery["replaySocketPort"]}
    pool = next(one for one in objects(MANIFESTS / "install" / "epp.yaml") if one["kind"] == "InferencePool")["spec"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert pool["selector"]["matchLabels"].items() <= labels.items()
    assert pool["targetPorts"] == [{"number": ports["http"]}]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
