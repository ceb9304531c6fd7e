"""Takes part in a leader election: asks and writes what the rules (`lease`) say, and tells who leads.

    Elector(api, namespace="inference", name="epp-inference-llama.llm-d.ai", changed=told, ...)

Every two seconds the leader renews, and the others look. The Lease is watched besides, so that one that is given up is taken over
in a moment and not with the next look; without the right to watch it, nothing but that moment is lost.

A picker that loses the lead goes on running, warm, and may have it again; it says that it is not ready. The same while the API
server is away: nobody can lead for longer than the lease allows, so after ten seconds nobody does.
"""

import asyncio
import logging
import os
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import msgspec

from epp.errors import ApiError
from epp.kube.client import Api
from epp.kube.lease import Election, Lease, Timing, micro_time
from epp.kube.reflector import MALFORMED, Reflector

MERGE = "application/merge-patch+json"
CONFLICT, NOT_FOUND = 409, 404
LOOK_SPREAD = 1.2
"""Those who wait look up to this much later than `retry_s` says, so that they do not all come at once."""
TAKEN_OVER_S = 0.05
"""Longest wait of one that sees the lease given up, at random: of many, one writes and the others see it."""
RESIGN_S = 3.0
"""Longest that giving up takes."""

_log = logging.getLogger(__name__)
_decode = msgspec.json.Decoder(Lease).decode


class Elector:
    """One candidate.

    Args:
        api: entered before `run`.
        namespace: of the Lease.
        name: of the Lease.
        changed: told whether we lead, and who does as far as we know ("" for nobody), when either has changed.
        clock: monotonic seconds.
        random: spreads looks.
        timing: how long things take.
        identity: ours; must be told apart from that of every other process.
    """

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        name: str,
        changed: Callable[[bool, str], None],
        clock: Callable[[], float],
        random: Random,
        timing: Timing | None = None,
        identity: str = "",
    ) -> None:
        self.name = name
        self.changes = 0
        """How often we began to lead or ceased to."""
        self.errors: Counter[str] = Counter()
        """What went wrong, by reason."""
        self.failing = ""
        """Why the lease cannot be had or looked at now; empty while it can."""
        self._api = api
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._election = Election(name, identity or own_identity(), timing)
        self._told: tuple[bool, str] | None = None
        self._changed = changed
        self._clock = clock
        self._random = random
        self._asking = asyncio.Lock()
        """Held while something is asked or written: the rules take one thing after the other."""
        self._woken = asyncio.Event()
        self._resigned = False
        more: dict[str, Any] = {"clock": clock, "random": random}
        self.watch = Reflector(api, self._collection, Lease, field_selector=f"metadata.name={name}", changed=self._seen, **more)

    @property
    def leads(self) -> bool:
        """Whether we lead."""
        return self._election.leads(self._clock())

    async def run(self) -> None:
        """Take part until cancelled, or until we have resigned."""
        watching = asyncio.create_task(self.watch.run(), name="lease")
        try:
            while not self._resigned:
                await self._attempt()
                self._tell()
                await self._pause()
                self._tell()
        finally:
            watching.cancel()

    async def resign(self) -> None:
        """Take part no more; if we lead, let another lead from now on. What goes wrong with that is logged: a lease runs out."""
        self._resigned = True
        self._woken.set()
        try:
            async with asyncio.timeout(RESIGN_S), self._asking:
                given_up = self._election.resign(micro_time(time.time()))
                self._tell()
                if given_up is None:
                    return
                await self._send(given_up)
        except (ApiError, TimeoutError) as error:
            _log.warning("the lease could not be given up, it will run out", extra={"lease": self.name, "error": str(error)})
        else:
            _log.info("gave up the lease", extra={"lease": self.name})

    async def _attempt(self) -> None:
        """Look and claim, or renew; an error is noted."""
        try:
            async with asyncio.timeout(self._patience_s()), self._asking:
                await self._renew_or_claim()
        except ApiError as error:
            self._fail(error.reason, str(error))
        except TimeoutError:
            self._fail("TimedOut", "no answer in time")
        else:
            self.failing = ""

    async def _renew_or_claim(self) -> None:
        if self.leads:
            try:
                await self._claim()
            except ApiError as error:
                if error.status not in {CONFLICT, NOT_FOUND}:
                    raise
            else:
                return
        await self._look()
        try:
            await self._claim()
        except ApiError as error:
            if error.status != CONFLICT:
                raise
            await self._look()  # another was quicker: who?

    async def _look(self) -> None:
        try:
            lease = _read(await self._api.get(f"{self._collection}/{self.name}"))
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
            lease = None
        self._election.see(lease, self._clock())

    async def _claim(self) -> None:
        """Write that it is ours, if it can be."""
        asked_s = self._clock()
        claim = self._election.claim(asked_s, micro_time(time.time()))
        if claim is not None and not self._resigned:
            self._election.granted(await self._send(claim), asked_s)

    async def _send(self, lease: Lease) -> Lease:
        """Make the object, or change it if it is still in the version that we know. What else is in it stays."""
        if not lease.metadata.resource_version:
            return _read(await self._api.send("POST", self._collection, lease))
        return _read(await self._api.send("PATCH", f"{self._collection}/{self.name}", lease, content_type=MERGE))

    def _patience_s(self) -> float:
        """Return how long an answer is waited for: half the deadline, so that a second try fits, and not beyond our lead."""
        timing, left_s = self._election.timing, self._election.until_s - self._clock()
        return min(timing.deadline_s / 2, left_s) if left_s > 0 else timing.deadline_s / 2

    async def _pause(self) -> None:
        """Wait until it is time for the next attempt, our lead is over, or the watch has news."""
        timing = self._election.timing
        if self.leads:
            wait_s = min(timing.retry_s, self._election.until_s - self._clock())
        else:
            wait_s = timing.retry_s * (1 + LOOK_SPREAD * self._random.random())
        try:
            async with asyncio.timeout(wait_s):
                await self._woken.wait()
        except TimeoutError:
            return
        self._woken.clear()
        if not self._resigned:
            await asyncio.sleep(TAKEN_OVER_S * self._random.random())

    def _seen(self, leases: Mapping[str, Lease]) -> None:
        """Make the next attempt at once when the watch shows that the lease is to be had, or that we have lost it."""
        lease = leases.get(self.name)
        holder = "" if lease is None else lease.spec.holder_identity or ""
        if holder == "" or (self.leads and holder != self._election.identity):
            self._woken.set()

    def _fail(self, reason: str, message: str) -> None:
        self.errors[reason] += 1
        if reason != self.failing:
            _log.warning("the lease cannot be had", extra={"lease": self.name, "error": message})
        self.failing = reason

    def _tell(self) -> None:
        """Say who leads, if that has changed."""
        now = self.leads, self._election.holder
        if now == self._told:
            return
        before, self._told = self._told, now
        if now[0] != (before is not None and before[0]):
            self.changes += 1
            _log.info("leading" if now[0] else "leading no more", extra={"lease": self.name, "identity": self._election.identity})
        elif not now[0]:
            _log.info("another leads" if now[1] else "nobody leads", extra={"lease": self.name, "leader": now[1]})
        self._changed(*now)


def own_identity() -> str:
    """Return who we are: the pod, and something that a process started later in the same pod does not share."""
    return f"{os.environ.get('POD_NAME') or socket.gethostname()}_{uuid.uuid4()}"


def _read(body: bytes) -> Lease:
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(0, MALFORMED, f"a Lease: {error}") from None
