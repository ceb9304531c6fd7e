"""Back to text, and the hash."""

from pathlib import Path

import pytest

from epp.config import config_hash, dump, expand, load

STRATEGIES = sorted((Path(__file__).parents[3] / "manifests" / "strategies").glob("*.yaml"))
TEXTS = [
    "",
    "strategy: {chain: []}",
    "strategy: {chain: [accurate], load: llm-d, accurate: {b: [], c: null, d: {}, e: ''}}",
    "plugins: [{type: x, name: y, parameters: {}}]\nfeatureGates: [flowControl=false]",
    "flowControl: {}\nserver: {bodyModeForced: none, skipResponseBody: false}",
    *(path.read_text() for path in STRATEGIES),
]


@pytest.mark.parametrize("text", TEXTS)
def test_what_was_written_reads_the_same(text):
    config = load(text)
    assert load(dump(config)) == config
    expanded = expand(config)
    assert load(dump(expanded)) == expanded == expand(expanded)


def test_the_effective_configuration_shows_defaults_and_the_expansion():
    text = dump(expand(load("")))
    assert "bodyBytesMax: 67108864" in text
    assert "- type: marginal-cost-scorer" in text
    assert "strategy" not in text
    assert "null" not in text


def test_two_spellings_have_one_hash():
    assert config_hash(load("")) == config_hash(load("strategy: {chain: [approximate, consistent-hash]}"))
    assert config_hash(load("")) == config_hash(expand(load("")))
    assert config_hash(load("")) != config_hash(load("strategy: {chain: [approximate]}"))
    assert config_hash(load("plugins: [{type: x, parameters: {a: 1, b: 2}}]")) == config_hash(
        load("plugins: [{parameters: {b: 2, a: 1}, type: x}]")
    )
    assert len(config_hash(load(""))) == 16
