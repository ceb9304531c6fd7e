"""A configuration in a file that may change: a mounted ConfigMap, or any file that is replaced or written anew."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from epp.config.file_watch import FileWatch, read_text
from epp.errors import ConfigError
from epp.live.taker import Taker

LOOK_S = 0.25
"""How often the file is looked at. A change is taken up when two looks saw the same, so within half a second of its arrival; a
kubelet brings a changed ConfigMap within a minute or two."""


class ConfigFile:
    """Follows a file.

    Args:
        path: of the file.
        overruled: whether another source knows better just now.
    """

    def __init__(self, path: Path, overruled: Callable[[], bool] = lambda: False) -> None:
        self.name = f"file {path}"
        self._watch = FileWatch(path)
        self._overruled = overruled
        self._text: str | None = None

    def read(self) -> str:
        """Return the text; blocks for as long as it takes to read it.

        Raises:
            ConfigError: it cannot be read.
        """
        self._text = read_text(self._watch.path)
        return self._text

    async def run(self, take: Taker) -> None:
        """Offer the text whenever it has changed, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self.look(take)

    async def look(self, take: Taker) -> None:
        """Do once what `run` does again and again. A file that was touched, and says the same, is not offered."""
        if not self._watch.changed() or self._overruled():
            return
        before = self._text
        try:
            text = await asyncio.to_thread(self.read)
        except ConfigError as error:
            self._text = None
            take.lost(error, self.name)
            return
        if text != before:
            await take.offer(text, self.name)
