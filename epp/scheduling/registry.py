"""Plugin classes by the name they have in a configuration file.

Built-in and third-party plugins alike are entry points of the group `epp.plugins` in their package's metadata. A class is imported
when a configuration first names it, so that a broken package hurts only those who use it.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from epp.config.typed import convert
from epp.errors import ConfigError
from epp.scheduling.api import Plugin
from epp.scheduling.reference_types import REFERENCE_TYPES

GROUP = "epp.plugins"


class Registry:
    """What plugins there are.

    Args:
        allow_experimental: accept plugins that call themselves experimental.
        points: entry points instead of those of the installed packages.
    """

    def __init__(self, *, allow_experimental: bool = False, points: Iterable[EntryPoint] | None = None) -> None:
        self._allow_experimental = allow_experimental
        self._points: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=GROUP) if points is None else points:
            known = self._points.setdefault(point.name, [])
            if all(point.value != other.value for other in known):
                known.append(point)

    @property
    def types(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self._points))

    def find(self, type_name: str, path: str) -> type[Plugin]:
        """Return the class of a plugin type.

        Args:
            type_name: its name.
            path: where in the configuration it is named.

        Raises:
            ConfigError: none or two of that name, it cannot be imported, or it is experimental and those are shut out.
        """
        points = self._points.get(type_name)
        if points is None:
            raise ConfigError(_unknown(type_name, self._points), path)
        if len(points) > 1:
            raise ConfigError(f"{type_name!r} is registered more than once: {', '.join(sorted(p.value for p in points))}", path)
        try:
            found = points[0].load()
        except Exception as error:  # whatever the import of a stranger's package raises
            raise ConfigError(f"{points[0].value} cannot be loaded: {type(error).__name__}: {error}", path) from error
        if not (isinstance(found, type) and issubclass(found, Plugin)):
            raise ConfigError(f"{points[0].value} is not a plugin class", path)
        if found.experimental and not self._allow_experimental:
            raise ConfigError(f"{type_name!r} is experimental; start with --allow-experimental-plugins to use it", path)
        return found

    def create(self, type_name: str, parameters: Mapping[str, Any] | None, path: str) -> Plugin:
        """Return the plugin.

        Args:
            type_name: its name.
            parameters: as the configuration has them.
            path: where in the configuration the plugin stands, as in `plugins[2]`.

        Raises:
            ConfigError: no such type, or parameters it does not take; carries the path down to the parameter.
        """
        return make(self.find(type_name, f"{path}.type"), parameters, f"{path}.parameters")


def make(plugin_class: type[Plugin], parameters: Mapping[str, Any] | None, path: str) -> Plugin:
    """Return the plugin made of these parameters, checked.

    Raises:
        ConfigError: parameters it does not take; `path` leads to the parameters.
    """
    plugin = convert(dict(parameters or {}), plugin_class, path)
    try:
        plugin.check()
    except ConfigError as error:
        raise ConfigError(error.message, f"{path}.{error.path}" if error.path else path) from None
    return plugin


def _unknown(type_name: str, known: Iterable[str]) -> str:
    if type_name in REFERENCE_TYPES:
        return f"{type_name!r} is known to the reference but not available here (yet)"
    alike = get_close_matches(type_name, known, n=3)
    hint = f"; did you mean {' or '.join(alike)}?" if alike else ""
    return f"unknown plugin type {type_name!r}{hint}"
