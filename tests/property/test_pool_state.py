"""Membership over random sequences of sets: slots are stable, never shared, and never inherited."""

from hypothesis import given
from hypothesis import strategies as st

from epp.model.endpoint import Endpoint
from epp.pool.engines import Sample
from epp.pool.state import PoolState

SLOTS_MAX = 24

endpoints = st.builds(
    lambda number, generation, role: Endpoint(
        name=f"default/e{number}",
        address=f"10.0.0.{number}",
        port=8000,
        generation=str(generation),
        labels={"llm-d.ai/role": role} if role else {},
    ),
    st.integers(0, 30),
    st.integers(0, 1),
    st.sampled_from(["", "prefill", "decode"]),
)
memberships = st.lists(st.lists(endpoints, unique_by=lambda one: one.name, max_size=30), max_size=12)


@given(memberships, st.randoms(use_true_random=False))
def test_slots_are_stable_and_their_owners_start_from_nothing(sequence, random):
    pool = PoolState(slots_max=SLOTS_MAX)
    told: list[int] = []
    pool.on_forget(told.append)
    version = 0
    for now, wanted in enumerate(sequence, start=1):
        before = {one.name: (slot, one) for slot, one in enumerate(pool.snapshot().endpoints) if one}
        told.clear()
        changes = pool.apply(wanted, float(now))
        pool.check()
        snapshot = pool.snapshot(float(now))
        after = {one.name: (slot, one) for slot, one in enumerate(snapshot.endpoints) if one}

        assert {name: one for name, (_, one) in after.items()} == {
            one.name: one for one in wanted if one.name not in changes.refused
        }
        assert len(after) == min(SLOTS_MAX, len(wanted))
        assert all(after[name][0] == slot for name, (slot, _) in before.items() if name in after)
        gone = {slot for name, (slot, _) in before.items() if name not in after}
        reborn = {slot for name, (slot, one) in before.items() if name in after and after[name][1].generation != one.generation}
        assert set(changes.removed) == gone
        assert set(changes.reborn) == reborn
        assert sorted(told) == sorted(gone | reborn)
        version += bool(changes)
        assert snapshot.version == version

        for slot in (*changes.added, *changes.reborn):
            columns = snapshot.columns
            assert not any(column[slot] for column in (columns.waiting, columns.requests, columns.backlog, columns.foreign))
        for slot in snapshot.slots.tolist():
            if random.random() < 0.5:
                pool.ledger.reserve(slot, random.randint(0, 1000), float(now))
                pool.update(slot, Sample(waiting=9.0, adapters=frozenset({f"a{slot}"}), adapters_max=4), float(now))
        assert all(
            mask >> slot & 1 == 0
            for mask, _ in snapshot.adapters.values()
            for slot in range(SLOTS_MAX)
            if slot not in {s for s, _ in after.values()}
        )
