"""How late the event loop is: whatever blocks it delays every stream at once, and this is where it shows."""

import asyncio
from collections.abc import Callable

INTERVAL_S = 0.25


async def watch(observe: Callable[[float], None], *, interval_s: float = INTERVAL_S) -> None:
    """Give `observe` the seconds by which each of an endless row of short sleeps came back late. Runs until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due_s = loop.time() + interval_s
        await asyncio.sleep(interval_s)
        observe(max(0.0, loop.time() - due_s))
