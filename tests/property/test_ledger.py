"""The in-flight ledger against a naive model, over random interleavings of everything that can happen to requests and endpoints."""

from dataclasses import dataclass, field, fields

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from epp.errors import Overloaded
from epp.model.snapshot import Columns
from epp.pool.load import (
    RATE_DECAY,
    RATE_DEFAULT,
    RATE_PRIOR_TOKENS,
    RATE_SAFETY,
    REQUEST_TOKENS,
    SAMPLE_S_MIN,
    SPEED_SAMPLES,
    UTILIZATION_MAX,
    UTILIZATION_MEMORY_S,
    Ledger,
)

SLOTS = 3
REQUESTS_MAX = 12


@dataclass
class Request:
    """What the model knows of one open request."""

    own: float
    since: float
    waits: bool = True


@dataclass
class Naive:
    """One endpoint, kept in the slowest way: lists that are searched, sums that are taken anew."""

    requests: dict[int, Request] = field(default_factory=dict)
    samples: list[tuple[float, float]] = field(default_factory=list)
    last_first: float = float("-inf")
    head_since: float = 0.0
    ghosts: list[float] = field(default_factory=list)
    """`own` of every request that was let go of in the whole life of the endpoint."""

    def queue(self) -> list[int]:
        return [handle for handle, request in self.requests.items() if request.waits]

    def rate(self) -> float:
        tokens, seconds = RATE_PRIOR_TOKENS, RATE_PRIOR_TOKENS * RATE_SAFETY / RATE_DEFAULT
        for own, elapsed in self.samples:
            tokens, seconds = tokens * RATE_DECAY + own, seconds * RATE_DECAY + max(SAMPLE_S_MIN, elapsed)
        return max(1.0, RATE_SAFETY * tokens / seconds)

    def speed(self) -> float:
        tokens = seconds = samples = 0.0
        for own, elapsed in self.samples:
            tokens, seconds = tokens * RATE_DECAY + own, seconds * RATE_DECAY + max(SAMPLE_S_MIN, elapsed)
            samples = samples * RATE_DECAY + 1
        return max(1.0, RATE_SAFETY * (tokens + REQUEST_TOKENS * samples) / seconds) if samples >= SPEED_SAMPLES else 0.0

    def leave(self, handle: int, now: float) -> None:
        if self.queue()[:1] == [handle]:
            self.head_since = now
        self.requests[handle].waits = False


class LedgerMachine(RuleBasedStateMachine):
    handles = Bundle("handles")
    ended = Bundle("ended")

    def __init__(self) -> None:
        super().__init__()
        self.columns = Columns(**{name.name: np.zeros(SLOTS) for name in fields(Columns)})
        self.ledger = Ledger(self.columns, requests_max=REQUESTS_MAX)
        self.now = 100.0
        self.pool: dict[int, Naive] = {}
        self.open: dict[int, Naive] = {}
        """Every handle not yet ended, those of endpoints that have gone included."""
        self.busy: list[tuple[float, float]] = [(self.now, 0.0)]
        """(from when, share of endpoints with backlog): how it was after every step."""
        self.lean = False

    # Time, and endpoints that come and go.

    @rule(seconds=st.floats(0.0, 5.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(slot=st.integers(0, SLOTS - 1))
    def endpoint_comes(self, slot: int) -> None:
        if slot not in self.pool:
            self.ledger.open(slot, self.now)
            self.pool[slot] = Naive()

    @rule(slot=st.integers(0, SLOTS - 1))
    def endpoint_goes(self, slot: int) -> None:
        self.ledger.close(slot, self.now)
        self.pool.pop(slot, None)

    # Requests.

    @precondition(lambda self: self.pool)
    @rule(target=handles, data=st.data(), own=st.floats(0.0, 1e5))
    def reserve(self, data: st.DataObject, own: float) -> object:
        slot = data.draw(st.sampled_from(sorted(self.pool)))
        if len(self.open) >= REQUESTS_MAX:
            assert self.ledger.full
            with pytest.raises(Overloaded):
                self.ledger.reserve(slot, own, self.now)
            return multiple()
        handle = self.ledger.reserve(slot, own, self.now)
        assert handle > 0
        assert handle not in self.open
        naive = self.pool[slot]
        if not naive.queue():
            naive.head_since = self.now
        naive.requests[handle] = Request(max(1.0, float(round(own))), self.now)
        self.open[handle] = naive
        return handle

    @rule(handle=handles)
    def first_token(self, handle: int) -> None:
        """Comes, comes again, comes for an endpoint that has gone."""
        self.ledger.first_token(handle, self.now)
        naive = self.open[handle]
        request = naive.requests[handle]
        if request.waits and naive in self.pool.values():
            if naive.queue()[0] == handle:
                naive.samples.append((request.own, self.now - max(naive.last_first, request.since)))
                naive.last_first = self.now
            naive.leave(handle, self.now)

    @rule(target=ended, handle=consumes(handles))
    def release(self, handle: int) -> int:
        """Success, abort, time-out, reset: all the same to the ledger."""
        self.ledger.release(handle, self.now)
        naive = self.open.pop(handle)
        naive.leave(handle, self.now)
        del naive.requests[handle]
        return handle

    @rule(target=ended, handle=consumes(handles))
    def released(self, handle: int) -> int:
        """Lean mode."""
        self.lean = True
        self.ledger.released(handle, self.now)
        naive = self.open.pop(handle)
        request = naive.requests[handle]
        if request.waits:
            naive.ghosts.append(request.own)
        naive.leave(handle, self.now)
        del naive.requests[handle]
        return handle

    @rule(handle=ended)
    def reported_again(self, handle: int) -> None:
        self.ledger.first_token(handle, self.now)
        self.ledger.release(handle, self.now)
        self.ledger.released(handle, self.now)

    # What must hold after every step.

    @invariant()
    def consistent(self) -> None:
        self.ledger.check()
        assert len(self.ledger) == len(self.open)

    @invariant()
    def agrees_with_the_model(self) -> None:
        columns = self.columns
        for slot in range(SLOTS):
            naive = self.pool.get(slot, Naive())
            queue = [naive.requests[handle].own for handle in naive.queue()]
            assert columns.requests[slot] == len(naive.requests)
            assert columns.tokens[slot] == sum(request.own for request in naive.requests.values())
            assert columns.rate[slot] == pytest.approx(naive.rate())
            assert columns.speed[slot] == pytest.approx(naive.speed())
            assert sum(queue) <= columns.backlog[slot] <= sum(queue) + sum(naive.ghosts)
            assert len(queue) <= columns.backlog_count[slot] <= len(queue) + len(naive.ghosts)
            assert columns.decoding[slot] == len(naive.requests) - len(queue)
            assert 0.0 <= columns.head_tokens[slot] <= columns.backlog[slot]
            if not naive.ghosts:
                assert columns.head_tokens[slot] == (queue[0] if queue else 0.0)
                assert not queue or columns.head_since_s[slot] == naive.head_since

    @invariant()
    def utilization_is_the_weighted_mean_of_busy_shares(self) -> None:
        if self.lean:
            return  # when ghosts drain is the ledger's own business, between two steps
        self.ledger.advance(self.now)
        mean = 0.0
        for (since, share), (until, _) in zip(self.busy, [*self.busy[1:], (self.now, 0.0)], strict=True):
            mean = share + (mean - share) * np.exp(-(until - since) / UTILIZATION_MEMORY_S)
        assert self.ledger.utilization_ratio == pytest.approx(min(UTILIZATION_MAX, mean), abs=1e-9)
        share = sum(bool(naive.queue()) for naive in self.pool.values()) / len(self.pool) if self.pool else 0.0
        self.busy.append((self.now, share))

    def teardown(self) -> None:
        """When all requests have ended and the ghosts have had their time, nothing is left."""
        for handle in list(self.open):
            self.ledger.release(handle, self.now)
        for _ in range(3):  # the slowest rate is 1 token per second
            self.now += 1e7
            self.ledger.advance(self.now)
        assert len(self.ledger) == 0
        columns = self.columns
        for column in (columns.requests, columns.tokens, columns.backlog, columns.backlog_count, columns.decoding):
            assert not column.any()
        assert self.ledger.utilization_ratio == pytest.approx(0.0, abs=1e-9)
        self.ledger.check()


LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLedger = LedgerMachine.TestCase
