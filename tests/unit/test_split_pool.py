"""Endpoints that the profile does not use: nobody counts on them when others are passed over, held back or full."""

from dataclasses import replace

import numpy as np
import pytest

from epp.config.sections import SlowStart
from epp.errors import Overloaded
from epp.model.decision import Decision, Outcome
from epp.model.endpoint import ROLE_LABEL
from epp.model.request import RequestHead
from epp.objectives.objectives import Source
from epp.pool.engines import Sample
from epp.scheduling.api import Filter, ProfileHandler
from epp.scheduling.filters.by_label import ByLabelFilter
from epp.scheduling.filters.decode import DecodeFilter
from epp.scheduling.filters.header_based_testing import TEST_HEADER, HeaderBasedTestingFilter
from epp.scheduling.filters.prefill import PrefillFilter
from epp.scheduling.filters.prefix_cache_affinity import PrefixCacheAffinityFilter
from epp.testing.builders import build_endpoint
from tests.unit.test_director import CHAT, World, chat, naming

FAILED = Outcome(end="local-reply", status=503)
PREFILL, DECODE = {ROLE_LABEL: "prefill"}, {ROLE_LABEL: "decode"}


class ByPath(ProfileHandler, frozen=True):
    """Runs each request through the profile that its path ends with."""

    def choose(self, request, profiles):
        return next(name for name in profiles if request.head.path.endswith(name))


class Split(World):
    """Prefillers in the first slots, decoders in the last ones, and a profile with the given filters."""

    def __init__(self, *filters, prefillers=3, decoders=1, **options):
        super().__init__(endpoints=0, **options)
        roles = [PREFILL] * prefillers + [DECODE] * decoders
        self.members = [build_endpoint(index, role) for index, role in enumerate(roles)]
        self.pool.apply(self.members, self.now_s)
        self.decoders = list(range(prefillers, prefillers + decoders))
        named = tuple((type(one).__name__, one) for one in filters or (DecodeFilter(),))
        profile = replace(self.director.routing.profiles["default"], filters=named)
        self.director.routing = replace(self.director.routing, profiles={"default": profile})

    def fail(self, slot):
        """Have a request for this endpoint come back without an answer."""
        held, self.strategy.held = self.strategy.held, {slot: 100}
        decision = self.ask(chat())
        assert decision.slot == slot
        self.director.finish(decision, FAILED)
        self.strategy.held = held

    def slots(self, count=20, head=CHAT):
        """Return where requests go that all are answered, one every tenth of a second."""
        chosen = []
        for _ in range(count):
            self.now_s += 0.1
            decision = self.ask(chat(), head)
            assert isinstance(decision, Decision), decision
            chosen.append(decision.slot)
            self.director.finish(decision, Outcome(end="complete"))
        return chosen


class TestSuspects:
    """Endpoints that did not answer."""

    @pytest.mark.parametrize("only", [DecodeFilter(), ByLabelFilter(label=ROLE_LABEL, valid_values=("decode",))])
    def test_who_alone_can_take_a_request_gets_it(self, only):
        world = Split(only)
        world.fail(3)
        assert world.slots() == [3] * 20

    def test_another_who_can_take_it_goes_first(self):
        world = Split(decoders=2)
        world.fail(3)
        assert set(world.slots(8)) == {4}

    def test_when_all_who_can_are_suspect_all_of_them_are_candidates(self):
        world = Split(decoders=2)
        for slot in world.decoders:
            world.pool.update(slot, Sample(), world.now_s)
        world.now_s += 0.1
        pair = [world.ask(chat()) for _ in world.decoders]
        assert sorted(one.slot for one in pair) == world.decoders
        for one in pair:
            world.director.finish(one, FAILED)
        assert set(world.slots(100)) <= set(world.decoders)

    def test_each_profile_counts_on_its_own_endpoints(self):
        world = Split(prefillers=2, decoders=2)
        default = world.director.routing.profiles["default"]
        profiles = {
            "prefill": replace(default, name="prefill", filters=(("p", PrefillFilter()),)),
            "completions": replace(default, name="completions", filters=(("d", DecodeFilter()),)),
        }
        world.fail(2)
        world.director.routing = replace(world.director.routing, profiles=profiles, handler=ByPath())
        to_prefill = RequestHead(path="/prefill")
        for slot in (0, 1):
            world.strategy.held = {slot: 100}
            world.director.finish(world.ask(chat(), to_prefill), FAILED)
        world.strategy.held = {2: 100}
        assert set(world.slots(4, to_prefill)) <= {0, 1}
        assert set(world.slots(4)) == {3}

    def test_an_endpoint_that_the_request_names_is_asked_again(self):
        world = Split(HeaderBasedTestingFilter())
        world.fail(3)
        head = RequestHead(path=CHAT.path, headers={TEST_HEADER: world.members[3].authority})
        assert world.slots(4, head) == [3] * 4

    def test_a_filter_that_prefers_holders_does_not_bring_back_one_that_died(self):
        world = Split(PrefixCacheAffinityFilter(), held={3: 100})
        world.fail(3)
        assert 3 not in world.slots(8)

    def test_the_sheet_says_who_was_a_candidate(self):
        world = Split(decoders=2)
        world.fail(3)
        assert world.ask(chat()).sheet.candidates.tolist() == [0, 1, 2, 4]
        world = Split()
        world.fail(3)
        sheet = world.ask(chat()).sheet
        assert sheet.candidates.tolist() == [0, 1, 2, 3]
        assert sheet.filters[0].after.tolist() == [3]

    def test_filters_work_once_for_a_request_while_nobody_is_suspect(self):
        asked = []

        class Counting(Filter, frozen=True):
            def keep(self, request, view):
                asked.append(len(view))
                return np.ones(len(view), dtype=np.bool_)

        world = Split(Counting())
        world.ask(chat())
        assert asked == [4]
        world.fail(3)
        asked.clear()
        world.ask(chat())
        assert asked == [3, 3]


class TestNewcomers:
    """Endpoints that have just come."""

    def world(self, **options):
        world = Split(**options)
        world.director.routing = replace(world.director.routing, slow_start=SlowStart(window_ms=60_000))
        return world

    def test_when_all_who_can_take_a_request_are_new_they_get_it(self):
        world = self.world(decoders=4)
        newer = [replace(one, name=f"{one.name}-new") for one in world.members[3:]]
        for gone in range(1, 5):
            world.now_s += 5
            world.pool.apply(world.members[:3] + newer[:gone] + world.members[3 + gone :], world.now_s)
        assert set(world.slots(100)) <= set(world.decoders)

    def test_one_who_is_not_new_goes_first(self):
        world = self.world(decoders=1)
        world.now_s += 1
        world.pool.apply([*world.members, build_endpoint(4, DECODE)], world.now_s)
        assert world.slots(50).count(4) < 15

    def test_they_come_before_a_suspect(self):
        world = self.world(decoders=1)
        world.fail(3)
        world.pool.apply([*world.members, build_endpoint(4, DECODE)], world.now_s)
        assert world.slots(8) == [4] * 8


class TestSaturation:
    """How full the pool is for a request that may be shed."""

    def ask(self, waiting, *filters, **options):
        world = Split(*filters, prefillers=8, decoders=2, **options)
        world.director.objectives.set_priorities(Source.CONFIGURATION, {"batch": -1})
        for slot, depth in enumerate(waiting):
            world.pool.update(slot, Sample(waiting=depth, running=0, kv_usage=0.1), world.now_s)
        return world.ask(chat(), naming("batch"))

    def test_idle_endpoints_that_cannot_take_it_are_no_room(self):
        error = self.ask([0] * 8 + [20, 20])
        assert isinstance(error, Overloaded)
        assert error.retry_after_s == 1

    def test_full_endpoints_that_cannot_take_it_do_not_shed_it(self):
        assert self.ask([10] * 8 + [0, 0]).slot in (8, 9)

    def test_a_filter_that_prefers_holders_leaves_all_of_them_counted(self):
        holders = PrefixCacheAffinityFilter(max_ttft_penalty_ms=0)
        assert self.ask([0] * 8 + [20, 0], DecodeFilter(), holders, held={9: 100}).status == 429

    def test_where_nobody_can_take_it_the_filter_is_named(self):
        error = self.ask([0] * 10, ByLabelFilter(label="zone", valid_values=("a",)))
        assert isinstance(error, Overloaded)
        assert "ByLabelFilter left none" in error.message

    def test_a_filter_that_fails_costs_the_request_alone(self, caplog):
        class Broken(Filter, frozen=True):
            def keep(self, request, view):
                raise ZeroDivisionError

        assert self.ask([0] * 10, Broken()).status == 500
        assert caplog.records[0].exc_info[0] is ZeroDivisionError
