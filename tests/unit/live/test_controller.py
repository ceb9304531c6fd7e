"""What becomes of a configuration that comes: taken as a whole, or not at all."""

import asyncio
import sys
import weakref
from collections.abc import Awaitable, Callable
from importlib.metadata import EntryPoint
from types import ModuleType

import msgspec
import pytest

from epp.admin.remote import Report, history_lines, status_lines
from epp.errors import ConfigError
from epp.live.parking import PARKED_S
from epp.model.decision import Decision
from epp.scheduling.api import Scorer
from epp.scheduling.registry import GROUP
from epp.testing.tokenizer import write_tokenizer
from tests.unit.live.world import APPROXIMATE, HASH, World


def on_loop(script: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(script())


class FailingScorer(Scorer, frozen=True):
    """A stranger's, which fails when it is used."""

    def score(self, request, view):
        raise ZeroDivisionError("of a stranger")


class UnmakeableScorer(Scorer, frozen=True):
    """A stranger's, which fails when it is made."""

    def __post_init__(self):
        raise RuntimeError("of a stranger")


@pytest.fixture
def strangers(monkeypatch):
    module = ModuleType("strangers")
    module.FailingScorer, module.UnmakeableScorer = FailingScorer, UnmakeableScorer
    monkeypatch.setitem(sys.modules, "strangers", module)
    names = {"failing-scorer": "FailingScorer", "unmakeable-scorer": "UnmakeableScorer"}
    return [EntryPoint(name, f"strangers:{value}", GROUP) for name, value in names.items()]


def test_the_next_request_is_decided_by_the_new_configuration():
    async def script():
        world = World()
        world.serve(3)
        await world.offer(HASH)
        assert world.in_force == "consistent-hash"
        assert world.ask().strategy == "consistent-hash"
        assert world.reasons == ["ConfigApplied"]
        state = world.live.state()
        assert (state.generation, state.up_to_date, state.parked) == (2, True, 1)

    on_loop(script)


def test_what_is_known_survives_there_and_back():
    async def script():
        world = World()
        decision = world.ask()
        world.end(decision)
        index = world.strategies["approximate"]
        await world.offer(HASH)
        other = world.ask("y" * 4000)
        world.end(other)
        await world.offer(APPROXIMATE)
        assert world.strategies["approximate"] is index
        for content, before in (("x" * 4000, decision), ("y" * 4000, other)):
            again = world.ask(content)
            assert again.slot == before.slot
            assert again.matched_tokens > 900, "it went on learning while it was not in use"

    on_loop(script)


def test_a_request_in_flight_ends_on_what_decided_it():
    async def script():
        world = World()
        decision = world.ask()
        await world.offer("strategy: {chain: [approximate, consistent-hash], approximate: {blockSizeTokens: 32}}")
        world.end(decision, cached=500)
        assert world.assembly.director.in_flight == 0
        assert world.pool.snapshot().columns.requests.sum() == 0

    on_loop(script)


def test_an_endpoint_that_leaves_is_forgotten_by_what_is_parked():
    async def script():
        world = World()
        decision = world.ask()
        world.end(decision)
        await world.offer(HASH)
        kept = [one for one in world.pool.snapshot().endpoints if one is not None and one is not decision.endpoint]
        world.pool.apply(kept, world.now_s)
        assert world.assembly.parking.size().entries == 0
        await world.offer(APPROXIMATE)
        assert world.ask().matched_tokens == 0

    on_loop(script)


def test_the_same_in_other_words_is_no_new_generation():
    async def script():
        world = World()
        await world.offer(f"# a comment\n{APPROXIMATE}\n")
        await world.offer("plugins: []\nstrategy: {load: marginal-cost, chain: [approximate]}")
        assert world.live.state().generation == 1
        assert world.reasons == []

    on_loop(script)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("strategy: {chian: []}", "strategy.chian"),
        ("strategy: [", ""),
        ("strategy: {chain: [accurate], tokenizer: {tokenizer: /nowhere}}", "strategy.tokenizer"),
        ("plugins: [{type: metrics-data-source, parameters: {scheme: https, caCertPath: /nowhere}}]", "plugins[0].parameters"),
        ("plugins: [{type: queue-scorer, parameters: {staleS: 0}}]", "plugins[0].parameters.staleS"),
        ("plugins: [{type: prefix-cache-scorer, parameters: {prefixMatchInfoProducerName: x}}]", "plugins[0].parameters.prefix"),
        ("limits: {endpointsMax: 7}", "limits.endpointsMax"),
        ("plugins: [{type: failing-scorer}]", "schedulingProfiles[0]"),
        ("plugins: [{type: unmakeable-scorer}]", ""),
        ("strategy: {trial: {for: 2h}}", "strategy.trial"),
    ],
)
def test_a_bad_one_changes_nothing_but_the_status(strangers, text, path):
    async def script():
        world = World(points=strangers)
        before = world.assembly.director.routing, world.assembly.prepared, world.assembly.wire
        await world.offer(text)
        assert (world.assembly.director.routing, world.assembly.prepared, world.assembly.wire) == before
        assert world.reasons == ["ConfigRefused"]
        report, state = world.live.report(), world.live.state()
        assert report["status"]["error"]["path"].startswith(path)
        assert report["generation"] == state.generation == 1
        assert (state.failures, state.up_to_date, state.last_failure_s) == (1, False, 5e9)
        assert isinstance(world.ask(), Decision)

    on_loop(script)


def test_the_same_complaint_is_made_once_and_counted_each_time():
    async def script():
        world = World()
        for _ in range(3):
            await world.offer("strategy: {chian: []}")
        assert world.reasons == ["ConfigRefused"]
        assert world.live.state().failures == 3
        await world.offer(APPROXIMATE)
        assert world.live.report()["status"]["error"] is None
        assert world.live.state().up_to_date

    on_loop(script)


def test_what_cannot_be_read_is_said_and_what_is_in_force_stays():
    async def script():
        world = World()
        world.controller.lost(ConfigError("cannot read it"), "file x")
        assert world.live.report()["status"]["error"]["message"] == "cannot read it"
        assert isinstance(world.ask(), Decision)

    on_loop(script)


def test_a_filter_that_leaves_nobody_of_those_there_are_is_a_warning():
    async def script():
        world = World()
        await world.offer("plugins: [{type: label-selector-filter, parameters: {matchLabels: {gone: with-the-wind}}}]")
        warning = world.live.report()["status"]["warnings"][-1]
        assert warning.startswith("schedulingProfiles[0]: of the 3 endpoints there are now, no endpoints available")

    on_loop(script)


def test_what_is_scraped_how_streams_are_spoken_and_how_much_is_kept_change_too():
    async def script():
        world = World()
        world.serve(5)
        await world.offer("{scrape: {busyIntervalMs: 200}, server: {servedHeader: x-served}, limits: {decisionsKept: 2}}")
        assert world.assembly.wire.served_header == "x-served"
        assert world.assembly.poller._pace.busy_interval_s == 0.2
        world.serve(3)
        assert len(world.ring) == 2

    on_loop(script)


def test_parsers_change_with_the_routing():
    async def script():
        world = World()
        assert world.ask().request.prompt
        await world.offer("{plugins: [{type: passthrough-parser}], requestHandler: {parsers: [{pluginRef: passthrough-parser}]}}")
        assert not world.ask().request.prompt

    on_loop(script)


def test_a_tokenizer_is_read_when_it_is_first_used_kept_while_it_is_and_then_closed(tmp_path):
    write_tokenizer(tmp_path)
    accurate = f"strategy: {{chain: [accurate, approximate], load: %s, tokenizer: {{tokenizer: {tmp_path}}}}}"

    async def script():
        world = World()
        await world.offer(accurate % "marginal-cost")
        tokenizer = world.assembly.prepared.tokenizer
        await world.offer(accurate % "llm-d")
        assert world.assembly.prepared.tokenizer is tokenizer is world.assembly.director.routing.tokenizer
        await world.offer(APPROXIMATE)
        assert world.assembly.director.routing.tokenizer is None
        with pytest.raises(RuntimeError, match="shutdown"):
            tokenizer._threads.submit(print)

    on_loop(script)


def test_subscriptions_live_as_long_as_their_strategy_is_kept():
    async def script():
        world = World("strategy: {chain: [accurate, approximate]}")
        accurate = world.strategies["accurate"]
        assert accurate.feed.endpoints == 3
        await world.offer(APPROXIMATE)
        assert accurate.feed.endpoints == 3
        await world.offer("strategy: {chain: [accurate]}")
        assert world.strategies["accurate"] is accurate
        assert len(world.assembly.subscriptions) == 1
        await world.offer("strategy: {chain: [accurate], accurate: {speculativeTTL: 5s}}")
        assert world.strategies["accurate"] is not accurate
        assert len(world.assembly.subscriptions) == 2
        await world.wait(PARKED_S)
        assert len(world.assembly.subscriptions) == 1
        await asyncio.sleep(0.05)
        assert accurate.feed.endpoints == 0

    on_loop(script)


def test_what_was_parked_long_enough_is_let_go():
    async def script():
        world = World()
        world.serve(1)
        gone = weakref.ref(world.strategies["approximate"])
        await world.offer(HASH)
        assert world.observers._observers[-1] is world.assembly.parking
        await world.wait(PARKED_S)
        assert world.live.state().parked == 0
        assert world.assembly.parking not in world.observers._observers
        world.serve(1)
        assert gone() is None

    on_loop(script)


def test_an_old_routing_is_freed_with_its_last_request():
    async def script():
        world = World("strategy: {chain: [approximate, consistent-hash]}")
        chain = weakref.ref(world.strategies["chain"])
        decision = world.ask()
        await world.offer(HASH)
        assert chain() is not None
        world.end(decision)
        assert chain() is None

    on_loop(script)


class TestPins:
    def test_going_back_stays_back_until_it_is_unpinned(self):
        async def script():
            world = World()
            await world.offer(HASH)
            await world.controller.rollback()
            assert world.in_force == "approximate"
            await world.offer(HASH)
            await world.offer("strategy: {chain: [approximate, consistent-hash]}")
            assert world.in_force == "approximate"
            assert world.live.report()["status"]["newest"]["held"] == "another one is pinned"
            assert not world.live.state().up_to_date
            await world.controller.unpin()
            assert world.in_force == "approximate+chain+consistent-hash"
            assert [one["generation"] for one in world.live.report()["previous"]] == [3, 2, 1]

        on_loop(script)

    def test_to_a_number(self):
        async def script():
            world = World()
            await world.offer(HASH)
            await world.offer("strategy: {chain: []}")
            await world.controller.rollback(2)
            assert world.in_force == "consistent-hash"
            with pytest.raises(ConfigError, match="generation 9 is not kept"):
                await world.controller.rollback(9)

        on_loop(script)

    def test_when_it_cannot_be_done_nothing_is(self):
        async def script():
            world = World()
            with pytest.raises(ConfigError, match="no other configuration"):
                await world.controller.rollback()
            assert not world.live.state().pinned

        on_loop(script)

    def test_what_is_pinned_is_still_told_what_is_bad(self):
        async def script():
            world = World()
            await world.controller.pin()
            await world.offer("strategy: {chian: []}")
            assert world.live.report()["status"]["error"]["path"] == "strategy.chian"
            await world.controller.unpin()
            assert world.in_force == "approximate"

        on_loop(script)


class TestWhatIsTakenAfterAll:
    """A configuration that was refused for the want of a file, which is there now."""

    @pytest.fixture
    def text(self, tmp_path):
        return f"strategy: {{chain: [accurate], tokenizer: {{tokenizer: {tmp_path}}}}}"

    def test_it_is_not_held_against_it_any_more(self, text, tmp_path):
        async def script():
            world = World()
            await world.offer(text)
            with pytest.raises(ConfigError, match="no tokenizer"):
                await world.controller.unpin()
            assert (world.live.state().up_to_date, world.live.state().last_success_s) == (False, 5e9)
            write_tokenizer(tmp_path)
            await world.wait(60)
            assert not world.live.state().up_to_date, "nothing is tried before somebody asks"
            await world.controller.unpin()
            state, status = world.live.state(), world.live.report()["status"]
            assert world.in_force == "accurate"
            assert (state.up_to_date, state.last_success_s, state.failures) == (True, 5e9 + 60, 2)
            assert (status["up_to_date"], status["error"]) == (True, None)

        on_loop(script)

    def test_nor_when_it_is_gone_back_to(self, text, tmp_path):
        async def script():
            world = World()
            write_tokenizer(tmp_path)
            await world.offer(text)
            await world.offer(APPROXIMATE)
            (tmp_path / "tokenizer.json").rename(tmp_path / "away")
            await world.offer(text)
            assert not world.live.state().up_to_date
            (tmp_path / "away").rename(tmp_path / "tokenizer.json")
            await world.controller.rollback(2)
            assert world.in_force == "accurate"
            assert world.live.state().up_to_date

        on_loop(script)

    def test_what_is_wrong_with_a_later_one_stands(self, text, tmp_path):
        async def script():
            world = World()
            await world.offer(text)
            await world.offer("strategy: {chian: []}")
            write_tokenizer(tmp_path)
            await world.controller.unpin()
            assert world.in_force == "accurate"
            assert world.live.report()["status"]["error"]["path"] == "strategy.chian"
            assert not world.live.state().up_to_date

        on_loop(script)

    def test_nor_is_it_forgotten_that_a_source_has_gone(self, text, tmp_path):
        async def script():
            world = World()
            await world.offer(text)
            world.controller.lost(ConfigError("cannot read it"), "test")
            write_tokenizer(tmp_path)
            await world.controller.unpin()
            assert world.live.report()["status"]["error"]["message"] == "cannot read it"

        on_loop(script)


def trial(text: str = "chain: [consistent-hash]", **revert_on) -> str:
    conditions = ", ".join(f"{name}: {value}" for name, value in revert_on.items())
    return f"strategy: {{{text}, trial: {{for: 100s, revertOn: {{{conditions}}}}}}}"


class TestTrials:
    def test_errors_end_it_and_it_is_not_tried_again(self):
        async def script():
            world = World()
            world.serve(200)
            await world.offer(trial())
            assert world.live.state().on_trial
            world.serve(150, status=503)
            await world.wait(1)
            assert world.in_force == "approximate"
            assert world.reasons == ["ConfigApplied", "TrialStarted", "TrialFailed", "ConfigApplied"]
            report = world.live.report()
            assert "failed its trial: error ratio 1.000" in report["cause"]
            assert not world.live.state().on_trial
            await world.offer(trial())
            assert world.in_force == "approximate"
            assert world.live.report()["status"]["newest"]["held"].startswith("it failed its trial")
            await world.offer("strategy: {chain: [consistent-hash]}")
            assert world.in_force == "consistent-hash"

        on_loop(script)

    def test_requests_that_get_no_endpoint_end_it(self):
        async def script():
            world = World()
            world.serve(200)
            await world.offer(
                "{trial: {for: 100s}, plugins: [{type: label-selector-filter, parameters: {matchLabels: {gone: with-the-wind}}}]}"
            )
            for _ in range(150):
                world.ask()
            await world.wait(1)
            assert world.in_force == "approximate"

        on_loop(script)

    def test_a_loss_of_hits_ends_it_and_the_way_back_is_warm(self):
        async def script():
            world = World()
            world.serve(200, cached=900)
            await world.wait(1)
            index = world.strategies["approximate"]
            await world.offer(trial(hitRatioDrop=0.2))
            await world.wait(30)
            world.serve(150, cached=600)
            await world.wait(1)
            assert "hit ratio 0.600 as reported, 0.900 before" in world.live.report()["cause"]
            assert world.strategies["approximate"] is index

        on_loop(script)

    def test_without_reports_what_was_believed_decides(self):
        async def script():
            world = World()
            world.serve(200)
            await world.offer("{trial: {for: 100s, revertOn: {hitRatioDrop: 0.2}}, plugins: [{type: random-picker}]}")
            await world.wait(30)
            world.serve(150)
            await world.wait(1)
            assert "as believed" in world.live.report()["cause"]

        on_loop(script)

    def test_it_passes(self):
        async def script():
            world = World()
            world.serve(200, cached=900)
            await world.offer(trial())
            world.serve(200, cached=900)
            await world.wait(100)
            assert world.reasons[-1] == "TrialPassed"
            assert world.in_force == "consistent-hash"
            world.serve(500, status=503)
            await world.wait(1)
            assert world.in_force == "consistent-hash"

        on_loop(script)

    def test_the_next_one_is_measured_by_the_last_that_was_good(self):
        async def script():
            world = World()
            world.serve(200)
            await world.offer(trial())
            await world.offer(trial("chain: []"))
            world.serve(150, status=503)
            await world.wait(1)
            assert world.in_force == "approximate"

        on_loop(script)

    @pytest.mark.parametrize("way", ["pin", "rollback", "back"])
    def test_whoever_decides_ends_it(self, way):
        async def script():
            world = World()
            world.serve(200)
            await world.offer(trial())
            await {"pin": world.controller.pin, "rollback": world.controller.rollback, "back": lambda: world.offer(APPROXIMATE)}[
                way
            ]()
            assert not world.live.state().on_trial
            world.serve(300, status=503)
            await world.wait(1)
            assert world.in_force == ("consistent-hash" if way == "pin" else "approximate")
            assert "TrialFailed" not in world.reasons

        on_loop(script)

    def test_there_is_none_at_the_start(self):
        async def script():
            world = World(trial())
            assert not world.live.state().on_trial

        on_loop(script)

    def test_a_failure_before_the_swap_is_not_held_against_it(self):
        async def script():
            world = World()
            decisions = [world.ask() for _ in range(200)]
            world.now_s += 1
            await world.offer(trial())
            world.now_s += 1
            for decision in decisions:
                world.end(decision, status=503)
            world.serve(100)
            await world.wait(1)
            assert world.in_force == "consistent-hash"
            assert world.live.report()["status"]["trial"]["requests"] == 100

        on_loop(script)


def test_the_command_line_reads_every_report():
    def said(world: World) -> str:
        report = msgspec.json.decode(msgspec.json.encode(world.live.report()), type=Report)
        return "\n".join([*status_lines(report), *history_lines(report)])

    async def script():
        world = World()
        assert "generation 1 (" in said(world)
        await world.offer(trial())
        assert "on trial for 100 s: 0 requests, error ratio 0" in said(world)
        await world.controller.pin()
        await world.offer("strategy: {chian: []}")
        assert "strategy.chian: unknown field" in said(world)
        await world.offer("strategy: {chain: []}")
        assert "stays out: another one is pinned" in said(world)

    on_loop(script)
