"""From decoded YAML to typed structs, with errors that say exactly where: `plugins[2].parameters.depthMax: Expected int >= 1`."""

import re
from typing import Any, TypeVar

import msgspec

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
        raise _located(str(error), path) from None


def _located(message: str, path: str) -> ConfigError:
    at = _AT.search(message)
    if at is not None:
        message = message[: at.start()]
        path = f"{path}{at[1]}".lstrip(".")
    field = _FIELD.match(message)
    if field is None:
        return ConfigError(message, path)
    return ConfigError("unknown field" if "unknown" in field[1] else "missing", f"{path}.{field[2]}".lstrip("."))
