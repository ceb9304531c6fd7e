"""From the text of a configuration file to its structs. Strict: what is not understood is an error, with its place."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from epp.config.document import EndpointPickerConfig
from epp.config.typed import convert
from epp.errors import ConfigError

FILE_BYTES_MAX = 1 << 20
"""Longest file that is read; a ConfigMap cannot hold more."""
DEPTH_MAX = 64
"""Nesting; libyaml's composer recurses on the C stack and would end the process."""
NODES_MAX = 100_000
"""Values in a file, those that aliases repeat counted each time."""


class _Loader(yaml.CSafeLoader):
    """Safe YAML in which a key that occurs twice is an error, not a silent loss."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return the mapping, unless a key of its own occurs twice; merged ones (`<<`) may be overridden."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} occurs twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def load(text: str) -> EndpointPickerConfig:
    """Return the configuration that a text holds; an empty one gives the default configuration.

    Raises:
        ConfigError: not YAML, too long, a key twice, an unknown field or a value of the wrong kind, with its path.
    """
    tree = read_yaml(text)
    return EndpointPickerConfig() if tree is None else convert(tree, EndpointPickerConfig, "")


def load_file(path: Path) -> EndpointPickerConfig:
    """Return the configuration that a file holds.

    Raises:
        ConfigError: as `load`, or the file is not UTF-8.
        OSError: it cannot be read.
    """
    try:
        return load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None


def read_yaml(text: str) -> object:
    """Return what a text holds as dicts, lists and scalars; None for an empty one. JSON is YAML.

    Raises:
        ConfigError: not YAML, too long, too deep, too many values, or a key twice.
    """
    if len(text.encode("utf-8", "surrogatepass")) > FILE_BYTES_MAX:
        raise ConfigError(f"longer than {FILE_BYTES_MAX} bytes")
    try:
        _check_depth(text)
        tree: object = yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise ConfigError(f"{error.problem}{f' (line {mark.line + 1})' if mark else ''}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"not YAML: {error}") from None
    _check_size(tree)
    return tree


def _check_depth(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEPTH_MAX:
                raise ConfigError(f"nested deeper than {DEPTH_MAX} lists and mappings")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _check_size(tree: object) -> None:
    """Refuse what a few aliases blow up to more than any configuration holds, before anybody walks it."""
    stack, count = [tree], 0
    while stack:
        node = stack.pop()
        count += 1
        if count > NODES_MAX:
            raise ConfigError(f"more than {NODES_MAX} values")
        if isinstance(node, dict):
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)
