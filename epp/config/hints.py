"""What could have stood where a file has something else: said along with the error, so that a typo is mended without the manual."""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from msgspec import inspect

_STEP = re.compile(r"\.([^.\[]+)|\[[^\]]*\]")


def values_at(to: type[Any], path: str) -> str:
    """Return the values that a choice allows, as text for the end of a sentence; empty when there is no choice at `path`.

    Args:
        to: the type of the whole.
        path: as msgspec writes it behind the `$`, as in `.strategy.chain[0]`.
    """
    values = [value for node in _nodes(to, path) if isinstance(node, inspect.LiteralType) for value in node.values]
    return f"; there are {', '.join(repr(value) for value in values)}" if values else ""


def field_like(to: type[Any], path: str, name: str) -> str:
    """Return the field of the object at `path` that `name` may stand for, as a question; empty when none is like it."""
    names = [field.encode_name for node in _nodes(to, path) if isinstance(node, inspect.StructType) for field in node.fields]
    close = get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _nodes(to: type[Any], path: str) -> list[inspect.Type]:
    """Return the types that may stand at `path`, alternatives apart."""
    nodes = list(_alternatives(inspect.type_info(to)))
    for step in _STEP.finditer(path):
        nodes = [found for node in nodes for inner in _inside(node, step[1]) for found in _alternatives(inner)]
    return nodes


def _alternatives(node: inspect.Type) -> Iterator[inspect.Type]:
    if isinstance(node, inspect.Metadata):
        yield from _alternatives(node.type)
    elif isinstance(node, inspect.UnionType):
        for one in node.types:
            yield from _alternatives(one)
    else:
        yield node


def _inside(node: inspect.Type, field: str | None) -> list[inspect.Type]:
    """Return the types of what a field of `node` holds, or of its elements (None)."""
    match node:
        case inspect.StructType() if field is not None:
            return [one.type for one in node.fields if one.encode_name == field]
        case inspect.ListType() | inspect.VarTupleType() if field is None:
            return [node.item_type]
        case inspect.DictType():
            return [node.value_type]
        case _:
            return []
