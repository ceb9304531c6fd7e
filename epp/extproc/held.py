"""How much of request bodies is held, by all streams together.

A body comes in pieces for as long as its client takes to send it, and is held until its request is decided. Each request has its
own bound (`WireOptions.body_bytes_max`); this one keeps many slow ones from filling the memory.
"""

BODIES_BYTES_MAX = 512 << 20


class HeldBodies:
    """A count of bytes with a bound, shared by the streams of a picker.

    Args:
        bytes_max: the most there may be.
    """

    __slots__ = ("_max", "bytes")

    def __init__(self, bytes_max: int = BODIES_BYTES_MAX) -> None:
        self._max = bytes_max
        self.bytes = 0
        """What is held now."""

    def take(self, size: int) -> bool:
        """Count so many more. Returns False, and counts nothing, when that is too many."""
        if self.bytes + size > self._max:
            return False
        self.bytes += size
        return True

    def give_back(self, size: int) -> None:
        """Count so many less."""
        self.bytes -= size
