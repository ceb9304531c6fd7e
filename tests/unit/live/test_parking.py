"""Strategies kept warm."""

from dataclasses import replace

import pytest

from epp.live.parking import PARKED_MAX, PARKED_S, Holding, Parking
from epp.prefix.approximate import Approximate
from epp.scheduling.producers.approx_prefix_cache import ApproxPrefixCacheProducer
from epp.testing.builders import build_request, build_snapshot
from tests.unit.telemetry.facts import build_decision, build_outcome

PROMPT = b"y" * 4096


def holding(blocks: int = 16) -> Holding:
    producer = ApproxPrefixCacheProducer(block_size_tokens=blocks)
    return Holding(producer=producer, strategy=producer.build())


class Lot:
    """A parking over a pool of three."""

    def __init__(self) -> None:
        self.snapshot = build_snapshot(3)
        self.parking = Parking(lambda: self.snapshot)

    def finish(self, slot: int, **outcome) -> None:
        decision = build_decision(request={"prompt": PROMPT}, chosen=slot, endpoint=self.snapshot.endpoints[slot])
        self.parking.decided(decision, duration_s=0.0, body_bytes=0)
        self.parking.finished(decision, build_outcome(**outcome), ttft_s=None, duration_s=1.0)

    def known(self, strategy: Approximate) -> list[int]:
        """The slots that a strategy believes to hold the prompt."""
        request = build_request(PROMPT)
        found = strategy.match(strategy.prepare(request), request, self.snapshot, self.snapshot.slots)
        return [] if found is None else found.tokens.nonzero()[0].tolist()


@pytest.fixture
def lot() -> Lot:
    return Lot()


def test_what_is_parked_goes_on_learning(lot):
    first, second = holding(), holding(32)
    lot.parking.park([first, second], 0.0)
    lot.finish(1)
    assert lot.known(first.strategy) == lot.known(second.strategy) == [1]


def test_what_was_served_elsewhere_is_known_there(lot):
    one = holding()
    lot.parking.park([one], 0.0)
    lot.finish(1, served=lot.snapshot.endpoints[2].authority)
    assert lot.known(one.strategy) == [1, 2]


def test_the_late_end_of_a_request_whose_endpoint_has_gone_teaches_nothing(lot):
    one = holding()
    lot.parking.park([one], 0.0)
    gone = replace(lot.snapshot.endpoints[1], generation="before")
    decision = build_decision(request={"prompt": PROMPT}, chosen=1, endpoint=gone)
    served = lot.snapshot.endpoints[2].authority
    lot.parking.finished(decision, build_outcome(served=served), ttft_s=None, duration_s=1.0)
    assert lot.known(one.strategy) == []


def test_an_endpoint_that_goes_is_forgotten(lot):
    one = holding()
    lot.parking.park([one], 0.0)
    lot.finish(1)
    lot.parking.forget(1)
    assert lot.known(one.strategy) == []


def test_what_is_used_again_is_no_longer_told(lot):
    one, other = holding(), holding(32)
    lot.parking.park([one, other], 0.0)
    lot.parking.take_out([one])
    assert lot.parking.holdings == (other,)
    lot.finish(1)
    assert lot.known(one.strategy) == []


def test_the_oldest_make_room(lot):
    holdings = [holding(16 + number) for number in range(PARKED_MAX + 2)]
    given_up = [one for number, each in enumerate(holdings) for one in lot.parking.park([each], number)]
    assert given_up == holdings[:2]
    assert lot.parking.holdings == tuple(holdings[2:])


def test_their_time_ends(lot):
    early, late = holding(16), holding(32)
    lot.parking.park([early], 0.0)
    lot.parking.park([late], 10.0)
    assert lot.parking.expire(PARKED_S - 0.1) == ()
    assert lot.parking.expire(PARKED_S) == (early,)
    assert lot.parking.holdings == (late,)


def test_their_size_is_known(lot):
    one, other = holding(), holding(32)
    assert lot.parking.size().bytes == 0
    lot.parking.park([one, other], 0.0)
    lot.finish(1)
    assert lot.parking.size().bytes == one.strategy.size().bytes + other.strategy.size().bytes > 0
