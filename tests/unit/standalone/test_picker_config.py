"""The pool file is named in one place, and the picker's configuration says where."""

from pathlib import Path

import pytest

from epp.config import load
from epp.errors import ConfigError
from epp.standalone.picker_config import picker_config

NAMED = """
plugins:
- {type: file-discovery, name: mine, parameters: {path: /etc/pool.yaml}}
dataLayer: {discovery: {pluginRef: mine}}
"""
NESTED = NAMED.replace("{pluginRef: mine}", "{endpoints: {pluginRef: mine}}")


def discovered(text: str) -> dict:
    """The parameters of the plugin that the configuration's discovery names."""
    config = load(text)
    (spec,) = [one for one in config.plugins if one.label == config.data_layer.discovery.plugin_ref]
    assert spec.type == "file-discovery"
    return spec.parameters


def test_a_pool_file_is_enough():
    text, file = picker_config(None, Path("/srv/pool.yaml"))
    assert file == Path("/srv/pool.yaml")
    assert discovered(text) == {"path": "/srv/pool.yaml", "watchFile": True}
    assert load(text).strategy.chain == ("approximate", "consistent-hash")


def test_a_relative_pool_file_becomes_absolute():
    text, file = picker_config(None, Path("pool.yaml"))
    assert file == Path.cwd() / "pool.yaml"
    assert discovered(text)["path"] == str(file)


def test_a_pool_file_is_put_into_the_user_s_configuration():
    mine = "plugins: [{type: random-picker}]\nlimits: {requestsMax: 7}\n"
    text, _ = picker_config(mine, Path("/srv/pool.yaml"))
    config = load(text)
    assert [spec.type for spec in config.plugins] == ["random-picker", "file-discovery"]
    assert config.limits.requests_max == 7
    assert config.strategy is None
    assert discovered(text)["path"] == "/srv/pool.yaml"


@pytest.mark.parametrize("text", [NAMED, NESTED])
def test_a_configuration_may_name_it_itself(text):
    effective, file = picker_config(text, None)
    assert file == Path("/etc/pool.yaml")
    assert load(effective) == load(text)


@pytest.mark.parametrize(
    ("text", "pool_file", "sentence"),
    [
        (None, None, "no pool: give --pool-file"),
        ("plugins: []", None, "no pool: give --pool-file"),
        (NAMED, Path("pool.yaml"), "leave out --pool-file"),
        (NAMED.replace("file-discovery", "random-picker"), None, "'mine' does not name a file of endpoints"),
        (NAMED.replace("path", "paths"), None, "'mine' does not name a file of endpoints"),
        (NAMED.replace("name: mine", "name: other"), None, "no plugin is called 'mine'"),
        ("unknown: 1", Path("pool.yaml"), "unknown"),
    ],
)
def test_what_cannot_work_is_told(text, pool_file, sentence):
    with pytest.raises(ConfigError, match=sentence):
        picker_config(text, pool_file)
