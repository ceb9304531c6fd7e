"""Plugins by name: our own, a stranger's, and those that are not there."""

import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import msgspec
import pytest

from epp.errors import ConfigError
from epp.scheduling.api import Filter, Picker, Plugin, Producer, ProfileHandler, Scorer
from epp.scheduling.reference_types import REFERENCE_TYPES
from epp.scheduling.registry import GROUP, Registry
from epp.scheduling.scorers.queue_depth import QueueScorer
from epp.scheduling.settings import Setting

KINDS = (
    ("-scorer", Scorer),
    ("-filter", Filter),
    ("-picker", Picker),
    ("-profile-handler", ProfileHandler),
    ("-cache-producer", Producer),
    ("-parser", Setting),
    ("-source", Setting),
    ("-extractor", Setting),
)
REQUIRED = {
    "file-discovery": {"path": "x"},
    "prefix-chain-producer": {"chain": ["x"]},
    "label-selector-filter": {"matchLabels": {"a": "b"}},
    "by-label": {"label": "tier", "validValues": ["gold"]},
    "by-label-selector": {"matchLabels": {"a": "b"}},
}


class ShortScorer(Scorer, frozen=True):
    """A stranger's."""

    depth_max: int = 3

    def check(self):
        if self.depth_max == 7:
            raise ConfigError("seven is right out", "depthMax")
        if self.depth_max == 8:
            raise ConfigError("eight does not go with the rest")


class RiskyScorer(Scorer, frozen=True):
    """Not finished."""

    experimental = True


@pytest.fixture
def stranger(monkeypatch):
    """A registry that knows two plugins of another package and three broken ones."""
    module = ModuleType("stranger")
    module.ShortScorer, module.RiskyScorer, module.number = ShortScorer, RiskyScorer, 3
    monkeypatch.setitem(sys.modules, "stranger", module)
    values = {
        "short-scorer": ["stranger:ShortScorer", "stranger:ShortScorer"],
        "risky-scorer": ["stranger:RiskyScorer"],
        "gone-scorer": ["stranger:Gone"],
        "absent-scorer": ["not_installed_anywhere:Scorer"],
        "number-scorer": ["stranger:number"],
        "twice-scorer": ["stranger:ShortScorer", "stranger:RiskyScorer"],
    }
    points = [EntryPoint(name, value, GROUP) for name, several in values.items() for value in several]
    return lambda **options: Registry(points=points, **options)


def test_every_built_in_plugin_is_made_of_its_defaults_and_is_of_the_kind_its_name_says():
    registry = Registry(allow_experimental=True)
    assert "marginal-cost-scorer" in registry.types
    for name in registry.types:
        plugin = registry.create(name, REQUIRED.get(name), "plugins[0]")
        for end, kind in KINDS:
            assert not name.endswith(end) or isinstance(plugin, kind), name
        assert msgspec.convert(msgspec.to_builtins(plugin), type(plugin)) == plugin


def test_parameters_are_camel_case_and_strict():
    registry = Registry()
    assert registry.create("queue-scorer", {"staleS": 2}, "plugins[0]") == QueueScorer(stale_s=2)
    assert registry.create("queue-scorer", None, "plugins[0]") == QueueScorer()
    for parameters, path in (({"stale_s": 2}, "plugins[3].parameters.stale_s"), ({"staleS": "x"}, "plugins[3].parameters.staleS")):
        with pytest.raises(ConfigError) as caught:
            registry.create("queue-scorer", parameters, "plugins[3]")
        assert caught.value.path == path


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("active-request-scorer", {"requestTimeout": "2m", "inFlightLoadProducerName": "x"}),
        ("token-load-scorer", {"inFlightLoadProducerName": "x"}),
        ("concurrency-detector", {"inFlightLoadProducerName": "x"}),
        ("prefix-cache-affinity-filter", {"inFlightLoadProducerName": "x", "latencyPredictionInfoProducerName": "y"}),
        ("prefix-cache-affinity-filter", {"maxTokensInFlightPenalty": 286720, "maxTTFTPenaltyMs": 0}),
        ("by-label", {"label": "a", "validValues": ["b"], "allowsNoLabel": True}),
    ],
)
def test_what_the_reference_takes_is_taken(name, parameters):
    assert Registry().create(name, parameters, "plugins[0]")


def test_the_references_spelling_of_ttft():
    plugin = Registry().create("prefix-cache-affinity-filter", {"maxTTFTPenaltyMs": 5}, "plugins[0]")
    assert plugin.max_ttft_penalty_ms == 5


def test_a_strangers_plugin_works_like_our_own(stranger):
    registry = stranger()
    assert registry.create("short-scorer", {"depthMax": 5}, "plugins[0]") == ShortScorer(depth_max=5)
    with pytest.raises(ConfigError, match=r"^plugins\[1\]\.parameters\.depthMax: seven is right out$"):
        registry.create("short-scorer", {"depthMax": 7}, "plugins[1]")
    with pytest.raises(ConfigError, match=r"^plugins\[1\]\.parameters: eight does not go with the rest$"):
        registry.create("short-scorer", {"depthMax": 8}, "plugins[1]")


def test_an_installed_package_is_found(tmp_path, monkeypatch):
    metadata = tmp_path / "mine-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{GROUP}]\nmine-scorer = mine_plugins:Mine\n")
    (tmp_path / "mine_plugins.py").write_text(
        "from epp.scheduling.api import Scorer\n\nclass Mine(Scorer, frozen=True):\n    depth_max: int = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert Registry().create("mine-scorer", {"depthMax": 4}, "plugins[0]").depth_max == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone-scorer", "stranger:Gone cannot be loaded: AttributeError"),
        ("absent-scorer", "not_installed_anywhere:Scorer cannot be loaded: ModuleNotFoundError"),
        ("number-scorer", "stranger:number is not a plugin class"),
        ("twice-scorer", "'twice-scorer' is registered more than once: stranger:RiskyScorer, stranger:ShortScorer"),
        ("risky-scorer", "'risky-scorer' is experimental; start with --allow-experimental-plugins to use it"),
        ("latency-scorer", "'latency-scorer' is known to the reference but not available here (yet)"),
        ("short-scorr", "unknown plugin type 'short-scorr'; did you mean short-scorer"),
        ("zzz", "unknown plugin type 'zzz'"),
    ],
)
def test_what_is_not_there_is_refused_by_name(stranger, name, message):
    with pytest.raises(ConfigError) as caught:
        stranger().create(name, {}, "plugins[2]")
    assert caught.value.path == "plugins[2].type"
    assert caught.value.message.startswith(message)


def test_the_gate_lets_experimental_plugins_in(stranger):
    assert stranger(allow_experimental=True).create("risky-scorer", {}, "plugins[0]") == RiskyScorer()


def test_every_published_scheduling_type_that_we_have_is_named_as_the_reference_names_it():
    ours = {"cache-aware-filter", "consistent-hash-producer", "dynamo-cost-scorer", "marginal-cost-scorer", "prefix-chain-producer"}
    assert set(Registry().types) - REFERENCE_TYPES == ours


def test_no_plugin_hides_its_base():
    for name in Registry(allow_experimental=True).types:
        assert issubclass(Registry(allow_experimental=True).find(name, ""), Plugin)
