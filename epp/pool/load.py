"""The in-flight ledger: what we have sent where, and how much prefill is still ahead of the next request there.

The director books a request in the same synchronous step as the pick (`reserve`), so that requests that are decided in one instant
see each other; it reports the first token, and the end exactly once (`release`, or `released` where the rest of the stream is not
seen). Everything lands at once in columns that scorers read (`model.snapshot.Columns`); nothing here waits for a scrape.

Per endpoint the ledger keeps a *prefill queue*: the requests whose first token has not come, in the order of their dispatch. The
head is the one the engine works on; from the times of first tokens the endpoint's prefill rate is learned. A request that nobody
watches any more (lean mode) becomes a *ghost*: its tokens are taken to be drained at that rate, before those of the queue.

What it protects from: load that leaks (a handle ends once, whatever is reported twice), load that outlives its endpoint (a slot's
next owner starts with an account of its own), and growth (`requests_max` open requests, as many ghosts).
"""

import heapq
import math
from collections import OrderedDict, deque

from epp.errors import Overloaded
from epp.model.snapshot import Columns

REQUESTS_MAX = 65_536
"""Open requests in the whole pool; a gateway's circuit breakers stand at some ten thousand."""
RATE_DEFAULT = 8_000.0
"""Published prefill rate before anything is learned, tokens per second: about a third of what an H100 does for a model of 8 billion
parameters. Too low a guess hardly hurts (at a third of the truth, the mean time to first token is within 3 %), twice too high
doubles it."""
RATE_SAFETY = 0.8
"""The published rate as a share of the learned one, for the same reason."""
RATE_DECAY = 0.98
"""What a sample leaves of the sums before it."""
RATE_PRIOR_TOKENS = 1_000.0
"""Weight of the default in the sums, as one request of this many tokens; it fades like any other."""
REQUEST_TOKENS = 256.0
"""What a request costs beside its tokens, in tokens: some 10 ms of front-end and scheduling, at 25 tokens a millisecond. Speeds
are compared with it counted in, or an endpoint that serves mostly cached prompts would look slow for having little to compute."""
SAMPLE_S_MIN = 0.001
"""No engine prefills in less; tokens that come at once, several in one read, must not make an endpoint look endlessly fast."""
SPEED_SAMPLES = 8.0
"""First tokens before an endpoint has a speed. One may have waited for another's whole prefill; and an endpoint that nobody asked
anything must not look slow, or nobody ever will."""
RATE_MIN = 1.0
"""Tokens per second; keeps divisions safe."""
UTILIZATION_MEMORY_S = 3.0
"""Time constant of the mean."""
UTILIZATION_MAX = 0.9
"""What is published at most: the price of a token of prefill, 1 / (1 - utilization), stays below 10."""
AVERAGE_OWN_WEIGHT = 0.02
"""Share of the newest request in the running mean of `own`."""


class _Booking:
    """One request: on whose account, how many tokens, since when."""

    __slots__ = ("account", "own", "since_s")

    def __init__(self, account: "_Account", own: float, since_s: float) -> None:
        self.account = account
        self.own = own
        self.since_s = since_s


class _Account:
    """The ledger of one endpoint. A slot's next owner gets a new one; whoever still holds the old one changes nothing."""

    __slots__ = (
        "first_token_s", "ghost_tokens", "ghosts", "head_since_s", "listed", "open", "prior", "queue", "queue_tokens",
        "rate", "rate_s", "rate_samples", "rate_tokens", "requests", "slot", "speed", "tokens",
    )  # fmt: skip

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.open = True
        """False once the endpoint has gone."""
        self.listed = False
        """The ledger will look at its ghosts again."""
        self.requests = 0
        self.tokens = 0.0
        self.queue: OrderedDict[int, _Booking] = OrderedDict()
        """By handle: watched, first token not come."""
        self.queue_tokens = 0.0
        self.ghosts: deque[_Booking] = deque()
        self.ghost_tokens = 0.0
        self.head_since_s = 0.0
        """When what leads (the oldest ghost, else the head of the queue) took the lead."""
        self.first_token_s = -math.inf
        """When the last first token came."""
        self.rate = RATE_DEFAULT
        self.rate_tokens = self.rate_s = self.rate_samples = 0.0
        self.prior = RATE_PRIOR_TOKENS
        self.speed = 0.0

    def is_head(self, handle: int) -> bool:
        """Whether the engine should be working on this request."""
        return next(iter(self.queue), 0) == handle

    def learn(self, booking: _Booking, now_s: float) -> None:
        """Take one sample of the prefill rate: the head's tokens, and the time since the engine could turn to them."""
        self.rate_tokens = self.rate_tokens * RATE_DECAY + booking.own
        self.rate_s = self.rate_s * RATE_DECAY + max(SAMPLE_S_MIN, now_s - max(self.first_token_s, booking.since_s))
        self.rate_samples = self.rate_samples * RATE_DECAY + 1.0
        self.prior *= RATE_DECAY
        prior_s = self.prior * RATE_SAFETY / RATE_DEFAULT
        self.rate = max(RATE_MIN, RATE_SAFETY * (self.rate_tokens + self.prior) / (self.rate_s + prior_s))
        if self.rate_samples >= SPEED_SAMPLES:
            worked = self.rate_tokens + REQUEST_TOKENS * self.rate_samples
            self.speed = max(RATE_MIN, RATE_SAFETY * worked / self.rate_s)

    def join(self, handle: int, booking: _Booking) -> None:
        """Put a request at the end of the queue."""
        if not self.queue and not self.ghosts:
            self.head_since_s = booking.since_s
        self.queue[handle] = booking
        self.queue_tokens += booking.own

    def leave(self, handle: int, now_s: float) -> None:
        """Take a request out of the queue; the next one may get the lead."""
        if not self.ghosts and self.is_head(handle):
            self.head_since_s = now_s
        self.queue_tokens -= self.queue.pop(handle).own

    def haunt(self, handle: int) -> None:
        """Make a request of the queue a ghost."""
        booking = self.queue.pop(handle)
        self.queue_tokens -= booking.own
        self.ghosts.append(booking)
        self.ghost_tokens += booking.own

    def drain(self, now_s: float) -> int:
        """Let go of the ghosts whose tokens have drained by now; return how many."""
        before = len(self.ghosts)
        while self.ghosts and (drained_s := self.drained_s()) <= now_s:
            self.ghost_tokens -= self.ghosts.popleft().own
            leader = self.ghosts[0] if self.ghosts else next(iter(self.queue.values()), None)
            self.head_since_s = max(drained_s, leader.since_s) if leader else now_s
        return before - len(self.ghosts)

    def drained_s(self) -> float:
        """Return when the leading ghost will have drained."""
        return self.head_since_s + self.ghosts[0].own / self.rate


class Ledger:
    """Open requests by handle, accounts by slot, and the pool's utilization.

    Args:
        columns: where results are written, in place; long enough for every slot that will be opened.
        requests_max: bound on open requests, and on ghosts.

    Cost: `reserve`, `first_token` and `release` together some 6 us, whatever the number of endpoints and open requests.
    """

    def __init__(self, columns: Columns, *, requests_max: int = REQUESTS_MAX) -> None:
        self.requests_max = requests_max
        self.utilization_ratio = 0.0
        """Share of recent time in which the endpoints had backlog, mean over the pool, 0..0.9; as of the last call."""
        self.average_own = 0.0
        """Running mean of `own`; 0 before the first request."""
        self._columns = columns
        self._columns.rate[:] = RATE_DEFAULT
        self._accounts: dict[int, _Account] = {}
        self._bookings: dict[int, _Booking] = {}
        self._handle = 0
        self._ghosts = 0
        self._drains: list[tuple[float, int, _Account]] = []
        """Heap: when the ghosts of a slot should be looked at again. One entry per slot at most."""
        self._busy = 0
        """Endpoints with backlog."""
        self._utilization = 0.0
        self._at_s = -math.inf

    def __len__(self) -> int:
        return len(self._bookings)

    @property
    def full(self) -> bool:
        """Whether `reserve` would refuse."""
        return len(self._bookings) >= self.requests_max

    def open(self, slot: int, now_s: float) -> None:
        """From now on the slot has an owner."""
        self.advance(now_s)
        self._accounts[slot] = _Account(slot)

    def close(self, slot: int, now_s: float) -> None:
        """The owner has gone or lost everything: its requests count no more. Their handles stay valid, and without effect."""
        account = self._accounts.get(slot)
        if account is None:
            return
        self.advance(now_s)
        del self._accounts[slot]
        self._busy -= bool(account.queue or account.ghosts)
        self._ghosts -= len(account.ghosts)
        self._write(nobody := _Account(slot))
        self._write_rate(nobody)
        account.open = False
        if account.listed:
            self._drains = [entry for entry in self._drains if entry[2] is not account]
            heapq.heapify(self._drains)

    def reserve(self, slot: int, own_tokens: float, now_s: float) -> int:
        """Book a request on a slot, in the step that picks it.

        Args:
            slot: where it goes; must be open.
            own_tokens: prompt tokens that the endpoint does not hold; counts as a whole number, at least 1.
            now_s: monotonic seconds, as everywhere here; never falls.

        Returns:
            A handle, above 0 and never used again.

        Raises:
            Overloaded: `requests_max` requests are open.
        """
        if self.full:
            raise Overloaded("too many requests are open", reason="rejected-saturated", retry_after_s=1)
        self.advance(now_s)
        account = self._accounts[slot]
        # Whole numbers add and subtract exactly in floats, so that nothing is left over when everything has gone.
        own = max(1.0, float(round(own_tokens)))
        self.average_own += (own - self.average_own) * (AVERAGE_OWN_WEIGHT if self.average_own else 1.0)
        self._handle = handle = self._handle + 1
        self._bookings[handle] = booking = _Booking(account, own, now_s)
        self._busy += not (account.queue or account.ghosts)
        account.requests += 1
        account.tokens += own
        account.join(handle, booking)
        self._write(account)
        return handle

    def first_token(self, handle: int, now_s: float) -> None:
        """The first token of a request has come. A second report, or one after the end, changes nothing.

        A request that overtakes the head leaves the queue as well, but says nothing about the rate.
        """
        booking = self._bookings.get(handle)
        if booking is None or not booking.account.open or handle not in booking.account.queue:
            return
        account = booking.account
        self.advance(now_s)
        if account.is_head(handle):
            account.learn(booking, now_s)
            self._write_rate(account)
            account.first_token_s = now_s
        self._dequeue(account, handle, now_s)
        self._write(account)

    def release(self, handle: int, now_s: float) -> None:
        """The request is over, however it ended. A second report changes nothing."""
        account = self._end(handle, now_s)
        if account is not None:
            self._dequeue(account, handle, now_s)
            self._write(account)

    def released(self, handle: int, now_s: float) -> None:
        """Nobody will see the rest of the request (lean mode): it is no longer open, but its prefill is still ahead.

        Its tokens drain at the endpoint's rate. Beyond `requests_max` such ghosts they are dropped at once.
        """
        account = self._end(handle, now_s)
        if account is None:
            return
        if handle in account.queue and self._ghosts < self.requests_max:
            account.haunt(handle)
            self._ghosts += 1
            self._drain(account, now_s)
        else:
            self._dequeue(account, handle, now_s)
        self._write(account)

    def advance(self, now_s: float) -> None:
        """Bring the ghosts and `utilization_ratio` up to date; call it before a decision reads them. Cost: below 1 us."""
        while self._drains and self._drains[0][0] <= now_s:
            at_s, _, account = heapq.heappop(self._drains)
            self._integrate(at_s)
            account.listed = False
            self._drain(account, at_s)
            self._write(account)
        self._integrate(now_s)

    def check(self) -> None:
        """Assert what must hold between any two calls. For tests: the cost is linear in what is open."""
        accounts = self._accounts.values()
        assert self._busy == sum(bool(account.queue or account.ghosts) for account in accounts)
        assert self._ghosts == sum(len(account.ghosts) for account in accounts)
        assert max(len(self._bookings), self._ghosts) <= self.requests_max
        assert 0.0 <= self.utilization_ratio <= UTILIZATION_MAX
        assert sorted(entry[2].slot for entry in self._drains) == sorted(account.slot for account in accounts if account.listed)
        for account in accounts:
            mine = [booking for booking in self._bookings.values() if booking.account is account]
            assert (account.requests, account.tokens) == (len(mine), sum(booking.own for booking in mine))
            assert account.queue_tokens == sum(booking.own for booking in account.queue.values())
            assert account.ghost_tokens == sum(booking.own for booking in account.ghosts)
            assert all(self._bookings.get(handle) is booking for handle, booking in account.queue.items())
            assert account.listed or not account.ghosts

    def _integrate(self, now_s: float) -> None:
        """Take the time since the last call into the mean, with as many busy endpoints as there have been since."""
        elapsed_s = now_s - self._at_s
        if elapsed_s <= 0:
            return
        share = self._busy / len(self._accounts) if self._accounts else 0.0
        self._utilization += (share - self._utilization) * -math.expm1(-elapsed_s / UTILIZATION_MEMORY_S)
        self.utilization_ratio = min(UTILIZATION_MAX, self._utilization)
        self._at_s = now_s

    def _end(self, handle: int, now_s: float) -> _Account | None:
        """Take a request off the open ones. None when that was done before, or when its endpoint has gone."""
        booking = self._bookings.pop(handle, None)
        if booking is None or not booking.account.open:
            return None
        self.advance(now_s)
        booking.account.requests -= 1
        booking.account.tokens -= booking.own
        return booking.account

    def _dequeue(self, account: _Account, handle: int, now_s: float) -> None:
        if handle in account.queue:
            account.leave(handle, now_s)
            self._busy -= not (account.queue or account.ghosts)

    def _drain(self, account: _Account, now_s: float) -> None:
        gone = account.drain(now_s)
        self._ghosts -= gone
        self._busy -= bool(gone) and not (account.queue or account.ghosts)
        if account.ghosts and not account.listed:
            account.listed = True
            heapq.heappush(self._drains, (account.drained_s(), account.slot, account))

    def _write(self, account: _Account) -> None:
        columns, slot, queue = self._columns, account.slot, account.queue
        columns.requests[slot] = account.requests
        columns.tokens[slot] = account.tokens
        columns.backlog[slot] = account.queue_tokens + account.ghost_tokens
        columns.backlog_count[slot] = len(queue) + len(account.ghosts)
        columns.decoding[slot] = account.requests - len(queue)
        columns.head_tokens[slot] = account.ghost_tokens + (next(iter(queue.values())).own if queue else 0.0)
        columns.head_since_s[slot] = account.head_since_s

    def _write_rate(self, account: _Account) -> None:
        self._columns.rate[account.slot] = account.rate
        self._columns.speed[account.slot] = account.speed
