"""One request's life: parsed, matched, scheduled, reserved in one step, and accounted for exactly once."""

import json
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from epp.config.sections import SlowStart
from epp.director import Director, Routing
from epp.errors import BadRequest, NoEndpoint, Overloaded
from epp.model.decision import Decision, Outcome, Usage
from epp.model.match import Match
from epp.model.request import RequestHead
from epp.objectives.objectives import Source
from epp.objectives.rewrites import Rewrite, Rule, Target
from epp.parsers.select import Parsers
from epp.pool.engines import Sample
from epp.pool.state import PoolState
from epp.prefix.strategy import HEALTHY, Size
from epp.scheduling.detectors.utilization import UtilizationDetector
from epp.scheduling.pickers.max_score import MaxScorePicker
from epp.scheduling.profile import Profile
from epp.scheduling.profiles.single import SingleProfileHandler
from epp.scheduling.scorers.marginal_cost import MarginalCostScorer
from epp.testing.builders import build_endpoint

CHAT = RequestHead(path="/v1/chat/completions", headers={})


def chat(content: str = "x" * 400, model: str | None = "tiny") -> bytes:
    named = {} if model is None else {"model": model}
    return json.dumps({**named, "messages": [{"role": "user", "content": content}]}).encode()


class Notebook:
    """A strategy that holds what it is told to hold, and writes down what it is told."""

    name = "notebook"

    def __init__(self, held=None):
        self.held, self.recorded, self.learned, self.forgotten = held or {}, [], [], []

    def health(self):
        return HEALTHY

    def prepare(self, request):
        return request.prompt

    def match(self, keys, request, snapshot, slots):
        if not self.held:
            return None
        tokens = np.zeros(len(snapshot.columns.live))
        for slot, held in self.held.items():
            tokens[slot] = held
        return Match(source=self.name, tokens=tokens, total=100)

    def record(self, keys, request, snapshot, slot, now_s):
        self.recorded.append(slot)

    def learn(self, decision, usage):
        self.learned.append((decision.slot, usage.cached_tokens))

    def forget(self, slot):
        self.forgotten.append(slot)

    def size(self):
        return Size()


class Witness:
    """An observer that remembers."""

    def __init__(self):
        self.events = []

    def decided(self, decision, *, duration_s, body_bytes):
        self.events.append(("decided", body_bytes))

    def rejected(self, head, error):
        self.events.append(("rejected", error.status))

    def finished(self, decision, outcome, *, ttft_s, duration_s):
        self.events.append(("finished", outcome.end, ttft_s))


class LateTokenizer:
    """A tokenizer that answers when the test says so."""

    def __init__(self):
        self.waiting = []
        self.cancelled = 0

    def encode(self, request, done):
        self.waiting.append(done)
        return self._cancel

    def _cancel(self):
        self.cancelled += 1


class World:
    """A pool of three, a director over it, and a clock that the test turns."""

    def __init__(self, *, held=None, endpoints=3, tokenizer=None, requests_max=100):
        self.now_s = 100.0
        self.pool = PoolState(requests_max=requests_max)
        self.strategy, self.witness = Notebook(held), Witness()
        profile = Profile(name="default", scorers=(("cost", 1.0, MarginalCostScorer()),), picker=MaxScorePicker())
        routing = Routing(
            profiles={"default": profile},
            handler=SingleProfileHandler(),
            strategies={"notebook": self.strategy},
            default="notebook",
            tokenizer=tokenizer,
        )
        self.director = Director(
            routing=routing, pool=self.pool, parsers=Parsers(), observer=self.witness, clock=lambda: self.now_s, random=Random(5)
        )
        self.pool.apply([build_endpoint(index) for index in range(endpoints)], self.now_s)

    def ask(self, body=None, head=CHAT):
        answers = []
        assert self.director.schedule(head, body, answers.append) is None
        assert len(answers) == 1
        return answers[0]

    @property
    def in_flight(self):
        return self.pool.snapshot().columns.requests.sum()


def test_a_request_goes_where_its_prefix_is():
    world = World(held={1: 90})
    decision = world.ask(chat())
    assert isinstance(decision, Decision)
    assert decision.endpoint.name == "default/server-1"
    assert (decision.strategy, decision.matched_tokens) == ("notebook", 90)
    assert world.strategy.recorded == [1]
    assert world.witness.events == [("decided", len(chat()))]


def test_load_is_booked_in_the_same_step_so_a_burst_spreads():
    world = World()
    slots = [world.ask(chat()).slot for _ in range(9)]
    assert sorted(slots) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert sorted(slots[:3]) == [0, 1, 2]


@pytest.mark.parametrize("end", ["complete", "client-gone", "local-reply", "error", "released"])
def test_whatever_the_end_it_is_accounted_once(end):
    world = World()
    decision = world.ask(chat())
    assert world.in_flight == 1
    for _ in range(2):
        world.director.finish(decision, Outcome(end=end, status=200))
    assert world.in_flight == 0
    assert world.director.in_flight == 0
    assert [event for event in world.witness.events if event[0] == "finished"] == [("finished", end, None)]


def test_the_first_token_is_timed_from_the_decision_and_only_once():
    world = World()
    decision = world.ask(chat())
    for later in (0.25, 0.5):
        world.now_s = 100.0 + later
        world.director.first_token(decision)
    world.director.finish(decision, Outcome(end="complete", status=200))
    assert world.witness.events[-1] == ("finished", "complete", 0.25)


def test_what_the_server_reports_reaches_the_strategies():
    world = World(held={2: 50})
    decision = world.ask(chat())
    world.director.finish(decision, Outcome(end="complete", status=200, usage=Usage(cached_tokens=48)))
    assert world.strategy.learned == [(2, 48)]


def test_when_another_endpoint_served_it_is_the_one_that_holds_the_prefix_now():
    world = World(held={2: 100})
    decision = world.ask(chat())
    served = build_endpoint(0).authority
    world.director.finish(decision, Outcome(end="complete", status=200, served=served, usage=Usage(cached_tokens=0)))
    assert world.strategy.recorded == [2, 0]
    assert world.strategy.learned == []


def test_an_endpoint_that_does_not_answer_is_passed_over_for_a_while():
    world = World(held={1: 100})
    decision = world.ask(chat())
    assert decision.slot == 1
    world.director.finish(decision, Outcome(end="local-reply", status=503))
    assert world.ask(chat()).slot != 1
    world.now_s += 1.5
    assert world.ask(chat()).slot == 1


def test_the_end_of_an_old_stream_does_not_bring_back_an_endpoint_that_drains():
    world = World(held={1: 100})
    old = world.ask(chat())
    world.now_s += 1
    refused = world.ask(chat())
    assert (old.slot, refused.slot) == (1, 1)
    world.director.finish(refused, Outcome(end="local-reply", status=503))
    world.director.finish(old, Outcome(end="complete", status=200))
    assert world.ask(chat()).slot != 1


def test_a_suspect_gets_one_try_and_its_first_token_brings_it_back():
    world = World(held={1: 100})
    world.director.finish(world.ask(chat()), Outcome(end="local-reply", status=503))
    world.now_s += 1.5
    tried = world.ask(chat())
    assert (tried.slot, world.ask(chat()).slot == 1) == (1, False)
    world.director.first_token(tried)
    assert world.ask(chat()).slot == 1


@pytest.mark.parametrize(("status", "drawn"), [(429, 3), (401, 10), (404, 10)])
def test_an_endpoint_that_turns_all_away_at_once_draws_no_traffic(status, drawn):
    world, slots = World(), []
    for _ in range(90):
        world.now_s += 0.01
        decision = world.ask(chat())
        slots.append(decision.slot)
        world.director.finish(decision, Outcome(end="complete", status=status if decision.slot == 1 else 200))
    assert slots.count(1) == drawn


def test_a_client_that_is_turned_away_everywhere_takes_no_endpoint_from_the_others():
    world, slots = World(), []
    for count in range(300):
        world.now_s += 0.01
        decision = world.ask(chat())
        slots.append(decision.slot)
        world.director.finish(decision, Outcome(end="complete", status=200 if count % 2 else 404))
    assert min(slots.count(slot) for slot in range(3)) > 60


def test_an_endpoint_that_hangs_is_passed_over_when_a_client_gives_it_up():
    world = World(held={1: 100})
    world.pool.update(1, Sample(), world.now_s)
    world.director.finish(world.ask(chat()), Outcome(end="client-gone"))
    decision = world.ask(chat())
    assert decision.slot == 1, "its metrics are fresh, so the client had reasons of its own"
    world.now_s += 6
    world.director.finish(decision, Outcome(end="client-gone"))
    assert world.ask(chat()).slot != 1


def test_an_endpoint_that_has_just_come_gets_its_share_little_by_little():
    world = World(held={3: 90.0})
    world.director.routing = replace(world.director.routing, slow_start=SlowStart(window_ms=10_000, share_min=0.1))
    world.pool.apply([build_endpoint(index) for index in range(4)], world.now_s)

    def share(count=300):
        """Of requests that all would go there."""
        slots = []
        for _ in range(count):
            decision = world.ask(chat())
            slots.append(decision.slot)
            world.director.finish(decision, Outcome(end="complete"))
        return slots.count(3) / count

    at_once = share()
    world.now_s += 5
    assert 0.05 < at_once < 0.15
    assert 0.4 < share() < 0.6
    world.now_s += 5
    assert share() == 1.0


def test_an_endpoint_that_left_is_forgotten_and_its_late_news_is_nobody_elses():
    world = World(held={1: 100})
    decision = world.ask(chat())
    world.pool.apply([build_endpoint(0), build_endpoint(2)], world.now_s)
    assert world.strategy.forgotten == [1]
    world.pool.apply([build_endpoint(0), build_endpoint(2), build_endpoint(7)], world.now_s)
    world.director.finish(decision, Outcome(end="complete", status=200, usage=Usage(cached_tokens=9)))
    assert world.strategy.learned == []
    assert world.in_flight == 0


def test_a_request_without_a_body_goes_through_the_same_candidates():
    world = World()
    subset = (build_endpoint(2).authority,)
    for _ in range(5):
        decision = world.ask(None, RequestHead(path="/v1/models", method="GET", subset=subset))
        assert decision.slot == 2


def test_late_news_of_an_endpoint_whose_labels_changed_are_its_own():
    world = World(held={1: 90})
    decision = world.ask(chat())
    world.pool.apply([replace(build_endpoint(index), labels={"version": "2"}) for index in range(3)], world.now_s)
    world.director.finish(decision, Outcome(end="complete", status=200, usage=Usage(cached_tokens=5)))
    assert world.strategy.learned == [(1, 5)]


@pytest.mark.parametrize("subset", [(), ("10.9.9.9:8000",)])
def test_a_subset_that_leaves_nobody_is_503(subset):
    error = World().ask(chat(), RequestHead(path="/v1/chat/completions", subset=subset))
    assert isinstance(error, NoEndpoint)
    assert (error.status, error.reason) == (503, "rejected-no-endpoints")


def test_an_empty_pool_is_503():
    assert isinstance(World(endpoints=0).ask(chat()), NoEndpoint)


def test_a_body_that_cannot_be_read_is_400_and_books_nothing():
    world = World()
    assert isinstance(world.ask(b"{"), BadRequest)
    assert world.in_flight == 0
    assert world.witness.events == [("rejected", 400)]


def test_beyond_the_bound_requests_are_shed_with_a_time_to_come_back():
    world = World(requests_max=2)
    decisions = [world.ask(chat()) for _ in range(2)]
    error = world.ask(chat())
    assert isinstance(error, Overloaded)
    assert error.retry_after_s is not None
    world.director.finish(decisions[0], Outcome(end="complete", status=200))
    assert isinstance(world.ask(chat()), Decision)


def test_a_model_is_rewritten_by_header():
    body = chat(model="tiny")
    head = RequestHead(path="/v1/chat/completions", headers={"x-llm-d-model-name-rewrite": "tiny-v2"})
    request = World().ask(body, head).request
    assert (request.model, request.target_model) == ("tiny", "tiny-v2")
    assert body[slice(*request.model_span)] == b'"tiny"'


def test_a_plugin_that_fails_costs_a_request_its_endpoint_and_is_told_of(caplog):
    class Broken(Notebook):
        def match(self, keys, request, snapshot, slots):
            raise ZeroDivisionError

    world = World()
    world.director.routing = replace(world.director.routing, strategies={"notebook": Broken()})
    assert world.ask(chat()).status == 500
    assert world.witness.events == [("rejected", 500)]
    assert world.in_flight == 0
    assert caplog.records[0].exc_info[0] is ZeroDivisionError


def test_a_plugin_that_cannot_record_leaves_no_load_behind(caplog):
    class Broken(Notebook):
        def record(self, keys, request, snapshot, slot, now_s):
            raise ZeroDivisionError

    world = World(requests_max=2)
    world.director.routing = replace(world.director.routing, strategies={"notebook": Broken()})
    assert [world.ask(chat()).status for _ in range(5)] == [500] * 5
    assert (world.in_flight, world.director.in_flight) == (0, 0)
    assert {record.exc_info[0] for record in caplog.records} == {ZeroDivisionError}


def test_a_plugin_that_cannot_learn_costs_nothing_but_what_it_would_have_learned(caplog):
    class Broken(Notebook):
        def learn(self, decision, usage):
            raise ZeroDivisionError

    world = World()
    world.director.routing = replace(world.director.routing, strategies={"notebook": Broken()})
    world.director.finish(world.ask(chat()), Outcome(end="complete", status=200, usage=Usage(cached_tokens=5)))
    assert [event[0] for event in world.witness.events] == ["decided", "finished"]
    assert world.in_flight == 0
    assert caplog.records[0].exc_info[0] is ZeroDivisionError


class TestWaitingForTokens:
    def test_the_answer_comes_when_the_tokens_do(self):
        tokenizer, answers = LateTokenizer(), []
        world = World(tokenizer=tokenizer)
        assert world.director.schedule(CHAT, chat(), answers.append) is not None
        assert answers == []
        tokenizer.waiting[0]((1, 2, 3))
        assert answers[0].request.token_ids == (1, 2, 3)

    def test_without_tokens_the_request_goes_on_without_them(self):
        tokenizer, answers = LateTokenizer(), []
        world = World(tokenizer=tokenizer)
        world.director.schedule(CHAT, chat(), answers.append)
        tokenizer.waiting[0](None)
        assert answers[0].request.token_ids is None

    def test_giving_up_reaches_the_tokenizer(self):
        tokenizer, answers = LateTokenizer(), []
        cancel = World(tokenizer=tokenizer).director.schedule(CHAT, chat(), answers.append)
        cancel()
        assert tokenizer.cancelled == 1

    def test_a_request_that_carries_its_ids_does_not_wait(self):
        world = World(tokenizer=LateTokenizer())
        body = json.dumps({"model": "tiny", "prompt": [5, 6, 7]}).encode()
        assert world.ask(body, RequestHead(path="/v1/completions")).request.token_ids == (5, 6, 7)


class TestAnotherConfiguration:
    """`routing` is assigned while requests are under way."""

    def swap(self, world, strategy):
        routing = world.director.routing
        world.director.routing = replace(routing, strategies={"notebook": strategy})
        return strategy

    def test_a_request_in_flight_ends_on_the_one_that_decided_it(self):
        world = World(held={1: 100})
        decision = world.ask(chat())
        other = self.swap(world, Notebook())
        world.director.finish(decision, Outcome(end="complete", status=200, usage=Usage(cached_tokens=90)))
        assert world.strategy.learned == [(1, 90)]
        assert other.learned == []
        assert world.in_flight == 0

    def test_its_keys_go_to_nobody_else_who_has_the_name_now(self):
        world = World(held={1: 100})
        decision = world.ask(chat())
        other = self.swap(world, Notebook())
        served = build_endpoint(0).authority
        world.director.finish(decision, Outcome(end="complete", status=200, served=served))
        assert world.strategy.recorded == [1, 0]
        assert other.recorded == []

    def test_the_next_request_is_the_new_ones(self):
        world = World(held={1: 100})
        world.ask(chat())
        other = self.swap(world, Notebook(held={2: 100}))
        assert world.ask(chat()).slot == 2
        assert other.recorded == [2]
        assert world.strategy.recorded == [1]

    def test_a_request_that_waits_for_tokens_is_decided_by_what_is_in_force_when_they_come(self):
        tokenizer, answers = LateTokenizer(), []
        world = World(tokenizer=tokenizer)
        world.director.schedule(CHAT, chat(), answers.append)
        other = self.swap(world, Notebook(held={2: 100}))
        tokenizer.waiting[0]((1, 2, 3))
        assert answers[0].slot == 2
        assert other.recorded == [2]


def naming(objective, **more):
    return RequestHead(path="/v1/chat/completions", headers={"x-llm-d-inference-objective": objective}, **more)


class TestSheddable:
    """Requests whose objective has a negative priority."""

    def world(self, *, waiting=0, **options):
        world = World(**options)
        world.director.objectives.set_priorities(Source.CONFIGURATION, {"batch": -1, "gold": 9})
        for slot in world.pool.snapshot().slots.tolist():
            world.pool.update(slot, Sample(waiting=waiting, running=0, kv_usage=0.0), world.now_s)
        return world

    def test_go_their_way_while_there_is_room(self):
        decision = self.world(waiting=4).ask(chat(), naming("batch"))
        assert decision.request.priority == -1

    def test_are_refused_while_the_pool_is_saturated(self):
        world = self.world(waiting=5)
        error = world.ask(chat(), naming("batch"))
        assert isinstance(error, Overloaded)
        assert (error.status, error.reason, error.retry_after_s) == (429, "rejected-saturated", 1)
        assert world.witness.events == [("rejected", 429)]
        assert world.in_flight == 0
        assert world.strategy.recorded == []

    @pytest.mark.parametrize("objective", ["gold", "nobody", ""])
    def test_nobody_else_is(self, objective):
        assert isinstance(self.world(waiting=500).ask(chat(), naming(objective)), Decision)

    def test_a_burst_between_two_readings_is_not_let_in_whole(self):
        world = self.world()
        answers = [world.ask(chat(), naming("batch")) for _ in range(40)]
        assert sum(isinstance(answer, Decision) for answer in answers) == 5 * 3

    def test_only_what_the_request_may_go_to_counts(self):
        world = self.world(waiting=500)
        world.pool.update(2, Sample(waiting=0, running=0, kv_usage=0.0), world.now_s)
        assert isinstance(world.ask(chat(), naming("batch")), Overloaded)
        assert world.ask(chat(), naming("batch", subset=(build_endpoint(2).authority,))).slot == 2

    def test_where_there_is_nobody_at_all_it_is_503(self):
        error = self.world(endpoints=0).ask(chat(), naming("batch"))
        assert (error.status, error.reason) == (503, "rejected-no-endpoints")

    def test_a_body_that_cannot_be_read_is_400_whatever_the_load(self):
        assert self.world(waiting=500).ask(b"{", naming("batch")).status == 400

    def test_without_a_body_they_are_refused_too(self):
        assert isinstance(self.world(waiting=500).ask(None, naming("batch", method="GET")), Overloaded)

    def test_no_tokenizer_works_for_one_that_is_refused(self):
        tokenizer = LateTokenizer()
        assert isinstance(self.world(waiting=5, tokenizer=tokenizer).ask(chat(), naming("batch")), Overloaded)
        assert tokenizer.waiting == []

    def test_the_detector_is_the_configuration_s(self):
        world = self.world(waiting=7)
        world.director.routing = replace(world.director.routing, detector=UtilizationDetector(queue_depth_threshold=8))
        assert isinstance(world.ask(chat(), naming("batch")), Decision)

    def test_saturation_is_there_to_be_shown(self):
        assert self.world(waiting=10).director.saturation() == 2.0
        assert self.world(endpoints=0).director.saturation() == 1.0


class TestRewrites:
    """Models sent on under another name because a rule says so."""

    def ask(self, *rules, model="tiny", header="", path="/v1/chat/completions"):
        world = World()
        world.director.objectives.set_rewrites(Source.CONFIGURATION, {"r": Rewrite(name="r", rules=rules)})
        headers = {"x-llm-d-model-name-rewrite": header} if header else {}
        return world.ask(chat(model=model), RequestHead(path=path, headers=headers)).request

    def rule(self, target, *models):
        return Rule(models=models, targets=(Target(model=target),))

    def test_the_name_is_replaced_and_the_rewrite_is_named(self):
        request = self.ask(self.rule("tiny-v2", "tiny"))
        assert (request.model, request.target_model, request.rewrite) == ("tiny", "tiny-v2", "r")
        assert chat()[slice(*request.model_span)] == b'"tiny"'

    def test_a_rule_beats_the_header(self):
        assert self.ask(self.rule("ruled", "tiny"), header="asked").target_model == "ruled"

    def test_the_header_counts_where_no_rule_matches(self):
        request = self.ask(self.rule("ruled", "other"), header="asked")
        assert (request.target_model, request.rewrite) == ("asked", "")

    def test_the_rule_looks_at_the_client_s_name_not_at_the_header_s(self):
        assert self.ask(self.rule("ruled", "asked"), header="asked").target_model == "asked"

    def test_a_rule_that_keeps_the_name_is_named_and_changes_nothing(self):
        request = self.ask(self.rule("tiny", "tiny"), header="asked")
        assert (request.target_model, request.rewrite, request.model_span) == ("tiny", "r", None)

    def test_a_generic_rule_supplies_a_missing_model(self):
        request = self.ask(self.rule("ruled"), model=None)
        assert (request.model, request.target_model, request.rewrite) == ("", "ruled", "r")
        assert request.model_span == (1, 1)

    def test_a_header_supplies_it_too(self):
        assert self.ask(self.rule("ruled", "other"), model=None, header="asked").target_model == "asked"

    def test_where_nobody_does_it_is_400(self):
        world = World()
        for body in (chat(model=None), chat(model="")):
            error = world.ask(body)
            assert (error.status, error.message) == (400, "model not found in request body")

    def test_a_body_that_is_not_read_is_not_rewritten(self):
        request = self.ask(self.rule("ruled"), path="/anything/else")
        assert (request.target_model, request.model_span) == ("", None)
