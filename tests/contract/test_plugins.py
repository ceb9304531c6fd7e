"""Every registered plugin keeps its contract, and every plugin module is registered."""

import pkgutil
from importlib import import_module
from importlib.metadata import entry_points

import numpy as np
import pytest

import epp.scheduling.detectors
import epp.scheduling.filters
import epp.scheduling.pickers
import epp.scheduling.producers
import epp.scheduling.profiles
import epp.scheduling.scorers
from epp.scheduling.api import Plugin
from epp.scheduling.registry import Registry
from epp.testing.contracts import check_plugin

REGISTRY = Registry(allow_experimental=True)
NEEDED = {
    "label-selector-filter": {"matchLabels": {"tier": "gold"}},
    "by-label": {"label": "tier", "validValues": ["gold"]},
    "by-label-selector": {"matchLabels": {"tier": "gold"}},
    "file-discovery": {"path": "pool.yaml"},
    "prefix-chain-producer": {"chain": ["approx-prefix-cache-producer"]},
}
"""Parameters that have no default."""
PACKAGES = (
    epp.scheduling.detectors,
    epp.scheduling.filters,
    epp.scheduling.pickers,
    epp.scheduling.producers,
    epp.scheduling.profiles,
    epp.scheduling.scorers,
)


@pytest.mark.parametrize("name", REGISTRY.types)
def test_a_registered_plugin_keeps_its_contract(name):
    plugin = REGISTRY.create(name, NEEDED.get(name), "plugins[0]")
    check_plugin(plugin)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_module_holds_registered_plugins(package):
    registered = {point.value.partition(":")[0] for point in entry_points(group="epp.plugins")}
    modules = [f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__)]
    plugins = {
        module
        for module in modules
        if any(
            isinstance(one, type) and issubclass(one, Plugin) and one.__module__ == module
            for one in vars(import_module(module)).values()
        )
    }
    assert plugins <= registered
    assert plugins


def test_a_plugin_that_breaks_its_contract_is_caught():
    class Careless(epp.scheduling.api.Scorer, frozen=True):
        """Answers with too little."""

        def score(self, request, view):
            return np.zeros(1)

    with pytest.raises(AssertionError, match="values for"):
        check_plugin(Careless())
