"""A configuration that changes as a ConfigMap: applied with kubectl under traffic, at work at once, and told of in Events."""

import time
from collections.abc import Callable

import pytest
import yaml

from epp.cli import main
from tests.data_plane.clients import request
from tests.data_plane.rig import PickerProcess, eventually
from tests.kube.namespace import Namespace
from tests.kube.pods import Pod
from tests.kube.rig import BASE, until_known
from tests.kube.traffic import traffic

ENTRY = "config.yaml"
APPROXIMATE = "strategy: {chain: [approximate]}"
HASH = "strategy: {chain: [consistent-hash], load: none}"
TAKEN_S = 2.0
"""A change must be at work by then."""


class Configured:
    """The one ConfigMap that the chart's Role lets a picker see."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        rules = namespace.control_plane.picker_rules()
        (self.name,) = next(rule["resourceNames"] for rule in rules if rule["resources"] == ["configmaps"])

    @property
    def flags(self) -> list[str]:
        return ["--config-map", f"{self.name}/{ENTRY}"]

    def apply(self, text: str) -> None:
        """Change it, as people do."""
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": self.name}, "data": {ENTRY: text}}
        self._namespace.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(body))

    def delete(self) -> None:
        self._namespace.kubectl("delete", "configmap", self.name)

    def events(self) -> dict[str, list[dict]]:
        """The Events on it, by reason."""
        found: dict[str, list[dict]] = {}
        for event in self._namespace.api.get(self._namespace.path("events", api="events.k8s.io/v1"))["items"]:
            if event["regarding"]["kind"] == "ConfigMap" and event["regarding"]["name"] == self.name:
                found.setdefault(event["reason"], []).append(event)
        return found


@pytest.fixture
def configured(namespace: Namespace) -> Configured:
    configured = Configured(namespace)
    configured.apply(APPROXIMATE)
    return configured


@pytest.fixture
def pool(namespace, pods) -> list[Pod]:
    namespace.pool(labels=pods.labels, ports=pods.ports)
    return [pods.add() for _ in range(3)]


def strategy(picker: PickerProcess) -> str:
    """The strategy of the configuration in force."""
    (one,) = picker.page("/strategies")["strategies"]
    return one["name"]


def latest(picker: PickerProcess) -> str:
    """The strategy that decided last; a prompt that nobody knows has none."""
    decisions = picker.page("/decisions?limit=1")["decisions"]
    return decisions[0]["strategy"]["name"] if decisions else ""


def soon(condition: Callable[[], object], what: str) -> None:
    eventually(condition, what, TAKEN_S)


def test_kubectl_apply_under_traffic(namespace, rig, pool, configured, capsys):
    with rig.picker(namespace, config=None, flags=configured.flags) as picker, rig.gateway(picker) as gateway:
        until_known(picker, *pool)
        with traffic(gateway) as sent:
            sent.wait_for(50)
            configured.apply(HASH)
            soon(lambda: latest(picker) == "consistent-hash", "the new strategy decides")
            sent.wait_for(50)
            configured.apply("strategy: {chian: []}")
            soon(lambda: picker.page("/config")["status"]["error"], "what is wrong is said")
            sent.wait_for(50)
            assert strategy(picker) == "consistent-hash"
            configured.apply(APPROXIMATE)
            soon(lambda: strategy(picker) == "approximate", "there again")
            sent.wait_for(50)
        assert sent.failed == []
        assert picker.page("/config")["generation"] == 3
        eventually(lambda: len(configured.events().get("ConfigApplied", ())) == 2, "both are told of")
        (refused,) = configured.events()["ConfigRefused"]
        assert (refused["type"], refused["reportingController"]) == ("Warning", "llm-d.ai/epp")
        assert refused["note"].startswith("strategy.chian: unknown field; did you mean 'chain'?; from ConfigMap")
        assert main(["config", "history", "--admin", f"http://{picker.host}:{picker.port}"]) == 0
        assert capsys.readouterr().out.count("\n") == 3
        described = namespace.kubectl("events", "--for", f"configmap/{configured.name}")
        assert "ConfigRefused" in described


def test_a_rollback_holds_against_the_config_map_until_it_is_unpinned(namespace, rig, pool, configured):
    with rig.picker(namespace, config=None, flags=configured.flags) as picker:
        admin = ["--admin", f"http://{picker.host}:{picker.port}"]
        configured.apply(HASH)
        eventually(lambda: strategy(picker) == "consistent-hash", "it is taken")
        assert main(["config", "rollback", *admin]) == 0
        assert strategy(picker) == "approximate"
        configured.apply("strategy: {chain: [consistent-hash]}")
        eventually(lambda: picker.page("/config")["status"]["newest"]["held"], "the newest waits")
        assert strategy(picker) == "approximate"
        assert main(["config", "unpin", *admin]) == 0
        assert strategy(picker) == "consistent-hash"
        eventually(lambda: {"ConfigPinned", "ConfigHeld", "ConfigUnpinned"} <= set(configured.events()), "all is told of")


def test_a_config_map_that_goes_leaves_everything_as_it_was(namespace, rig, pool, configured):
    with rig.picker(namespace, config=None, flags=configured.flags) as picker:
        configured.delete()
        eventually(lambda: picker.page("/config")["status"]["error"], "it is missed")
        assert "does not exist" in picker.page("/config")["status"]["error"]["message"]
        assert strategy(picker) == "approximate"
        configured.apply(HASH)
        eventually(lambda: strategy(picker) == "consistent-hash", "it is back")
        assert picker.page("/config")["status"]["error"] is None


def test_a_mounted_file_that_is_behind_the_config_map_is_not_listened_to(namespace, rig, pool, configured, tmp_path):
    file = tmp_path / ENTRY
    file.write_text(yaml.safe_dump(BASE) + APPROXIMATE)
    flags = [*configured.flags, "--config-file", str(file)]
    with rig.picker(namespace, config=None, flags=flags) as picker:
        configured.apply(HASH)
        eventually(lambda: strategy(picker) == "consistent-hash", "the ConfigMap is taken")
        failures = picker.page("/config")["status"]["failures"]
        for text in ("strategy: {chain: [approximate], load: llm-d}", "strategy: {chian: []}"):
            file.write_text(text)
            time.sleep(1.5)
        assert strategy(picker) == "consistent-hash"
        assert picker.page("/config")["status"]["failures"] == failures


def test_an_api_server_that_is_away_changes_nothing_and_what_it_missed_comes(control_plane, namespace, rig, pool, configured):
    with rig.picker(namespace, config=None, flags=configured.flags) as picker:
        assert 'resource="configmaps"' in request(picker, "GET", "/metrics").body.decode()
        control_plane.stop_api()
        eventually(lambda: any("configmaps are as they were" in one for one in picker.page("/readyz")["remarks"]), "it is said")
        assert strategy(picker) == "approximate"
        control_plane.start_api()
        configured.apply(HASH)
        eventually(lambda: strategy(picker) == "consistent-hash", "what came after is taken", 30.0)


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("nobody", "ConfigMap {namespace}/nobody cannot be read: Forbidden"),
        ("{name}/none", "ConfigMap {namespace}/{name} has no entry 'none'; there are: config.yaml"),
    ],
)
def test_without_a_configuration_it_does_not_start(namespace, rig, pool, configured, flag, says):
    flags = ["--config-map", flag.format(name=configured.name)]
    with rig.picker(namespace, config=None, flags=flags, ready=False) as picker:
        assert picker.child.wait(30.0) == 2
        assert says.format(namespace=namespace.name, name=configured.name) in picker.child.tail()
