"""Who is told what a source has; `controller` is."""

from typing import Protocol

from epp.errors import ConfigError


class Taker(Protocol):
    """Takes configurations."""

    async def offer(self, text: str, source: str) -> None:
        """A source has this text now. Returns when that has been dealt with; never raises for what is wrong with it."""

    def lost(self, error: ConfigError, source: str) -> None:
        """A source has nothing any more, or what it has cannot be read."""
