"""From decoded YAML to typed structs, with errors that say exactly where: `plugins[2].parameters.depthMax: Expected int >= 1`."""

import re
from typing import Any, TypeVar

import msgspec

from epp.config.hints import field_like, values_at
from epp.errors import ConfigError

T = TypeVar("T")

_AT = re.compile(r" - at (?:`key` in )?`\$(.*)`$")
_FIELD = re.compile(r"^Object (contains unknown|missing required) field `(.*)`$")


def convert(value: Any, to: type[T], path: str) -> T:  # noqa: ANN401
    """Return `value` as a struct.

    Args:
        value: what YAML holds: dicts, lists, scalars.
        to: the struct.
        path: where in the file the value stands; empty for the whole file.

    Raises:
        ConfigError: something in it is not as the struct wants it; carries the path down to the field.
    """
    try:
        return msgspec.convert(value, to)
    except msgspec.ValidationError as error:
        raise _located(str(error), path, to) from None


def _located(message: str, path: str, to: type[Any]) -> ConfigError:
    at = _AT.search(message)
    within = at[1] if at is not None else ""
    message = _AT.sub("", message)
    place = f"{path}{within}".lstrip(".")
    field = _FIELD.match(message)
    if field is None:
        return ConfigError(message + values_at(to, within), place)
    problem = "missing" if "missing" in field[1] else "unknown field" + field_like(to, within, field[2])
    return ConfigError(problem, f"{place}.{field[2]}".lstrip("."))
