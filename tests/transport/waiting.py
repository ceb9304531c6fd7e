"""Waiting for what another process does."""

import time
from collections.abc import Callable

from tests.unit.transport.streams import DEADLINE_S


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for a condition; AssertionError after `DEADLINE_S`."""
    late = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < late
        time.sleep(0.01)
