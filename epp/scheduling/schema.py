"""JSON schema of the configuration file, made of the types that read it, so that neither can be wrong about the other.

For editors and for charts. A plugin's `parameters` are described by its type; types that are not installed are not in it.
"""

from typing import Any

import msgspec

from epp.config.document import EndpointPickerConfig, PluginSpec
from epp.config.expansion import PRODUCERS
from epp.config.sections import Strategy
from epp.errors import ConfigError
from epp.scheduling.api import Plugin
from epp.scheduling.registry import Registry

DIALECT = "https://json-schema.org/draft/2020-12/schema"
REF = "#/$defs/{name}"


def schema(registry: Registry) -> dict[str, Any]:
    """Return the schema, with the parameters of all plugins of the registry."""
    classes = _classes(registry)
    (root, *plugins), definitions = msgspec.json.schema_components([EndpointPickerConfig, *classes.values()], ref_template=REF)
    by_type = dict(zip(classes, plugins, strict=True))
    spec = definitions[PluginSpec.__name__]
    spec["properties"]["type"]["examples"] = sorted(by_type)
    spec["allOf"] = [
        {
            "if": {"properties": {"type": {"const": name}}, "required": ["type"]},
            "then": {"properties": {"parameters": {"anyOf": [parameters, {"type": "null"}]}}},
        }
        for name, parameters in sorted(by_type.items())
    ]
    _describe_strategy(definitions[Strategy.__name__], by_type)
    return {"$schema": DIALECT, "title": "EndpointPickerConfig", **root, "$defs": definitions}


def _classes(registry: Registry) -> dict[str, type[Plugin]]:
    """Return the class of every type that can be loaded."""
    classes = {}
    for name in registry.types:
        try:
            classes[name] = registry.find(name, "")
        except ConfigError:  # a stranger's broken package, or an experimental plugin that is shut out
            continue
    return classes


def _describe_strategy(strategy: dict[str, Any], by_type: dict[str, Any]) -> None:
    """Give the parameter blocks of the short form the schema of the producers they go to."""
    blocks = {"accurate": PRODUCERS["accurate"], "approximate": PRODUCERS["approximate"], "tokenizer": "token-producer"}
    for name, type_name in {**blocks, "consistentHash": PRODUCERS["consistent-hash"]}.items():
        if type_name in by_type:
            description = strategy["properties"][name]["description"]
            strategy["properties"][name] = {
                "anyOf": [by_type[type_name], {"type": "null"}],
                "description": description,
                "default": None,
            }
