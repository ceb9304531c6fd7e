"""Joined late, without a replay: what stays hot is never announced again, and is taken from what requests report."""

from epp.prefix.adoption import PROMPTS_MAX, RecentPrompts
from epp.prefix.kv_stream import SETTLED_EVENTS, Standing
from epp.prefix.token_keys import prompt_keys
from tests.unit.prefix.accurate_rig import Rig, request


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
