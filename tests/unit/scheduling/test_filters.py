"""Each filter on a small pool."""

import pytest

from epp.errors import ConfigError
from epp.model.endpoint import Endpoint
from epp.scheduling.filters.by_label import ByLabelFilter
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


def test_by_label():
    pool = labelled({"tier": "gold"}, {"tier": "tin"}, {"tier": ""}, {})
    for values, without, expected in [
        (("gold",), False, [True, False, False, False]),
        (("gold", "tin"), True, [True, True, False, True]),
        ((), True, [False, False, False, True]),
        (("",), False, [False, False, True, True]),
    ]:
        assert kept(ByLabelFilter(label="tier", valid_values=values, allows_no_label=without), pool) == expected


@pytest.mark.parametrize(
    ("plugin", "path"),
    [
        (ByLabelFilter(label="tier"), "validValues"),
        (PrefixCacheAffinityFilter(peak_prefill_throughput=0), "peakPrefillThroughput"),
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

    def test_a_penalty_of_0_is_no_bound(self):
        busy, match = build_snapshot(2, tokens=[10**9, 0]), build_match([100, 0], 100)
        for throughput in (1000, 0):
            plugin = PrefixCacheAffinityFilter(peak_prefill_throughput=throughput, max_ttft_penalty_ms=0)
            assert kept(plugin, busy, match=match) == [True, False]

    @pytest.mark.parametrize("penalty_ms", [0, 18_000])
    def test_the_older_bound_in_tokens(self, penalty_ms):
        plugin = PrefixCacheAffinityFilter(max_ttft_penalty_ms=penalty_ms, max_tokens_in_flight_penalty=500)
        match = build_match([100, 0], 100)
        assert kept(plugin, build_snapshot(2, tokens=[600, 100]), match=match) == [True, False]
        assert kept(plugin, build_snapshot(2, tokens=[601, 100]), match=match) == [True, True]


class TestHeaderBasedTesting:
    MEMBERS = (
        Endpoint(name="a-0", address="10.0.0.1", port=3000),
        Endpoint(name="a-1", address="10.0.0.1", port=3002),
        Endpoint(name="a-2", address="10.0.0.1", port=3004),
        Endpoint(name="b-0", address="10.0.0.2", port=3000),
        Endpoint(name="c-0", address="fd00::1", port=3000),
        Endpoint(name="c-1", address="fd00::1", port=3002),
    )

    @pytest.mark.parametrize(
        ("header", "names"),
        [
            ("10.0.0.2", "b-0"),
            ("10.0.0.1", "a-0 a-1 a-2"),
            ("10.0.0.1:3002", "a-1"),
            ("10.0.0.1:3000, 10.0.0.1:3004 ,10.0.0.2", "a-0 a-2 b-0"),
            ("10.0.0.1:3000,10.0.0.1", "a-0 a-1 a-2"),
            ("fd00::1", "c-0 c-1"),
            ("[fd00::1]", "c-0 c-1"),
            ("[FD00:0::1]:3002", "c-1"),
            ("10.0.0.2,10.9.9.9,10.0.0.1:9999", "b-0"),
            ("10.0.0.2,", "b-0"),
            ("10.9.9.9", ""),
            ("10.0.0.2:3002", ""),
            ("fd00::1:3000", ""),
            ("b-0", ""),
            (f"10.0.0.2:{'3' * 5000}", ""),
            (f"10.0.0.2:{'3' * 50}", ""),
            (",", ""),
        ],
        ids=lambda value: value[:40],
    )
    def test_who_is_named_stays(self, header, names):
        kept_ones = kept(HeaderBasedTestingFilter(), build_snapshot(self.MEMBERS), headers={"test-epp-endpoint-selection": header})
        assert [one.name for one, keeps in zip(self.MEMBERS, kept_ones, strict=True) if keeps] == names.split()

    @pytest.mark.parametrize("headers", [{}, {"test-epp-endpoint-selection": ""}, {"test-epp-endpoint-selection": " "}])
    def test_without_names_everybody_stays(self, headers):
        assert all(kept(HeaderBasedTestingFilter(), build_snapshot(self.MEMBERS), headers=headers))

    def test_only_candidates_stay(self):
        headers = {"test-epp-endpoint-selection": "10.0.0.1,fd00::1"}
        snapshot = build_snapshot(self.MEMBERS)
        assert kept(HeaderBasedTestingFilter(), snapshot, headers=headers, slots=[1, 3, 4]) == [True, False, True]
