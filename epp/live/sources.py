"""A configuration in a file that may change: a mounted ConfigMap, or any file that is replaced or written anew."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from epp.config.file_watch import FileWatch, read_text
from epp.errors import ConfigError

LOOK_S = 0.5
"""How often the file is looked at. A change is taken up when two looks saw the same, so within a second of its arrival; a kubelet
brings a changed ConfigMap within one or two minutes."""


class ConfigFile:
    """Follows a file.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.name = f"file {path}"
        self._watch = FileWatch(path)
        self._text: str | None = None

    def read(self) -> str:
        """Return the text; blocks for as long as it takes to read it.

        Raises:
            ConfigError: it cannot be read.
        """
        self._text = read_text(self._watch.path)
        return self._text

    async def run(self, offer: Callable[[str, str], Awaitable[None]], lost: Callable[[ConfigError, str], None]) -> None:
        """Offer the text whenever it has changed, until cancelled.

        Args:
            offer: takes a text and the name of its source.
            lost: is told that there is none, or none that can be read.
        """
        while True:
            await asyncio.sleep(LOOK_S)
            await self.look(offer, lost)

    async def look(self, offer: Callable[[str, str], Awaitable[None]], lost: Callable[[ConfigError, str], None]) -> None:
        """Do once what `run` does again and again. A file that was touched, and says the same, is not offered."""
        if not self._watch.changed():
            return
        before = self._text
        try:
            text = await asyncio.to_thread(self.read)
        except ConfigError as error:
            self._text = None
            lost(error, self.name)
            return
        if text != before:
            await offer(text, self.name)
