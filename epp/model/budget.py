"""A bound on what many streams hold together."""


class Budget:
    """A count of bytes that does not pass its bound.

    Args:
        bytes_max: the most there may be.
    """

    __slots__ = ("_max", "held")

    def __init__(self, bytes_max: int) -> None:
        self._max = bytes_max
        self.held = 0
        """Bytes held now."""

    def take(self, size: int) -> bool:
        """Count so many more, or fewer when `size` is negative. Returns False, and counts nothing, when that is too many."""
        if size > 0 and self.held + size > self._max:
            return False
        self.held += size
        return True

    def give_back(self, size: int) -> None:
        """Count so many fewer."""
        self.held -= size
