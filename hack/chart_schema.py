"""Make `charts/epp/values.schema.json` from `values.yaml`: `make manifests`; with --check, say whether it is up to date.

`values.yaml` is the documentation, so it is the source: types are those of the defaults, descriptions are the comments above the
keys, and what neither can say stands in a comment line of its own, as JSON Schema in YAML's short form:

    # Who answers when there are several pickers.
    # @schema {enum: [auto, active-active, leader]}
    highAvailability: auto

A mapping with keys takes these keys and no others, so that a misspelt value is refused and not ignored. One that is empty, or
written in one line, or annotated with `additionalProperties`, takes others too.
A key without a comment is an error: a value whose reason nobody wrote down is not there to be set.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

CHART = Path(__file__).parents[1] / "charts" / "epp"
ANNOTATION = "@schema "
TYPES = {"str": "string", "int": "integer", "bool": "boolean", "float": "number", "map": "object", "seq": "array"}


class Undocumented(Exception):
    """A value has no comment."""


def comment_above(lines: Sequence[str], line: int, column: int) -> tuple[str, dict[str, object]]:
    """The description above a key, and what its annotation says.

    Args:
        lines: of the file.
        line: the key's, counted from 0.
        column: where the key begins; a comment belongs to it if it begins there too.
    """
    prefix = " " * column + "#"
    first = line
    while first > 0 and lines[first - 1].startswith(prefix):
        first -= 1
    texts = [one[len(prefix) :].removeprefix(" ") for one in lines[first:line]]
    said = [one for one in texts if not one.startswith(ANNOTATION)]
    schema: dict[str, object] = {}
    for one in texts:
        if one.startswith(ANNOTATION):
            schema |= yaml.safe_load(one.removeprefix(ANNOTATION))
    return "\n".join(said).strip(), schema


def schema_of(node: yaml.Node, lines: Sequence[str], path: str = "") -> dict[str, object]:
    """The schema of a value, by its default.

    Raises:
        Undocumented: it, or a value in it, has no comment.
    """
    kind = node.tag.rpartition(":")[2]
    schema: dict[str, object] = {"type": TYPES[kind]} if kind in TYPES else {}
    if not isinstance(node, yaml.MappingNode) or node.flow_style:
        return schema
    properties: dict[str, object] = {}
    for key, value in node.value:
        here = f"{path}.{key.value}".lstrip(".")
        description, annotation = comment_above(lines, key.start_mark.line, key.start_mark.column)
        if not description:
            raise Undocumented(f"{here} has no comment that says why")
        free = "additionalProperties" in annotation
        inner = {"type": "object"} if free else schema_of(value, lines, here)
        properties[key.value] = {"description": description, **inner, **annotation}
    return {**schema, "properties": properties, "additionalProperties": False}


def render(text: str) -> str:
    """The schema of a values file, as JSON.

    Raises:
        Undocumented: a value has no comment.
    """
    schema = schema_of(yaml.compose(text, yaml.SafeLoader), text.splitlines())
    properties = schema["properties"]
    assert isinstance(properties, dict)
    properties["global"] = {"description": "What a chart above this one shares with all below it.", "type": "object"}
    return json.dumps({"$schema": "http://json-schema.org/draft-07/schema#", **schema}, indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """Write the schema, or with --check compare it."""
    target = CHART / "values.schema.json"
    try:
        wanted = render((CHART / "values.yaml").read_text(encoding="utf-8"))
    except Undocumented as error:
        print(f"values.yaml: {error}", file=sys.stderr)
        return 1
    if "--check" not in sys.argv[1:]:
        target.write_text(wanted, encoding="utf-8")
        return 0
    if target.exists() and target.read_text(encoding="utf-8") == wanted:
        return 0
    print(f"{target.name} is not what values.yaml says; run `make manifests`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
