"""The strategies that the demo compares, as the configuration that a user would write for each."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

STRATEGIES: Mapping[str, str] = {
    "random": "any server, by chance",
    "consistent-hash": "the server that the prompt's prefix hashes to, unless it has too much to do",
    "approximate": "where this prefix was sent before, weighed against load",
    "accurate": "where the servers say that it is cached, weighed against load",
}
"""Name -> what it does, in a few words."""


def config(name: str, tokenizer: Path) -> dict[str, Any]:
    """Return the picker's configuration for a strategy.

    Args:
        name: one of `STRATEGIES`.
        tokenizer: directory of the model's `tokenizer.json`; only `accurate` reads it.
    """
    if name == "random":
        return {
            "plugins": [{"type": "random-picker"}],
            "schedulingProfiles": [{"name": "default", "plugins": [{"pluginRef": "random-picker"}]}],
        }
    # The hash has bounds of its own on what a server gets.
    strategy: dict[str, Any] = {"chain": [name], "load": "none" if name == "consistent-hash" else "marginal-cost"}
    if name == "accurate":
        strategy["tokenizer"] = {"tokenizer": str(tokenizer)}
    return {"strategy": strategy}
