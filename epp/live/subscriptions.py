"""The event subscriptions of `accurate` strategies, for as long as each strategy is in use or parked."""

import asyncio

from epp.pool.state import PoolState
from epp.prefix.accurate import Accurate
from epp.prefix.kv_sources import Ports
from epp.scrape.kv_subscriber import KvSubscriber


class Subscriptions:
    """Has a subscriber follow the pool for every strategy that wants events.

    Args:
        pool: whose endpoints are followed.
    """

    def __init__(self, pool: PoolState) -> None:
        self._pool = pool
        self._tasks: asyncio.TaskGroup | None = None
        self._followed: dict[Accurate, _Followed] = {}

    def __len__(self) -> int:
        return len(self._followed)

    async def run(self) -> None:
        """Carry the subscriptions until cancelled. One that breaks takes this, and so the process, down."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for followed in self._followed.values():
                followed.start(tasks)
            await asyncio.Event().wait()

    def follow(self, strategy: Accurate, ports: Ports) -> None:
        """Subscribe for a strategy; nothing new for one that is followed."""
        if strategy in self._followed:
            return
        followed = self._followed[strategy] = _Followed(strategy, ports, self._pool)
        if self._tasks is not None:
            followed.start(self._tasks)

    def drop(self, strategy: Accurate) -> None:
        """Close all sockets of a strategy."""
        followed = self._followed.pop(strategy, None)
        if followed is not None:
            followed.stop()


class _Followed:
    """One strategy's subscriber."""

    def __init__(self, strategy: Accurate, ports: Ports, pool: PoolState) -> None:
        self._subscriber = KvSubscriber(strategy, ports)
        self._task: asyncio.Task[None] | None = None
        self._leave = pool.on_change(lambda _: self._subscriber.sync(pool.snapshot()))
        self._subscriber.sync(pool.snapshot())

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Let time pass for it."""
        self._task = tasks.create_task(self._subscriber.run(), name="KV events")

    def stop(self) -> None:
        """Hear of no change any more, and have the task close the sockets."""
        self._leave()
        if self._task is not None:
            self._task.cancel()
