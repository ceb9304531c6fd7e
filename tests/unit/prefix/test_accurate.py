"""The accurate strategy, fed with what an engine would send."""

import gc
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from epp.model.decision import Decision, ScoreSheet, Usage
from epp.model.endpoint import Endpoint
from epp.model.request import Api, InferenceRequest, RequestHead
from epp.prefix import residency
from epp.prefix.accurate import Accurate
from epp.prefix.adoption import PROMPTS_MAX, RecentPrompts
from epp.prefix.approximate import Approximate
from epp.prefix.blocks import Blocks
from epp.prefix.chain import Chain
from epp.prefix.kv_events import decode_live, decode_replay
from epp.prefix.kv_stream import SETTLED_EVENTS, Replay, Standing
from epp.prefix.lanes import SWEEP_BLOCKS
from epp.prefix.strategy import Condition
from epp.prefix.token_keys import prompt_keys
from tests.unit.prefix.engine import CLEARED, Engine, batch, removed, stored

RECORDED = json.loads((Path(__file__).parents[2] / "data" / "vllm_kv_events.json").read_text())


class Columns:
    def __init__(self, width):
        self.live = np.ones(width, np.bool_)


class Pool:
    """As much of a snapshot as the strategy looks at."""

    def __init__(self, width=4, adapters=()):
        self.columns = Columns(width)
        self.slots = np.arange(width)
        self.adapters = dict.fromkeys(adapters, (0, 0))
        self.version = 1


def request(tokens, *, model="base", salt=""):
    return InferenceRequest(
        head=RequestHead(),
        api=Api.COMPLETIONS,
        model=model,
        target_model=model,
        token_ids=None if tokens is None else tuple(tokens),
        cache_salt=salt,
    )


class Rig:
    """A strategy, and for each slot an engine whose messages it gets."""

    def __init__(self, engines=1, *, replayable=False, **engine):
        self.strategy = Accurate(speculative=False)
        self.feed = self.strategy.feed
        self.engines = [Engine(seed=slot, **engine) for slot in range(engines)]
        self.pool = Pool(max(4, engines))
        for slot in range(engines):
            self.feed.attach(slot, endpoint(slot), replayable=replayable)
            self.do(slot, self.feed.connected(slot))

    def do(self, slot, command):
        """Carry out replays until none is asked for."""
        rounds = 0
        while command is not None:
            assert isinstance(command, Replay)
            rounds += 1
            assert rounds < 10, "replays without end"
            asked, command = command, None
            for seq, payload in self.engines[slot].replay(asked.from_seq):
                command = self.feed.receive_replay(asked, seq, payload, 1000.0) or command

    def live(self, slot, message):
        command = self.feed.receive_live(slot, *message, 1000.0)
        self.do(slot, command)
        return command

    def cache(self, slot, tokens):
        self.live(slot, self.engines[slot].cache(tokens))

    def match(self, tokens, **how):
        asked = request(tokens, **how)
        found = self.strategy.match(self.strategy.prepare(asked), asked, self.pool, self.pool.slots)
        return None if found is None else found.tokens.tolist()[: len(self.engines)]

    def standing(self, slot):
        return self.report(slot).standing

    def report(self, slot):
        return next(report for report in self.feed.report() if report.slot == slot)


def endpoint(slot, **more):
    return Endpoint(name=f"default/pod-{slot}", address=f"10.0.0.{slot + 1}", port=8000, **more)


PROMPT = list(range(17))


class TestMatch:
    def test_the_recorded_engine_is_predicted_to_the_token(self):
        rig = Rig(block=32)
        prompt, said = RECORDED["prompt"], [decode_live([bytes.fromhex(frame) for frame in frames]) for frames in RECORDED["live"]]
        rig.live(0, said[0])
        assert rig.match(prompt["tokens"]) == [prompt["cached_tokens_when_repeated"]]
        assert rig.match(prompt["tokens"], salt="tenant-a") is None
        rig.live(0, said[1])
        assert rig.match(prompt["tokens"], salt="tenant-a") == [256]
        assert rig.match(prompt["tokens"], salt="tenant-b") is None

    def test_the_recorded_replay_builds_the_same(self):
        rig = Rig(replayable=True, block=32)
        rig.feed.attach(1, endpoint(1), replayable=True)
        command = rig.feed.connected(1)
        assert command == Replay(slot=1, ticket=1, from_seq=0)
        for frames in RECORDED["replay"]:
            rig.feed.receive_replay(command, *decode_replay([bytes.fromhex(frame) for frame in frames]), 0.0)
        assert rig.standing(1) is Standing.EXACT
        assert rig.report(1).blocks == 8 + 8 + 6

    def test_each_endpoint_its_own_depth(self):
        rig = Rig(engines=4)
        for slot, depth in enumerate((16, 8, 4)):
            rig.cache(slot, PROMPT[:depth])
        assert rig.match(PROMPT) == [16, 8, 4, 0]
        assert rig.match([*PROMPT[:8], 99, 99, 99, 99, 99]) == [8, 8, 4, 0]

    def test_the_last_token_is_always_computed(self):
        rig = Rig()
        rig.cache(0, PROMPT[:16])
        assert rig.match(PROMPT[:16]) == [12]
        assert rig.match(PROMPT[:17]) == [16]

    def test_a_hole_ends_the_match(self):
        rig = Rig()
        rig.cache(0, PROMPT)
        rig.live(0, rig.engines[0].publish(removed(rig.engines[0].handles[tuple(PROMPT[:8])])))
        assert rig.match(PROMPT) == [4]

    def test_nothing_to_match_on(self):
        rig = Rig()
        rig.cache(0, PROMPT)
        for tokens, reason in ((None, "no token ids"), ([1, -1, 2], "a token id that is none"), ([7] * 9, "first block")):
            asked = request(tokens)
            keys = rig.strategy.prepare(asked)
            assert rig.strategy.match(keys, asked, rig.pool, rig.pool.slots) is None
            assert reason in rig.strategy.why_not(keys)
        assert rig.match([]) is None

    def test_only_candidates_make_an_answer(self):
        rig = Rig(engines=2)
        rig.cache(0, PROMPT)
        asked = request(PROMPT)
        assert rig.strategy.match(rig.strategy.prepare(asked), asked, rig.pool, np.array([1])) is None

    def test_endpoints_of_different_block_sizes(self):
        rig = Rig(engines=3)
        rig.engines[1].block, rig.engines[2].block = 1, 8
        for slot in range(3):
            rig.cache(slot, PROMPT[:15])
        assert rig.match(PROMPT) == [12, 15, 8]
        assert set(rig.feed.sizes) == {1, 4, 8}

    def test_more_block_sizes_than_are_allowed(self):
        rig = Rig(engines=5)
        for slot, block in enumerate((4, 4, 1, 2, 3)):
            rig.engines[slot].block = block
            rig.cache(slot, PROMPT)
        assert len(rig.feed.sizes) == 4
        rig.feed.attach(5, endpoint(5), replayable=False)
        rig.feed.receive_live(5, 0, batch(stored([1], PROMPT[:5], block=5)), 0.0)
        assert len(rig.feed.sizes) == 4
        assert rig.match(PROMPT)[:2] == [16, 16]

    def test_adapters(self):
        rig = Rig()
        tokens = PROMPT[:8]
        rig.live(0, rig.engines[0].publish(stored([1, 2], tokens, lora_id=1, lora_name="sql", extra_keys=[["sql"], ["sql"]])))
        assert rig.match(PROMPT) is None
        assert rig.match(PROMPT, model="sql") == [8]
        rig.live(0, rig.engines[0].publish(stored([3, 4], PROMPT[8:16], parent=2, lora_id=1, lora_name="sql")))
        assert rig.match(PROMPT, model="sql") == [16]

    def test_an_adapter_without_blocks_does_not_match_the_base_model(self):
        rig = Rig()
        rig.cache(0, PROMPT)
        assert rig.match(PROMPT, model="base") == [16]
        rig.pool = Pool(adapters=["sql"])
        assert rig.match(PROMPT, model="sql") is None
        assert rig.match(PROMPT, model="base") == [16]

    def test_images_make_other_blocks_of_the_same_tokens(self):
        rig = Rig()
        publish = rig.engines[0].publish
        rig.live(0, publish(stored([1, 2], PROMPT[:8], extra_keys=[None, [["image-1", 0]]])))
        assert rig.match(PROMPT) == [4]
        rig.live(0, publish(stored([3], PROMPT[8:12], parent=2)))
        assert rig.match(PROMPT) == [4]

    def test_slower_tiers_count_less(self):
        rig = Rig(engines=2)
        host = {"medium": "CPU"}
        for slot, seq in ((0, 0), (1, 0)):
            rig.feed.receive_live(slot, seq, batch(stored([1, 2, 3], PROMPT[:12])), 0.0)
        rig.feed.receive_live(0, 1, batch(stored([1, 2, 3], [], block=0) | host, removed(2, 3)), 0.0)
        rig.feed.receive_live(1, 1, batch(removed(2, 3)), 0.0)
        assert rig.match(PROMPT) == [pytest.approx(4 + 0.8 * 8), 4]
        rig.feed.receive_live(0, 2, batch(removed(2) | host), 0.0)
        assert rig.match(PROMPT) == [4, 4]


class TestReferences:
    def test_stored_twice_removed_once(self):
        rig = Rig()
        publish = rig.engines[0].publish
        rig.live(0, publish(stored([1], PROMPT[:4])))
        rig.live(0, publish(stored([1], PROMPT[:4]), removed(1)))
        assert rig.match(PROMPT) == [4]
        rig.live(0, publish(removed(1)))
        assert rig.match(PROMPT) is None
        rig.live(0, publish(removed(1)))
        assert rig.report(0).blocks == 0

    def test_two_handles_of_the_same_tokens(self):
        rig = Rig()
        publish = rig.engines[0].publish
        rig.live(0, publish(stored([1], PROMPT[:4]), stored([2], PROMPT[:4]), removed(1)))
        assert rig.match(PROMPT) == [4]
        rig.live(0, publish(removed(2)))
        assert rig.match(PROMPT) is None

    def test_one_handle_for_two_contents(self):
        rig = Rig()
        rig.live(0, rig.engines[0].publish(stored([1], PROMPT[:4]), stored([1], [9, 9, 9, 9])))
        assert rig.match(PROMPT) is None
        assert rig.match([9] * 5) == [4]
        assert rig.report(0).counts.conflicts == 1
        rig.live(0, rig.engines[0].publish(removed(1), removed(1)))
        assert rig.match([9] * 5) is None

    def test_the_same_handle_in_two_endpoints_is_two_blocks(self):
        rig = Rig(engines=2)
        rig.feed.receive_live(0, 0, batch(stored([1], PROMPT[:4])), 0.0)
        rig.feed.receive_live(1, 0, batch(stored([1], [5] * 4)), 0.0)
        rig.feed.receive_live(1, 1, batch(removed(1)), 0.0)
        assert rig.match(PROMPT) == [4, 0]

    def test_unknown_parents_are_orphans(self):
        rig = Rig()
        rig.live(0, rig.engines[0].publish(stored([2], PROMPT[4:8], parent=1)))
        assert rig.match(PROMPT) is None
        assert rig.report(0).counts.orphans == 1


class TestGroups:
    def test_sparse_groups_and_their_removals_are_left_out(self):
        rig = Rig()
        full = {"group_idx": 0, "kv_cache_spec_kind": "full_attention"}
        window = {"group_idx": 1, "kv_cache_spec_kind": "sliding_window"}
        rig.live(0, rig.engines[0].publish(stored([1, 2], PROMPT[:8], **full), stored([2], PROMPT[:8], **window)))
        rig.live(0, rig.engines[0].publish(removed(2, group_idx=1), removed(1, group_idx=7)))
        assert rig.match(PROMPT) == [8]
        assert rig.report(0).counts.skipped == 3

    def test_a_second_dense_group_does_not_count_twice(self):
        rig = Rig()
        rig.live(0, rig.engines[0].publish(stored([1], PROMPT[:4], group_idx=0), stored([1, 2], PROMPT[:4], group_idx=2, block=2)))
        rig.live(0, rig.engines[0].publish(removed(1, group_idx=0)))
        assert rig.match(PROMPT) is None

    def test_the_lowest_dense_group_counts(self):
        rig = Rig()
        rig.live(0, rig.engines[0].publish(stored([1, 2], PROMPT[:4], group_idx=2, block=2), stored([1], PROMPT[:4], group_idx=0)))
        assert rig.match(PROMPT) == [4]
        assert rig.feed.sizes == (4,)


class TestStream:
    def test_from_the_first_message_on_all_is_known(self):
        rig = Rig()
        assert rig.standing(0) is Standing.RECOVERING
        rig.cache(0, PROMPT)
        assert rig.standing(0) is Standing.EXACT

    def test_joined_late_without_replay(self):
        rig = Rig()
        rig.engines[0].cache([5] * 4)
        rig.cache(0, PROMPT)
        assert rig.standing(0) is Standing.DEGRADED
        assert rig.match(PROMPT) == [16]
        rig.live(0, rig.engines[0].clear())
        assert rig.standing(0) is Standing.EXACT
        assert rig.match(PROMPT) is None

    def test_joined_late_with_replay(self):
        rig = Rig(replayable=True)
        rig.feed.forget(0)
        rig.engines[0].cache([5] * 4)
        rig.engines[0].cache(PROMPT)
        rig.feed.attach(0, endpoint(0), replayable=True)
        rig.do(0, rig.feed.connected(0))
        assert rig.standing(0) is Standing.EXACT
        assert rig.match(PROMPT) == [16]

    def test_a_degraded_stream_settles_when_nothing_hangs_on_the_unknown(self):
        rig = Rig()
        engine = rig.engines[0]
        engine.publish(stored([1], PROMPT[:4]))
        for number in range(SETTLED_EVENTS):
            assert rig.standing(0) is not Standing.EXACT
            rig.live(0, engine.publish(stored([number + 10], [number] * 4)))
        assert rig.standing(0) is Standing.EXACT

    def test_gap_without_replay_forgets(self):
        rig = Rig()
        rig.cache(0, PROMPT)
        rig.engines[0].evict(PROMPT)
        rig.cache(0, [8] * 8)
        assert rig.standing(0) is Standing.DEGRADED
        assert rig.match(PROMPT) is None
        assert rig.match([8] * 9) == [8]

    def test_gap_with_replay_is_filled(self):
        rig = Rig(replayable=True)
        rig.cache(0, PROMPT)
        rig.engines[0].evict(PROMPT)
        rig.cache(0, [8] * 8)
        assert rig.standing(0) is Standing.EXACT
        assert rig.match(PROMPT) == [12]
        assert rig.match([8] * 9) == [8]
        assert (rig.report(0).counts.gaps, rig.report(0).counts.restarts) == (1, 0)

    def test_recovering_while_the_replay_runs_and_live_messages_wait(self):
        rig = Rig(replayable=True)
        engine, feed = rig.engines[0], rig.feed
        rig.cache(0, PROMPT[:4])
        lost = engine.cache(PROMPT[:8])
        command = feed.receive_live(0, *engine.cache(PROMPT[:12]), 0.0)
        assert command == Replay(slot=0, ticket=2, from_seq=0)
        assert rig.standing(0) is Standing.RECOVERING
        assert feed.receive_live(0, *engine.cache(PROMPT[:16]), 0.0) is None
        assert rig.match(PROMPT) == [4]
        replies = engine.replay(0)
        assert lost in replies
        for reply in replies[:-1]:
            feed.receive_replay(command, *reply, 0.0)
        assert rig.standing(0) is Standing.RECOVERING
        feed.receive_replay(command, *replies[-1], 0.0)
        assert rig.standing(0) is Standing.EXACT
        assert rig.match(PROMPT) == [16]
        assert rig.report(0).blocks == 4, "replayed and live were counted once"

    def test_clear_during_a_replay(self):
        rig = Rig(replayable=True)
        engine, feed = rig.engines[0], rig.feed
        rig.cache(0, PROMPT[:4])
        engine.cache(PROMPT[:8])
        command = feed.receive_live(0, *engine.cache(PROMPT), 0.0)
        feed.receive_replay(command, *engine.replay(0)[0], 0.0)
        feed.receive_live(0, *engine.clear(), 0.0)
        for reply in engine.replay(1):
            feed.receive_replay(command, *reply, 0.0)
        assert rig.standing(0) is Standing.EXACT
        assert rig.match(PROMPT) is None

    def test_restart_seen_by_a_smaller_number(self):
        for replayable in (True, False):
            rig = Rig(replayable=replayable)
            rig.cache(0, PROMPT)
            rig.cache(0, [8] * 8)
            rig.engines[0].restart()
            rig.cache(0, [9] * 8)
            assert rig.standing(0) is Standing.EXACT
            assert rig.match(PROMPT) is None
            assert rig.match([9] * 9) == [8]
            assert rig.report(0).epoch == 1

    def test_restart_that_is_faster_than_we_reconnect(self):
        rig = Rig(replayable=True)
        for number in range(5):
            rig.cache(0, [number] * 8)
        rig.engines[0].restart()
        for number in range(7):
            rig.engines[0].cache([10 + number] * 8)
        rig.cache(0, [20] * 8)
        assert rig.report(0).counts.gaps == 1
        assert rig.report(0).epoch == 1
        assert rig.standing(0) is Standing.EXACT
        assert rig.match([4] * 9) is None
        assert rig.match([16] * 9) == [8]
        assert rig.match([20] * 9) == [8]

    def test_restart_that_meets_the_old_number_is_seen_on_reconnect(self):
        rig = Rig(replayable=True)
        for number in range(5):
            rig.cache(0, [number] * 8)
        rig.feed.disconnected(0)
        assert rig.standing(0) is Standing.RECOVERING
        rig.engines[0].restart()
        for number in range(5):
            rig.engines[0].cache([10 + number] * 8)
        rig.do(0, rig.feed.connected(0))
        assert rig.standing(0) is Standing.EXACT
        assert rig.match([4] * 9) is None
        assert rig.match([14] * 9) == [8]

    def test_reconnected_to_the_same_engine(self):
        for replayable in (True, False):
            rig = Rig(replayable=replayable)
            rig.cache(0, PROMPT)
            rig.feed.disconnected(0)
            rig.do(0, rig.feed.connected(0))
            rig.cache(0, [8] * 8)
            assert rig.standing(0) is Standing.EXACT
            assert rig.match(PROMPT) == [16]
            assert rig.report(0).epoch == 0

    def test_another_life_of_the_endpoint_holds_nothing(self):
        rig = Rig(replayable=True)
        rig.cache(0, PROMPT)
        rig.engines[0].restart()
        rig.feed.attach(0, endpoint(0, generation="uid-2"), replayable=True)
        rig.do(0, rig.feed.connected(0))
        assert rig.match(PROMPT) is None
        assert rig.standing(0) is Standing.EXACT

    def test_replies_that_were_dropped_are_asked_for_again(self):
        rig = Rig(replayable=True)
        rig.cache(0, PROMPT[:4])
        engine, feed = rig.engines[0], rig.feed
        for number in range(4):
            engine.cache([number] * 8)
        command = feed.receive_live(0, *engine.cache(PROMPT), 0.0)
        replies = engine.replay(0)
        assert feed.receive_replay(command, *replies[0], 0.0) is None
        assert feed.receive_replay(command, *replies[1], 0.0) is None
        again = feed.receive_replay(command, *replies[3], 0.0)
        assert (again.from_seq, again.delay_s > 0) == (1, True)
        rig.do(0, again)
        assert rig.standing(0) is Standing.EXACT
        assert [rig.match([number] * 9) for number in range(4)] == [[8]] * 4

    def test_a_replay_that_breaks_off_is_resumed(self):
        rig = Rig(replayable=True)
        rig.cache(0, PROMPT[:4])
        engine, feed = rig.engines[0], rig.feed
        engine.cache([1] * 8)
        command = feed.receive_live(0, *engine.cache(PROMPT), 0.0)
        feed.receive_replay(command, *engine.replay(0)[0], 0.0)
        again = feed.replay_failed(command, 0.0)
        assert again.from_seq == 0
        assert rig.standing(0) is Standing.RECOVERING
        rig.do(0, again)
        assert rig.standing(0) is Standing.EXACT
        assert rig.match(PROMPT) == [16]

    def test_overrun_replay_buffer(self):
        rig = Rig(replayable=True, ring=3)
        rig.cache(0, PROMPT)
        for number in range(8):
            rig.engines[0].cache([number] * 8)
        rig.cache(0, [20] * 8)
        assert rig.standing(0) is Standing.DEGRADED
        assert rig.match(PROMPT) is None
        assert rig.match([20] * 9) == [8]
        assert rig.match([7] * 9) == [8]

    def test_failed_replay_degrades_and_a_later_one_heals(self):
        rig = Rig(replayable=True)
        engine, feed = rig.engines[0], rig.feed
        rig.cache(0, PROMPT)
        engine.evict(PROMPT)
        command = feed.receive_live(0, *engine.cache([8] * 8), 0.0)
        retry = feed.replay_failed(command, 0.0)
        assert retry.delay_s > 0
        assert retry.from_seq == 0
        assert rig.standing(0) is Standing.DEGRADED
        assert rig.match(PROMPT) is None, "a removal may be lost: all that was known is forgotten"
        assert rig.match([8] * 9) == [8]
        assert feed.receive_live(0, *engine.cache([9] * 8), 0.0) is None
        assert rig.match([9] * 9) == [8]
        assert feed.receive_replay(command, *engine.replay(0)[0], 0.0) is None, "the old ticket is void"
        rig.do(0, retry)
        assert rig.standing(0) is Standing.EXACT
        assert [rig.match(tokens) for tokens in (PROMPT, [8] * 9, [9] * 9)] == [[12], [8], [8]]

    def test_replays_that_never_succeed_come_slower_and_slower(self):
        rig = Rig(replayable=True)
        engine, feed = rig.engines[0], rig.feed
        engine.cache(PROMPT)
        command = feed.receive_live(0, *engine.cache([8] * 8), 0.0)
        delays = []
        for _ in range(20):
            command = feed.replay_failed(command, 0.0)
            delays.append(command.delay_s)
        assert delays == sorted(delays)
        assert delays[-1] == 30.0

    def test_an_engine_that_answers_replays_with_nothing(self):
        rig = Rig(replayable=True, ring=0)
        rig.engines[0].cache(PROMPT)
        feed = rig.feed
        command = feed.receive_live(0, *rig.engines[0].cache([8] * 8), 0.0)
        for _ in range(5):
            command = feed.receive_replay(command, *rig.engines[0].replay(0)[0], 0.0)
            if rig.standing(0) is Standing.DEGRADED:
                break
        assert rig.standing(0) is Standing.DEGRADED
        assert command.delay_s > 0
        assert rig.match([8] * 9) == [8]

    def test_reordered_messages(self):
        rig = Rig(replayable=True)
        rig.cache(0, PROMPT[:4])
        first, second = rig.engines[0].cache(PROMPT[:8]), rig.engines[0].cache(PROMPT)
        rig.live(0, second)
        rig.live(0, first)
        assert rig.standing(0) is Standing.EXACT
        assert rig.match(PROMPT) == [16]
        assert rig.report(0).blocks == 4

    def test_malformed_batch_is_a_loss_for_good(self):
        rig = Rig(replayable=True)
        rig.cache(0, PROMPT)
        rig.live(0, (1, b"\xc1"))
        assert rig.standing(0) is Standing.DEGRADED
        assert rig.match(PROMPT) is None
        assert rig.report(0).counts.decode_errors == 1
        rig.feed.malformed(0)
        assert rig.report(0).counts.decode_errors == 2

    def test_children_before_their_parents_wait_during_a_replay(self):
        rig = Rig(replayable=True)
        rig.feed.forget(0)
        rig.engines[0].publish(stored([2], PROMPT[4:8], parent=1), stored([3], PROMPT[8:12], parent=2))
        rig.engines[0].publish(stored([1], PROMPT[:4]))
        rig.engines[0].publish(stored([9], PROMPT[:4], parent=77), stored([5], [7] * 4, parent=1), removed(9))
        rig.feed.attach(0, endpoint(0), replayable=True)
        rig.do(0, rig.feed.connected(0))
        assert rig.match(PROMPT) == [12]
        assert rig.report(0).counts.orphans == 1

    def test_ranks(self):
        rig = Rig()
        rig.feed.attach(0, replace(endpoint(0), rank=0, name="default/pod-rank-0"), replayable=False)
        rig.feed.attach(1, replace(endpoint(0), rank=1, name="default/pod-rank-1"), replayable=False)
        rig.feed.receive_live(0, 0, batch(stored([1], PROMPT[:4]), rank=1), 0.0)
        assert rig.match(PROMPT) is None, "rank 1 has a stream of its own"
        assert rig.report(0).counts.foreign == 1
        rig.feed.receive_live(0, 1, batch(stored([1], PROMPT[:4]), rank=6), 0.0)
        assert rig.match(PROMPT) == [4], "nobody else is rank 6: the engine counts differently"

    def test_messages_for_an_endpoint_that_has_gone(self):
        rig = Rig()
        rig.strategy.forget(0)
        assert rig.feed.receive_live(0, 0, batch(CLEARED), 0.0) is None
        rig.feed.malformed(0)
        assert rig.feed.report() == []


class TestAdoption:
    """Joined late, without a replay: what stays hot is never announced again."""

    HOT = tuple(range(100, 116))

    def late(self, **how):
        """Return a rig that missed everything until one unrelated event."""
        rig = Rig(**how)
        rig.engines[0].cache(list(self.HOT))
        rig.cache(0, [1] * 4)
        assert rig.standing(0) is Standing.DEGRADED
        return rig

    def send(self, rig, tokens, **how):
        """Route a prompt to slot 0, and have it computed there."""
        asked = request([*tokens, 0], **how)
        rig.strategy.record(rig.strategy.prepare(asked), asked, rig.pool, 0, now_s=1.0)
        rig.cache(0, tokens)

    def test_a_hot_prefix_is_known_from_what_hangs_on_it(self):
        rig = self.late()
        assert rig.match([*self.HOT, 0]) is None
        self.send(rig, [*self.HOT, *range(8)])
        assert rig.match([*self.HOT, 0]) == [16]
        assert rig.match([*self.HOT, *range(8), 0]) == [24]
        assert (rig.report(0).counts.adopted, rig.report(0).counts.orphans) == (1, 0)
        rig.feed.check()

    def test_it_is_given_up_with_the_block_that_proved_it(self):
        rig = self.late()
        self.send(rig, [*self.HOT, *range(8)])
        for _ in range(3):
            rig.live(0, rig.engines[0].evict([*self.HOT, *range(8)][: 24 - 4 * _]))
        assert rig.match([*self.HOT, 0]) is None
        assert rig.report(0).blocks == 1
        rig.feed.check()

    def test_a_second_proof_does_not_count_twice(self):
        rig = self.late()
        self.send(rig, [*self.HOT, *range(8)])
        self.send(rig, [*self.HOT, *range(50, 58)])
        self.send(rig, [*self.HOT[:8], *range(60, 68)])
        assert rig.match([*self.HOT[:8], *range(60, 68), 0]) == [16]
        assert rig.report(0).counts.adopted == 2, "the first one made the parent of the second one known"
        rig.feed.check()

    def test_chunks_of_a_prefill(self):
        rig = self.late()
        prompt = [*self.HOT, *range(16)]
        asked = request([*prompt, 0])
        rig.strategy.record(rig.strategy.prepare(asked), asked, rig.pool, 0, now_s=1.0)
        rig.cache(0, prompt[:20])
        rig.cache(0, prompt)
        assert rig.match([*prompt, 0]) == [32]

    def test_what_was_not_sent_through_us_is_an_orphan(self):
        rig = self.late()
        self.send(rig, [5] * 8)
        rig.cache(0, [*self.HOT, *range(8)])
        assert rig.match([*self.HOT, 0]) is None
        assert rig.report(0).counts.orphans == 1

    def test_two_salts_cannot_be_told_apart(self):
        rig = self.late()
        for salt in ("a", "b"):
            asked = request([*self.HOT, *range(8), 0], salt=salt)
            rig.strategy.record(rig.strategy.prepare(asked), asked, rig.pool, 0, now_s=1.0)
        rig.cache(0, [*self.HOT, *range(8)])
        assert rig.match([*self.HOT, 0], salt="a") is None
        assert rig.match([*self.HOT, 0], salt="b") is None

    def test_it_settles(self):
        rig = self.late()
        for number in range(SETTLED_EVENTS):
            self.send(rig, [*self.HOT, *[number] * 4])
        assert rig.standing(0) is Standing.EXACT
        assert not rig.feed._streams[0].residency.recent._prompts

    def test_prompts_kept_are_bounded(self):
        recent = RecentPrompts()
        for _ in range(30):
            recent.add(prompt_keys(range(10_000), [16], lora="", salt=""))
        assert len(recent._prompts) <= PROMPTS_MAX
        recent.add(prompt_keys(range(1_000_000), [16], lora="", salt=""))
        assert len(recent._prompts) == 1


class TestStrategy:
    def test_health(self):
        strategy = Accurate()
        assert strategy.health().condition is Condition.UNAVAILABLE
        rig = Rig(engines=2)
        assert rig.strategy.health().condition is Condition.UNAVAILABLE
        rig.cache(0, PROMPT)
        health = rig.strategy.health()
        assert (health.condition, health.reason) == (
            Condition.DEGRADED,
            "of 2 endpoints 1 recovering, 0 with an incomplete history",
        )
        rig.cache(1, PROMPT)
        assert rig.strategy.health().condition is Condition.HEALTHY
        rig.strategy.forget(0)
        rig.strategy.forget(1)
        assert rig.strategy.health().condition is Condition.UNAVAILABLE

    def test_a_chain_shows_why_it_was_passed_over(self):
        rig, approximate = Rig(), Approximate(Blocks())
        chain = Chain([rig.strategy, approximate])
        rig.cache(0, PROMPT)
        rig.pool.columns.capacity_tokens = np.zeros(4)
        asked = msgspec.structs.replace(request(None), prompt=b"a prompt of text " * 20)
        keys = chain.prepare(asked)
        chain.record(keys, asked, rig.pool, 1, 0.0)
        found = chain.match(keys, asked, rig.pool, rig.pool.slots)
        assert found.source == "approximate"
        assert found.passed_over == ["accurate: the request has no token ids"]

    def test_a_slot_given_to_another_at_once(self):
        rig = Rig(engines=2)
        rig.cache(0, PROMPT)
        rig.cache(1, PROMPT[:8])
        rig.strategy.forget(0)
        rig.feed.attach(0, endpoint(7), replayable=False)
        assert rig.match(PROMPT) == [0, 8]
        rig.engines[0].restart()
        rig.cache(0, PROMPT[:4])
        assert rig.match(PROMPT) == [4, 8]

    def test_decisions_count_until_events_arrive(self):
        strategy, pool = Accurate(speculative_ttl_s=2.0), Pool()
        strategy.feed.attach(0, endpoint(0), replayable=False)
        strategy.feed.receive_live(0, 0, batch(stored([1], PROMPT[:4])), 0.0)
        asked = request(PROMPT)
        keys = strategy.prepare(asked)
        strategy.record(keys, asked, pool, 2, now_s=100.0)
        found = strategy.match(keys, asked, pool, pool.slots)
        assert found.tokens.tolist() == [4, 0, 16, 0]
        strategy.tick(100.9)
        assert strategy.match(keys, asked, pool, pool.slots).tokens[2] == 16
        strategy.tick(102.1)
        assert strategy.match(keys, asked, pool, pool.slots).tokens[2] == 0

    def test_a_decision_does_not_outlive_its_endpoint(self):
        strategy, pool = Accurate(), Pool()
        strategy.feed.attach(0, endpoint(0), replayable=False)
        strategy.feed.receive_live(0, 0, batch(stored([1], [3] * 4)), 0.0)
        asked = request(PROMPT)
        keys = strategy.prepare(asked)
        strategy.record(keys, asked, pool, 2, now_s=100.0)
        strategy.forget(2)
        assert strategy.match(keys, asked, pool, pool.slots) is None

    def test_predictions_are_checked_against_reports(self):
        strategy = Accurate()
        sheet = ScoreSheet(profile="", slots=None, totals=None, endpoints=(), candidates=None)
        decision = Decision(
            request=request(PROMPT), endpoint=endpoint(0), slot=0, sheet=sheet, strategy="accurate", matched_tokens=16.0
        )
        strategy.learn(decision, Usage(cached_tokens=12))
        strategy.learn(decision, Usage())
        strategy.learn(msgspec.structs.replace(decision, strategy="approximate"), Usage(cached_tokens=1))
        assert (strategy.checked.requests, strategy.checked.predicted_tokens, strategy.checked.cached_tokens) == (1, 16.0, 12)

    def test_memory_is_flat(self):
        """Of blocks that come and go, some one by one and the rest with their endpoint, nothing stays."""
        rig, engine, left = Rig(), Engine(), []
        tracemalloc.start()
        for life in range(5):
            rig.feed.attach(0, endpoint(0), replayable=False)
            engine.restart()
            for number in range(4):
                handles = [life << 40 | number << 20 | block for block in range(500)]
                rig.live(0, engine.publish(stored(handles, range(number * 2000, number * 2000 + 2000))))
                if number < 2:
                    rig.live(0, engine.publish(*[removed(handle) for handle in reversed(handles)]))
            assert rig.strategy.size().entries == 1000
            rig.strategy.forget(0)
            for _ in range(1000 // SWEEP_BLOCKS + 1):
                rig.strategy.tick(0.0)
            rig.feed.check()
            assert rig.strategy._lanes.entries == 0
            gc.collect()
            left.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert left[4] - left[1] < 20_000

    def test_an_engine_that_never_removes_is_bounded(self, monkeypatch):
        monkeypatch.setattr(residency, "BLOCKS_MAX", 100)
        rig = Rig()
        for number in range(30):
            rig.live(0, rig.engines[0].publish(stored(list(range(number * 10, number * 10 + 10)), range(40))))
            assert rig.report(0).blocks <= 100
        assert rig.standing(0) is Standing.DEGRADED

    def test_size(self):
        rig = Rig(engines=3)
        for slot in range(3):
            rig.cache(slot, PROMPT)
        size = rig.strategy.size()
        assert size.entries == 12
        assert size.tokens == 48
        assert size.bytes > 0
