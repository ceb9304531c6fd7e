"""What the accurate strategy answers, fed with what an engine would send: matches, references, groups, its health."""

import gc
import json
import tracemalloc
from pathlib import Path

import msgspec
import numpy as np
import pytest

from epp.model.decision import Decision, ScoreSheet, Usage
from epp.prefix import residency
from epp.prefix.accurate import Accurate
from epp.prefix.approximate import Approximate
from epp.prefix.blocks import Blocks
from epp.prefix.chain import Chain
from epp.prefix.kv_events import decode_live, decode_replay
from epp.prefix.kv_stream import Replay, Standing
from epp.prefix.lanes import SWEEP_BLOCKS
from epp.prefix.strategy import Condition
from tests.unit.prefix.accurate_rig import PROMPT, Pool, Rig, endpoint, request
from tests.unit.prefix.engine import Engine, batch, removed, stored

RECORDED = json.loads((Path(__file__).parents[2] / "data" / "vllm_kv_events.json").read_text())


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

    def test_a_cleared_cache_keeps_its_block_size(self):
        rig = Rig()
        rig.cache(0, PROMPT)
        rig.live(0, rig.engines[0].clear())
        assert rig.feed.sizes == (4,), "prompts sent before the first block must be known in its size"
        rig.cache(0, PROMPT)
        assert rig.match(PROMPT) == [16]
        rig.live(0, rig.engines[0].evict(PROMPT))
        assert rig.match(PROMPT) == [12]

    def test_the_lowest_dense_group_counts_again_when_all_was_forgotten(self):
        rig = Rig()
        publish = rig.engines[0].publish
        low, high = stored([1], PROMPT[:4], group_idx=0), stored([1, 2], PROMPT[:4], group_idx=2, block=2)
        rig.live(0, publish(low))
        rig.live(0, rig.engines[0].clear())
        rig.live(0, publish(high))
        assert rig.match(PROMPT) == [4]
        rig.live(0, publish(low, high))
        assert (rig.match(PROMPT), rig.report(0).blocks, rig.feed.sizes) == ([4], 1, (4,))
        rig.live(0, publish(removed(1, 2, group_idx=2)))
        assert rig.match(PROMPT) == [4]
        rig.live(0, publish(removed(1)))
        assert rig.match(PROMPT) is None

    def test_an_empty_or_orphaned_group_does_not_give_way_to_another(self):
        """Else the block size would change with every event, and prompts sent meanwhile would not be known in the right one."""
        for first in ([stored([1], PROMPT[:4]), removed(1)], [stored([2], PROMPT[4:8], parent=1)]):
            rig = Rig()
            rig.live(0, rig.engines[0].publish(*first, stored([1, 2], PROMPT[:4], group_idx=2, block=2)))
            assert (rig.match(PROMPT), rig.report(0).blocks, rig.feed.sizes) == (None, 0, (4,))

    def test_a_block_in_another_tier_settles_no_size(self):
        rig = Rig()
        rig.cache(0, PROMPT)
        rig.engines[0].clear()
        rig.engines[0].block = 8
        rig.live(0, rig.engines[0].publish(stored([1], [], block=0, medium="CPU")))
        assert (rig.feed.sizes, rig.report(0).blocks) == ((4,), 0)
        rig.cache(0, PROMPT)
        assert (rig.match(PROMPT), rig.feed.sizes) == ([16], (8,))


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
