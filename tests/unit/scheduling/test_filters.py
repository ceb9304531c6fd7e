"""Each filter on a small pool."""

import pytest

from epp.errors import ConfigError
from epp.model.endpoint import Endpoint
from epp.scheduling.filters.decode import DecodeFilter
from epp.scheduling.filters.header_based_testing import HeaderBasedTestingFilter
from epp.scheduling.filters.label_selector import LabelSelectorFilter, Requirement
from epp.scheduling.filters.prefill import PrefillFilter
from epp.scheduling.filters.prefix_cache_affinity import PrefixCacheAffinityFilter
from epp.testing.builders import build_endpoint, build_match, build_request, build_snapshot, build_view


def kept(plugin, snapshot, *, match=None, headers=None, slots=None):
    plugin.check()
    return plugin.keep(build_request(100, headers=headers), build_view(snapshot, match, slots)).tolist()


def labelled(*labels):
    return build_snapshot([build_endpoint(index, one) for index, one in enumerate(labels)])


def test_roles():
    pool = labelled({}, *({"llm-d.ai/role": role} for role in ("prefill", "decode", "both", "encode", "nonsense")))
    assert kept(DecodeFilter(), pool) == [True, False, True, True, False, False]
    assert kept(PrefillFilter(), pool) == [False, True, False, True, False, False]


def test_label_selector():
    pool = labelled({"gpu": "h100", "tier": "gold"}, {"gpu": "h100"}, {"gpu": "a100"}, {})
    assert kept(LabelSelectorFilter(match_labels={"gpu": "h100"}), pool) == [True, True, False, False]
    for operator, values, expected in [
        ("In", ("h100", "a100"), [True, True, True, False]),
        ("NotIn", ("h100",), [False, False, True, True]),
        ("Exists", (), [True, True, True, False]),
        ("DoesNotExist", (), [False, False, False, True]),
    ]:
        requirement = Requirement(key="gpu", operator=operator, values=values)
        assert kept(LabelSelectorFilter(match_expressions=(requirement,)), pool) == expected


def test_label_selector_remembers_per_membership_and_honours_candidates():
    selector, pool = LabelSelectorFilter(match_labels={"gpu": "h100"}), labelled({"gpu": "h100"}, {}, {"gpu": "h100"})
    assert kept(selector, pool) == [True, False, True]
    assert kept(selector, pool, slots=[1, 2]) == [False, True]
    assert kept(LabelSelectorFilter(match_labels={"gpu": "none"}), pool) == [False, False, False]


@pytest.mark.parametrize(
    ("plugin", "path"),
    [
        (LabelSelectorFilter(), ""),
        (LabelSelectorFilter(match_expressions=(Requirement(key="a", operator="In"),)), "matchExpressions[0].values"),
        (PrefixCacheAffinityFilter(exploration_probability=0.1), "explorationProbability"),
        (PrefixCacheAffinityFilter(ttft_source="latencyPredictor"), "ttftSource"),
    ],
)
def test_contradictions_are_refused_with_their_path(plugin, path):
    with pytest.raises(ConfigError) as caught:
        plugin.check()
    assert caught.value.path == path


class TestPrefixCacheAffinity:
    def test_keeps_the_holders(self):
        assert kept(PrefixCacheAffinityFilter(), build_snapshot(3), match=build_match([79, 80, 100], 100)) == [False, True, True]

    def test_keeps_everybody_when_nobody_holds_enough_or_nothing_is_known(self):
        assert kept(PrefixCacheAffinityFilter(), build_snapshot(2), match=build_match([10, 0], 100)) == [True, True]
        assert kept(PrefixCacheAffinityFilter(), build_snapshot(2)) == [True, True]

    def test_gives_up_affinity_when_the_holders_are_too_busy(self):
        plugin = PrefixCacheAffinityFilter(peak_prefill_throughput=1000, max_ttft_penalty_ms=500)
        match = build_match([100, 0], 100)
        assert kept(plugin, build_snapshot(2, tokens=[400, 0]), match=match) == [True, False]
        assert kept(plugin, build_snapshot(2, tokens=[600, 0]), match=match) == [True, True]


def test_header_based_testing():
    members = [
        Endpoint(name="a-0", address="10.0.0.1", port=3000),
        Endpoint(name="a-1", address="10.0.0.1", port=3002),
        Endpoint(name="b-0", address="fd00::1", port=3000),
    ]
    pool = build_snapshot(members)

    def with_header(value):
        return kept(HeaderBasedTestingFilter(), pool, headers={"test-epp-endpoint-selection": value})

    assert with_header("10.0.0.1") == [True, True, False]
    assert with_header("10.0.0.1:3002, [fd00::1]:3000") == [False, True, True]
    assert with_header("fd00::1") == [False, False, True]
    assert with_header("10.9.9.9") == [False, False, False]
    assert with_header(" ") == [True, True, True]
    assert kept(HeaderBasedTestingFilter(), pool) == [True, True, True]
