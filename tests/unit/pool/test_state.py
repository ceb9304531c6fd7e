"""Membership, snapshots, subsets and scraped values of the pool."""

import numpy as np
import pytest

from epp.model.endpoint import Endpoint, Role
from epp.pool.engines import Sample
from epp.pool.state import SLOTS_FIRST, Changes, PoolState


def endpoint(number: int, **changes) -> Endpoint:
    return Endpoint(**{"name": f"default/e{number}", "address": f"10.0.0.{number}", "port": 8000} | changes)


@pytest.fixture
def pool():
    pool = PoolState(slots_max=64)
    yield pool
    pool.check()


def names(pool: PoolState) -> list[str | None]:
    return [one and one.name.removeprefix("default/") for one in pool.snapshot().endpoints]


def test_an_empty_pool(pool):
    snapshot = pool.snapshot()
    assert len(snapshot.slots) == 0
    assert len(snapshot.columns.live) == SLOTS_FIRST
    assert len(pool.candidates(snapshot, None)) == 0


def test_new_endpoints_get_the_lowest_slots(pool):
    assert pool.apply([endpoint(1), endpoint(2), endpoint(3)], 1.0) == Changes(added=(0, 1, 2))
    assert pool.apply([endpoint(1), endpoint(3)], 2.0) == Changes(removed=(1,))
    assert pool.apply([endpoint(1), endpoint(3), endpoint(4)], 3.0) == Changes(added=(1,))
    assert names(pool)[:4] == ["e1", "e4", "e3", None]


def test_the_snapshot_is_the_same_object_until_something_changes(pool):
    pool.apply([endpoint(1)], 1.0)
    before = pool.snapshot()
    assert not pool.apply([endpoint(1)], 2.0)
    pool.update(0, Sample(waiting=3.0), 2.0)
    assert pool.snapshot() is before
    assert before.columns.waiting[0] == 3.0
    pool.apply([endpoint(1, labels={"llm-d.ai/role": "prefill"})], 3.0)
    assert pool.snapshot() is not before
    assert pool.snapshot().version == before.version + 1


def test_a_label_change_keeps_what_is_known(pool):
    pool.apply([endpoint(1)], 1.0)
    pool.update(0, Sample(waiting=3.0), 1.0)
    changes = pool.apply([endpoint(1, labels={"llm-d.ai/role": "prefill"})], 2.0)
    assert changes == Changes(changed=(0,))
    columns = pool.snapshot().columns
    assert (columns.waiting[0], columns.role[0]) == (3.0, Role.PREFILL)


@pytest.mark.parametrize("change", [{"generation": "2"}, {"address": "10.9.9.9"}, {"port": 8001}])
def test_another_life_under_the_same_name_starts_from_nothing(pool, change):
    pool.apply([endpoint(1)], 1.0)
    pool.update(0, Sample(waiting=3.0, block_tokens=16, blocks=100), 1.0)
    handle = pool.ledger.reserve(0, 500.0, 1.0)
    told: list[int] = []
    pool.on_forget(told.append)
    assert pool.apply([endpoint(1, **change)], 2.0) == Changes(reborn=(0,))
    assert told == [0]
    columns = pool.snapshot().columns
    assert (columns.waiting[0], columns.capacity_tokens[0], columns.requests[0], columns.backlog[0]) == (0, 0, 0, 0)
    assert columns.scraped_s[0] == -np.inf
    pool.ledger.release(handle, 3.0)
    assert columns.requests[0] == 0


def test_everybody_is_told_before_a_slot_is_used_again(pool):
    pool.apply([endpoint(1), endpoint(2)], 1.0)
    seen: list[tuple[int, str | None]] = []
    pool.on_forget(lambda slot: seen.append((slot, names(pool)[slot])))
    changes: list[Changes] = []
    pool.on_change(changes.append)
    pool.apply([endpoint(2), endpoint(3)], 2.0)
    assert seen == [(0, "e1")]
    assert changes == [Changes(added=(0,), removed=(0,))]
    assert names(pool)[:2] == ["e3", "e2"]


def test_capacity_doubles_and_old_columns_stay_live(pool):
    pool.apply([endpoint(1)], 1.0)
    old = pool.snapshot()
    pool.apply([endpoint(number) for number in range(1, SLOTS_FIRST + 2)], 2.0)
    assert len(pool.snapshot().columns.live) == 2 * SLOTS_FIRST
    pool.update(0, Sample(running=5.0), 3.0)
    assert old.columns.running[0] == 5.0


def test_no_more_endpoints_than_slots(pool):
    changes = pool.apply([endpoint(number) for number in range(1, 67)], 1.0)
    assert len(changes.added) == 64
    assert changes.refused == ("default/e65", "default/e66")
    assert pool.apply([endpoint(number) for number in range(3, 67)], 2.0).refused == ()


V6 = Endpoint(name="default/v6", address="fd00::1", port=8000)


@pytest.mark.parametrize(
    ("subset", "slots"),
    [
        (None, [0, 1, 2, 3]),
        ([], []),
        (["10.0.0.2:8000"], [1]),
        (["10.0.0.2:8001"], [2]),
        (["10.0.0.2"], [1, 2]),
        (["10.0.0.2:9999"], []),
        (["10.0.0.1:8000", "10.0.0.2:8001", "10.0.0.1:8000"], [0, 2]),
        (["[fd00::1]:8000"], [3]),
        (["[fd00:0:0::1]:8000"], [3]),
        (["fd00::1"], [3]),
        (["[fd00::1]"], [3]),
        (["[fd00::1]:8001", "10.7.7.7:8000", "example:80", "", ":", "[", "10.0.0.1:x"], []),
        (["10.0.0.1:" + "8" * 5000, "10.0.0.1:" + "8" * 50], []),
        (["10.0.0.1:08000"], [0]),
    ],
)
def test_subset(pool, subset, slots):
    pool.apply([endpoint(1), endpoint(2), endpoint(20, address="10.0.0.2", port=8001), V6], 1.0)
    assert pool.candidates(pool.snapshot(), subset).tolist() == slots


def test_what_a_sample_does_not_say_stays(pool):
    pool.apply([endpoint(1)], 1.0)
    pool.update(0, Sample(waiting=1.0, running=2.0, kv_usage=0.5, block_tokens=32, blocks=16384), 1.0)
    pool.update(0, Sample(running=4.0), 2.0)
    columns = pool.snapshot().columns
    assert (columns.waiting[0], columns.running[0], columns.kv_usage[0]) == (1.0, 4.0, 0.5)
    assert (columns.block_tokens[0], columns.capacity_tokens[0]) == (32, 524288)
    assert columns.scraped_s[0] == 2.0


def test_waiting_requests_beyond_ours_count_as_average_prompts(pool):
    pool.apply([endpoint(1)], 1.0)
    pool.ledger.reserve(0, 300.0, 1.0)
    pool.update(0, Sample(waiting=3.0), 1.0)
    assert pool.snapshot().columns.foreign[0] == 600.0
    pool.update(0, Sample(waiting=0.0), 1.0)
    assert pool.snapshot().columns.foreign[0] == 0.0


def test_running_requests_beyond_ours_are_somebody_elses(pool):
    pool.apply([endpoint(1)], 0.0)
    columns = pool.snapshot().columns
    for handle in [pool.ledger.reserve(0, 100.0, 0.0) for _ in range(3)][:2]:
        pool.ledger.first_token(handle, 0.1)
    pool.update(0, Sample(running=8), 0.2)
    assert (columns.decoding[0], columns.backlog_count[0], columns.foreign_decoding[0]) == (2, 1, 5)
    pool.update(0, Sample(running=1), 0.3)
    assert columns.foreign_decoding[0] == 0
    pool.update(0, Sample(running=9), 0.4)
    pool.lose_sight(0)
    assert columns.foreign_decoding[0] == 0


def test_adapters_as_bitmasks(pool):
    pool.apply([endpoint(1), endpoint(2)], 1.0)
    pool.update(0, Sample(adapters=frozenset({"a"}), adapters_waiting=frozenset({"b"}), adapters_max=2), 1.0)
    pool.update(1, Sample(adapters=frozenset({"a"}), adapters_max=2), 1.0)
    snapshot = pool.snapshot()
    assert snapshot.adapters == {"a": (0b11, 0), "b": (0, 0b01)}
    assert snapshot.adapter_room == 0b10
    pool.update(0, Sample(adapters=frozenset({"b"}), adapters_max=2), 2.0)
    assert snapshot.adapters == {"a": (0b10, 0), "b": (0b01, 0)}
    assert snapshot.adapter_room == 0b11
    pool.apply([endpoint(2)], 3.0)
    assert pool.snapshot().adapters == {"a": (0b10, 0)}
    assert pool.snapshot().adapter_room == 0b10


def test_pool_wide_numbers_are_live(pool):
    pool.apply([endpoint(1)], 1.0)
    snapshot = pool.snapshot(1.0)
    pool.ledger.reserve(0, 300.0, 1.0)
    assert pool.snapshot(61.0) is snapshot
    assert (snapshot.utilization_ratio, snapshot.average_own) == (0.9, 300.0)
