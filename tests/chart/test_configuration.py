"""The picker's configuration: what the values make of it, and how it gets to the picker."""

import pytest
import yaml

from epp.config import load
from epp.scheduling.build import build
from epp.scheduling.registry import Registry
from tests.chart.rendered import NAME, ROOT


def test_the_strategy_is_what_the_configuration_says(chart):
    assert chart.render().config["strategy"] == {"chain": ["approximate", "consistent-hash"], "load": "marginal-cost"}
    rendered = chart.render(
        "strategy.chain={accurate}", "strategy.tokenizer.tokenizer=/models/llama", "config.limits.requestsMax=10"
    )
    assert rendered.config["strategy"] == {
        "chain": ["accurate"],
        "load": "marginal-cost",
        "tokenizer": {"tokenizer": "/models/llama"},
    }
    assert rendered.config["limits"] == {"requestsMax": 10}


@pytest.mark.parametrize("file", sorted((ROOT / "manifests" / "strategies").iterdir()), ids=lambda file: file.stem)
def test_a_strategys_file_goes_in_as_it_is(chart, file):
    config_map = chart.render(more=[f"--set-file=configText={file}"]).one("ConfigMap")
    assert config_map["data"]["config.yaml"].rstrip() == file.read_text().rstrip()


def test_a_configuration_with_profiles_takes_the_place_of_the_strategy(chart, tmp_path):
    values = tmp_path / "values.yaml"
    config = {
        "schedulingProfiles": [{"name": "default", "plugins": [{"pluginRef": "random-picker"}]}],
        "plugins": [{"type": "random-picker"}],
    }
    values.write_text(yaml.safe_dump({"strategy": None, "config": config}))
    rendered = chart.render(more=["--values", str(values)])
    assert {key: rendered.config[key] for key in config} == config
    assert "strategy" not in rendered.config


@pytest.mark.parametrize(
    "values",
    [
        (),
        ("strategy.load=none",),
        ("strategy.chain={accurate,approximate}",),
        ("strategy.trial.for=5m",),
        ("config.server.bodyModeDefault=none",),
    ],
    ids=str,
)
def test_the_picker_understands_the_configuration(chart, values):
    text = chart.render(*values).named("ConfigMap", NAME)["data"]["config.yaml"]
    assert build(load(text), Registry()).profiles


def test_the_configuration_is_mounted_as_a_directory_and_followed(chart):
    rendered = chart.render()
    (mount,) = rendered.picker["volumeMounts"]
    assert "subPath" not in mount, "the kubelet does not update what is mounted by subPath"
    assert rendered.flags["config-file"] == f"{mount['mountPath']}/config.yaml"
    assert rendered.flags["config-map"] == f"{NAME}/config.yaml"
    annotations = rendered.one("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert not [key for key in annotations if "checksum" in key], "a change must not restart the picker"
    assert rendered.one("Deployment") == chart.render("strategy.load=none").one("Deployment")
    assert "config-map" not in chart.render("watchConfigMap=false").flags


def test_a_config_map_of_ones_own(chart):
    rendered = chart.render("existingConfigMap=mine")
    assert rendered.all("ConfigMap") == []
    assert rendered.pod["volumes"] == [{"name": "config", "configMap": {"name": "mine"}}]
    assert rendered.flags["config-map"] == "mine/config.yaml"
