"""Endpoints that did not answer: passed over for a while, and tried again.

An engine that died looks idle: nothing in flight, nothing waiting, and the longest match of all it ever held. Until discovery
notices, every request with that prefix would be sent to its death. So when the gateway reports no answer, the endpoint is
passed over for a second, then two, then four, as long as tries keep failing; one answer clears it. A try costs somebody's request:
one a second is made, and none, for half a minute, at an endpoint whose metrics page has not come again since. When all candidates
are suspect, all are candidates: a guess is better than a refusal.

One that answers, but with errors, looks idle and fast. A single error may be the prompt's own fault; several in a row are treated
like no answer. One that turns requests away (a key it does not know, an adapter that it alone lacks) looks fast, too; but a client
with a wrong key is turned away wherever it is sent. So refusals tell of an endpoint by how many more it gives than all others.

Only the answer to a request sent since an endpoint began to fail clears it: one that drains ends its old streams well, and takes no
new ones.

One that hangs looks idle, too, and the gateway reports nothing of it: its requests end when their clients have had enough. A client
that leaves proves nothing, nor does a late metrics page; both at once do (`is_hung`).
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from epp.model.decision import Outcome
from epp.model.match import FloatColumn, IntColumn

FIRST_S = 1.0
"""How long an endpoint is passed over after its first failure in a row."""
LONGEST_S = 30.0
"""How long at most, however often it failed."""
TRY_EVERY_S = 1.0
"""How long no other request follows one that is sent to a suspect, unless it is answered: what hangs costs one, not all that come
before the first gives up."""
ERRORS_IN_A_ROW = 3
"""Errors of its own, and no good answer between them, after which an endpoint is passed over."""
REFUSALS_MORE = 10
"""So many more than all others together it has turned away since its last good answer, when it is passed over."""
TOO_MANY_REQUESTS = 429
"""What a server that is full says, as others say 503."""
REFUSALS = frozenset({401, 403, 404})
"""What an endpoint says that lacks a key or a model, and each endpoint to a client with a wrong one."""
SILENT_S = 5.0
"""Without a metrics page for so long, an endpoint that used to give them is taken for hung when a client gives it up."""


def is_hung(outcome: Outcome, silent_s: float) -> bool:
    """Return whether a request tells that its endpoint hangs.

    Args:
        outcome: how the request ended.
        silent_s: seconds since the endpoint's last metrics page; infinite when there never was one, which tells nothing.
    """
    return outcome.end == "client-gone" and not outcome.status and SILENT_S < silent_s < math.inf


@dataclass(frozen=True, slots=True)
class _Suspicion:
    """Of one endpoint."""

    began_s: float
    """When it failed first."""
    since_s: float
    """When it failed last."""
    wait_s: float
    """For how long it is passed over, whatever else is heard of it."""
    tried_s: float = -math.inf
    """When a request was last sent there, to see."""

    def holds(self, now_s: float, scraped_s: float) -> bool:
        """Return whether it is still to be passed over; `scraped_s` is when its metrics page last came, -inf for never."""
        passed_s = now_s - self.since_s
        if passed_s < self.wait_s or now_s - self.tried_s < TRY_EVERY_S:
            return True
        return passed_s < LONGEST_S and -math.inf < scraped_s < self.since_s


class Outliers:
    """Which slots are under suspicion, and until when. Bounded by the pool: one entry per slot."""

    def __init__(self) -> None:
        self._suspicions: dict[int, _Suspicion] = {}
        """By slot."""
        self._errors: dict[int, int] = {}
        """In a row, by slot."""
        self._refused = 0
        """Requests that were turned away, by whomever."""
        self._refusals: dict[int, tuple[int, int]] = {}
        """In a row, by slot, and how many the pool had turned away before."""

    def __len__(self) -> int:
        return len(self._suspicions)

    def failed(self, slot: int, now_s: float) -> None:
        """Note that a request sent to `slot` got no answer from there. Failures of one burst count once."""
        before = self._suspicions.get(slot)
        if before is None:
            self._suspicions[slot] = _Suspicion(now_s, now_s, FIRST_S)
        elif now_s - before.since_s >= before.wait_s:
            self._suspicions[slot] = _Suspicion(before.began_s, now_s, min(2 * before.wait_s, LONGEST_S))

    def tried(self, slot: int, now_s: float) -> None:
        """Note that a request goes to `slot`. Free when all is well."""
        if self._suspicions and (suspicion := self._suspicions.get(slot)) is not None:
            self._suspicions[slot] = replace(suspicion, tried_s=now_s)

    def heard(self, slot: int, status: int, *, sent_s: float, now_s: float) -> None:
        """Note with which status the endpoint in `slot` answered a request; other 4xx are the request's fault and tell nothing.

        Args:
            slot: who answered.
            status: of HTTP, 0 when it is not known.
            sent_s: when the request was sent there.
            now_s: monotonic seconds, as everywhere here.
        """
        if status >= 500 or status == TOO_MANY_REQUESTS:
            self.erred(slot, now_s)
        elif status in REFUSALS:
            self.refused(slot, now_s)
        elif 0 < status < 400:
            self.answered(slot, sent_s)

    def erred(self, slot: int, now_s: float) -> None:
        """Note that the endpoint in `slot` answered with an error of its own."""
        self._errors[slot] = errors = self._errors.get(slot, 0) + 1
        if errors >= ERRORS_IN_A_ROW:
            self.failed(slot, now_s)

    def refused(self, slot: int, now_s: float) -> None:
        """Note that the endpoint in `slot` turned a request away: its own fault if others do not, the client's if they do."""
        own, before = self._refusals.get(slot, (0, self._refused))
        own, self._refused = own + 1, self._refused + 1
        self._refusals[slot] = own, before
        others = self._refused - before - own
        if own - others >= REFUSALS_MORE:
            self.failed(slot, now_s)

    def answered(self, slot: int, sent_s: float) -> None:
        """Note that the endpoint in `slot` gave a good answer to a request that was sent at `sent_s`."""
        suspicion = self._suspicions.get(slot)
        if suspicion is None or sent_s >= suspicion.began_s:
            self.forget(slot)

    def forget(self, slot: int) -> None:
        """Hold nothing against the endpoint in `slot`: all is well, or it is another one now."""
        self._suspicions.pop(slot, None)
        self._errors.pop(slot, None)
        self._refusals[slot] = 0, self._refused

    def narrow(self, slots: IntColumn, now_s: float, scraped_s: FloatColumn) -> IntColumn:
        """Return the slots without those under suspicion, or all of them when nobody else is left. Free when all is well.

        Args:
            slots: the candidates.
            now_s: monotonic seconds.
            scraped_s: of every slot, when its metrics page last came.
        """
        if not self._suspicions:
            return slots
        suspects = [slot for slot, one in self._suspicions.items() if one.holds(now_s, float(scraped_s[slot]))]
        if not suspects:
            return slots
        trusted = slots[~np.isin(slots, suspects)]
        return trusted if len(trusted) else slots
