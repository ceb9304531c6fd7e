"""`prefix-chain-producer`: other producers' strategies, asked in order."""

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta

from epp.errors import ConfigError
from epp.prefix.chain import Chain
from epp.prefix.strategy import Strategy
from epp.scheduling.api import Producer


class PrefixChainProducer(Producer, frozen=True):
    """Makes the strategy `chain` of strategies that other producers of the configuration make."""

    chain: Annotated[
        tuple[str, ...], Meta(min_length=1, max_length=16, description="Names of the producers, the preferred one first.")
    ]

    def check(self) -> None:
        """Raise ConfigError when a producer is named twice."""
        for position, name in enumerate(self.chain):
            if name in self.chain[:position]:
                raise ConfigError(f"{name!r} is named twice", f"chain[{position}]")

    def build(self) -> Strategy:
        """Raise ConfigError: a chain is built of the others' strategies, by `build_chain`."""
        raise ConfigError("a chain cannot be built without the strategies of its producers")

    def build_chain(self, strategies: Mapping[str, Strategy]) -> Chain:
        """Return the chain.

        Args:
            strategies: what the other producers built, by producer name. The chain drives those it names: whoever records and
                matches must leave them out.

        Raises:
            ConfigError: a producer of that name does not exist.
        """
        for position, name in enumerate(self.chain):
            if name not in strategies:
                raise ConfigError(f"no prefix producer {name!r}; there are: {', '.join(sorted(strategies))}", f"chain[{position}]")
        return Chain([strategies[name] for name in self.chain])
