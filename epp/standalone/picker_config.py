"""The picker's configuration for a pool that a file lists: the user's, with the file put in, or a small one made for it."""

from pathlib import Path

import msgspec

from epp.config import EndpointPickerConfig, Strategy, dump, load
from epp.config.document import DataLayer, Discovery, PluginSpec
from epp.errors import ConfigError

DISCOVERY_TYPE = "file-discovery"


def picker_config(text: str | None, pool_file: Path | None) -> tuple[str, Path]:
    """Return the configuration to serve with, and the pool file it reads.

    Args:
        text: the user's configuration; None for the default strategy.
        pool_file: where the endpoints are listed; None when `text` says it.

    Raises:
        ConfigError: `text` cannot be used, or the pool is named nowhere, or in both places.
    """
    config = EndpointPickerConfig(strategy=Strategy()) if text is None else load(text)
    named = _named_pool_file(config)
    if named is not None and pool_file is not None:
        raise ConfigError(f"the configuration names a pool file itself, {named}; leave out --pool-file", "dataLayer.discovery")
    if named is not None:
        return dump(config), named
    if pool_file is None:
        raise ConfigError("no pool: give --pool-file, or a --config-file with dataLayer.discovery")
    file = pool_file.absolute()
    spec = PluginSpec(type=DISCOVERY_TYPE, name="standalone-pool", parameters={"path": str(file), "watchFile": True})
    layer = msgspec.structs.replace(config.data_layer, discovery=Discovery(plugin_ref=spec.label))
    return dump(msgspec.structs.replace(config, plugins=(*config.plugins, spec), data_layer=layer)), file


def _named_pool_file(config: EndpointPickerConfig) -> Path | None:
    """Return the file that the configuration reads its endpoints from, if it says so."""
    reference = _discovery_reference(config.data_layer)
    if reference is None:
        return None
    for spec in config.plugins:
        if spec.label == reference:
            path = (spec.parameters or {}).get("path")
            if spec.type != DISCOVERY_TYPE or not isinstance(path, str):
                raise ConfigError(f"{reference!r} does not name a file of endpoints", "dataLayer.discovery")
            return Path(path)
    raise ConfigError(f"no plugin is called {reference!r}", "dataLayer.discovery.pluginRef")


def _discovery_reference(layer: DataLayer) -> str | None:
    if layer.discovery is None:
        return None
    return layer.discovery.endpoints.plugin_ref if layer.discovery.endpoints is not None else layer.discovery.plugin_ref
