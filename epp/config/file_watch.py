"""A file that may change: read within bounds, and looked at again without being read.

A look is one stat; unlike inotify it works on every kind of volume, and sees the swap of symbolic links by which Kubernetes updates
a mounted ConfigMap.
"""

from pathlib import Path

from epp.config.reading import FILE_BYTES_MAX
from epp.errors import ConfigError

UNSETTLED_MAX = 10
"""Looks in a row that each see another file, after which the last is taken: such a writer is never seen to have finished."""
_Version = tuple[int, ...] | None
"""What tells one version of a file from the next; None when there is none."""


def read_text(path: Path, bytes_max: int = FILE_BYTES_MAX) -> str:
    """Return a file's text; blocks for the time it takes to read it.

    Raises:
        ConfigError: it cannot be read, is too long, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
        text = data.decode()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None
    if len(data) > bytes_max:
        raise ConfigError(f"{path} is longer than {bytes_max} bytes")
    return text


class FileWatch:
    """Tells, look by look, when a file has changed and the change has settled.

    Two looks must see the same: the beginning of a file is often a file too, and one that is still being written must not be taken
    for the whole.

    Args:
        path: of the file; as it is now counts as known.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = self._seen = self._look()
        self._unsettled = 0

    def changed(self) -> bool:
        """Look, and return whether the file is another one than when this was last true, and has settled."""
        before, self._seen = self._seen, self._look()
        self._unsettled = self._unsettled + 1 if self._seen != before else 0
        if self._seen == self._known or 0 < self._unsettled < UNSETTLED_MAX:
            return False
        self._known = self._seen
        self._unsettled = 0
        return True

    def _look(self) -> _Version:
        """Return what tells one version of the file from the next; links are followed."""
        try:
            stat = self.path.stat()
        except OSError:
            return None
        return (stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size)
