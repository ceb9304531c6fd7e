"""Requests at a steady rate, whatever becomes of them, each with when it was sent and who answered: what the proofs count."""

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import aiohttp

from tests.data_plane.clients import Address
from tests.data_plane.rig import eventually
from tests.kube.pods import Pod

RATE = 50.0
TIMEOUT_S = 15.0
LATE_S = 1.0
"""How long after an event a picker may still act as before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One request's end."""

    sent_s: float
    """Monotonic seconds."""
    took_s: float
    status: int | str
    """Of HTTP, or the name of the error."""
    server: str
    """`ip:port` of who answered; empty when nobody did."""


def prompt(number: int) -> dict:
    """A request that shares nothing with the others."""
    return {"model": "tiny", "prompt": f"question {number} " * 8, "max_tokens": 2}


class Traffic:
    """Open loop: a request every 1/rate seconds, whether those before have been answered or not."""

    def __init__(self, gateway: Address, *, rate: float = RATE, body: Callable[[int], dict] = prompt) -> None:
        self._url = f"http://{gateway.host}:{gateway.port}/v1/completions"
        self._rate, self._body = rate, body
        self._stop = threading.Event()
        self.answers: list[Answer] = []
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="traffic")

    @property
    def statuses(self) -> Counter[int | str]:
        """How the requests ended, and how often."""
        return Counter(one.status for one in tuple(self.answers))

    @property
    def failed(self) -> list[Answer]:
        """Those that did not end well."""
        return [one for one in tuple(self.answers) if one.status != 200]

    def since(self, moment_s: float) -> list[Answer]:
        """Those sent after a moment."""
        return [one for one in tuple(self.answers) if one.sent_s > moment_s]

    def wrong(self, pods: list[Pod]) -> list[Answer]:
        """Those that reached a pod although they were sent more than `LATE_S` after it was asked to go."""
        gone = {address: pod.gone_s for pod in pods if pod.gone_s is not None for address in pod.addresses}
        return [one for one in tuple(self.answers) if one.server in gone and one.sent_s > gone[one.server] + LATE_S]

    def wait_for(self, count: int) -> None:
        """Return after so many more answers."""
        wanted = len(self.answers) + count
        eventually(lambda: len(self.answers) >= wanted, f"{count} more answers", 30 + count / self._rate)

    async def _run(self) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session, asyncio.TaskGroup() as tasks:
            began_s = time.monotonic()
            for number in itertools.count():
                if self._stop.is_set():
                    return
                await asyncio.sleep(max(0.0, began_s + number / self._rate - time.monotonic()))
                tasks.create_task(self._one(session, number))

    async def _one(self, session: aiohttp.ClientSession, number: int) -> None:
        sent_s = time.monotonic()
        status: int | str
        try:
            async with session.post(self._url, json=self._body(number)) as response:
                await response.read()
                status, server = response.status, response.headers.get("x-served-by", "")
        except (OSError, aiohttp.ClientError, TimeoutError) as error:
            status, server = type(error).__name__, ""
        self.answers.append(Answer(sent_s=sent_s, took_s=time.monotonic() - sent_s, status=status, server=server))


@contextmanager
def traffic(gateway: Address, **how) -> Iterator[Traffic]:
    """Traffic in the background; whoever is under way at the end is waited for. Takes the options of `Traffic`."""
    running = Traffic(gateway, **how)
    running._thread.start()
    try:
        yield running
    finally:
        running._stop.set()
        running._thread.join()
