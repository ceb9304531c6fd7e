"""Hashes of names, and the pieces of the bound, by example."""

import numpy as np
import pytest

from epp.model.endpoint import Endpoint
from epp.prefix.ring import bound, choices, name_hashes, order, scores
from epp.testing.builders import build_endpoint, build_snapshot

GOLDEN = [2, 4, 7, 6, 1, 3, 5, 0]


def test_names_are_hashed_once_per_membership_whatever_address_or_slot_they_have():
    there = Endpoint(name="ns/a", address="10.0.0.1", port=80)
    moved = Endpoint(name="ns/a", address="10.9.9.9", port=81, labels={"x": "y"})
    snapshot, other = build_snapshot([None, there]), build_snapshot([moved, build_endpoint(1)])
    assert name_hashes(snapshot) is name_hashes(snapshot)
    assert name_hashes(snapshot)[1] == name_hashes(other)[0]
    assert name_hashes(other)[0] != name_hashes(other)[1]


def test_the_permutation_of_a_key_is_the_same_in_every_release():
    """Written down, because replicas of two versions run side by side during an upgrade."""
    hashes = name_hashes(build_snapshot(8))
    assert order(scores(0x0123456789ABCDEF, hashes)).tolist() == GOLDEN
    assert sorted(GOLDEN) == list(range(8))


@pytest.mark.parametrize(
    ("in_flight", "endpoints", "factor", "floor", "cap"),
    [(1, 8, 1.25, 2, 2), (1, 8, 1.25, 0, 1), (16, 16, 1.25, 0, 2), (17, 16, 1.25, 0, 2), (10, 1, 1.1, 0, 11), (64, 16, 1.0, 0, 4)],
)
def test_the_bound(in_flight, endpoints, factor, floor, cap):
    assert bound(in_flight, endpoints, load_factor=factor, floor=floor) == cap


def test_choices_are_those_with_room_for_one_more():
    rated, loads = np.array([2, 1, 3], np.uint64), np.array([1, 3, 2])
    assert choices(rated, loads, 2, 8).tolist() == [0]
    assert choices(rated, loads, 3, 8).tolist() == [2, 0]
    assert choices(rated, loads, 3, 1).tolist() == [2]
    assert choices(rated, loads, 4, 8).tolist() == order(rated).tolist() == [2, 0, 1]
