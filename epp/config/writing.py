"""From structs back to text, and to the hash that tells two configurations apart."""

from hashlib import sha256
from typing import Any

import msgspec
import yaml

from epp.config.document import EndpointPickerConfig
from epp.config.expansion import expand

HASH_CHARS = 16


def dump(config: EndpointPickerConfig) -> str:
    """Return the configuration as YAML, defaults included, what is absent left out. `load` gives back an equal one."""
    return yaml.safe_dump(_tree(config), sort_keys=False, width=120, allow_unicode=True)


def config_hash(config: EndpointPickerConfig) -> str:
    """Return a short hash of what the configuration comes to; two spellings of the same have the same."""
    return sha256(msgspec.json.encode(expand(config), order="deterministic")).hexdigest()[:HASH_CHARS]


def _tree(value: Any) -> Any:  # noqa: ANN401
    """Return a struct as YAML holds it. Plugin parameters are not structs and stay as they are."""
    if isinstance(value, tuple):
        return [_tree(inner) for inner in value]
    if not isinstance(value, msgspec.Struct):
        return value
    tree = {}
    for field in msgspec.structs.fields(value):
        inner = getattr(value, field.name)
        if inner in (None, "", ()) and inner == field.default:
            continue
        tree[field.encode_name] = _tree(inner)
    return {key: inner for key, inner in tree.items() if inner != {} or key == "parameters"}
