"""What becomes of an engine's events on their way: gaps, replays, restarts, nonsense."""

from dataclasses import replace

from epp.prefix.kv_stream import SETTLED_EVENTS, Replay, Standing
from tests.unit.prefix.accurate_rig import PROMPT, Rig, endpoint
from tests.unit.prefix.engine import CLEARED, batch, removed, stored


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

    def test_restart_found_by_a_replay_counts_once(self):
        rig = Rig(replayable=True)
        for number in range(9):
            rig.cache(0, [number] * 8)
        for published in (5, 20, 0):  # Less than the old engine did, more, nothing yet.
            rig.feed.disconnected(0)
            rig.engines[0].restart()
            for number in range(published):
                rig.engines[0].cache([10 + number] * 8)
            rig.do(0, rig.feed.connected(0))
            before = rig.report(0).counts.restarts, rig.report(0).counts.replays
            assert rig.live(0, rig.engines[0].cache(PROMPT)) is None
            assert (rig.report(0).counts.restarts, rig.report(0).counts.replays) == before
            assert rig.standing(0) is Standing.EXACT
            assert rig.match(PROMPT) == [16]
            assert rig.match([10] * 9) == ([8] if published else None)
        assert rig.report(0).counts.restarts == rig.report(0).epoch == 3

    def test_live_messages_around_the_replay_that_finds_a_restart(self):
        rig = Rig(replayable=True)
        engine, feed = rig.engines[0], rig.feed
        for number in range(5):
            rig.cache(0, [number] * 8)
        engine.restart()
        for number in range(7):
            engine.cache([10 + number] * 8)
        probe = feed.receive_live(0, *engine.cache([20] * 8), 0.0)
        assert feed.receive_live(0, *engine.cache([21] * 8), 0.0) is None
        whole = feed.receive_replay(probe, *engine.replay(probe.from_seq)[0], 0.0)
        assert whole.from_seq == 0
        assert feed.receive_live(0, *engine.cache([22] * 8), 0.0) is None
        replies = engine.replay(0)
        assert feed.receive_replay(whole, *replies[0], 0.0) is None
        assert feed.receive_live(0, *engine.cache([23] * 8), 0.0) is None
        for reply in replies[1:]:
            assert feed.receive_replay(whole, *reply, 0.0) is None
        assert rig.standing(0) is Standing.EXACT
        assert [rig.match([number] * 9) for number in (10, 20, 21, 22, 23)] == [[8]] * 5
        assert rig.match([4] * 9) is None
        assert rig.report(0).counts.restarts == 1

    def test_a_second_restart_is_still_seen_by_a_smaller_number(self):
        rig = Rig(replayable=True)
        rig.cache(0, PROMPT)
        rig.cache(0, [8] * 8)
        for life in range(2):
            rig.engines[0].restart()
            rig.do(0, rig.feed.connected(0))
            rig.cache(0, [10 + life] * 8)
            rig.cache(0, [20 + life] * 8)
        rig.engines[0].restart()
        rig.cache(0, PROMPT)
        assert rig.report(0).counts.restarts == 3
        assert rig.match(PROMPT) == [16]
        assert rig.match([21] * 9) is None

    def test_restart_with_another_block_size(self):
        """Whichever way it is seen: by a smaller number, as a gap, on reconnect."""
        for replayable, reconnect, missed in (
            (True, False, 0),
            (False, False, 0),
            (True, False, 5),
            (False, False, 5),
            (True, True, 5),
        ):
            rig = Rig(replayable=replayable)
            rig.cache(0, [1] * 8)
            rig.cache(0, PROMPT)
            engine = rig.engines[0]
            engine.restart()
            engine.block = 8
            for number in range(missed):
                engine.cache([number] * 8)
            if reconnect:
                rig.do(0, rig.feed.connected(0))
            rig.cache(0, PROMPT)
            assert rig.match(PROMPT) == [16]
            assert rig.match([1] * 9) == ([8] if missed and replayable else None)
            assert (rig.feed.sizes, rig.report(0).counts.skipped) == ((8,), 0)
            rig.feed.check()

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
