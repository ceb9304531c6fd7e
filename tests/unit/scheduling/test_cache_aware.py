"""The rule of the SGLang router."""

from epp.scheduling.filters.cache_aware import CacheAwareFilter
from epp.testing.builders import build_match, build_request, build_snapshot, build_view


def kept(plugin, snapshot, match=None):
    return plugin.keep(build_request(100), build_view(snapshot, match)).tolist()


def test_keeps_the_longest_match_above_the_threshold():
    assert kept(CacheAwareFilter(), build_snapshot(3), build_match([31, 40, 40], 100)) == [False, True, True]


def test_keeps_everybody_when_no_match_is_long_enough():
    assert kept(CacheAwareFilter(), build_snapshot(2), build_match([30, 0], 100)) == [True, True]
    assert kept(CacheAwareFilter(), build_snapshot(2)) == [True, True]


def test_imbalance_switches_it_off_only_if_it_is_absolute_and_relative():
    match = build_match([100, 0], 100)
    plugin = CacheAwareFilter(balance_abs_threshold=10, balance_rel_threshold=2.0)
    assert kept(plugin, build_snapshot(2, requests=[11, 0]), match) == [True, True]
    assert kept(plugin, build_snapshot(2, requests=[10, 0]), match) == [True, False]
    assert kept(plugin, build_snapshot(2, requests=[24, 12]), match) == [True, False]
    assert kept(plugin, build_snapshot(2, requests=[25, 12]), match) == [True, True]
