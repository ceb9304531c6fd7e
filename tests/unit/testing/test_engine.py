import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.testing.block_cache import BlockCache
from epp.testing.engine import Engine, Pace, StepEngine
from epp.testing.generation import Generation
from epp.testing.serial_engine import SerialEngine

H100 = Pace(a0_ms=0.0)


def step_engine(pace: Pace = H100, blocks: int = 4096) -> StepEngine:
    return StepEngine(BlockCache(blocks=blocks, block_tokens=16), pace, root=b"")


def drain(engine: Engine) -> dict[Generation, list[float]]:
    """Run an engine on virtual time; return when each generation got its tokens."""
    times: dict[Generation, list[float]] = {}
    now_s = 0.0
    for generation in (*engine.waiting, *engine.running):
        generation.on_tokens = lambda told: times.setdefault(told, []).append(now_s)
    steps = 0
    while (due_s := engine.next_s) is not None:
        now_s = due_s
        engine.advance(now_s)
        steps += 1
        assert steps < 100_000
    return times


def submit(engine: Engine, ids: list[int], max_tokens: int = 1) -> Generation:
    generation = Generation(token_ids=list(ids), max_tokens=max_tokens)
    engine.submit(generation, 0.0)
    return generation


@pytest.mark.parametrize(
    ("tokens", "profile_ms"),
    [(1, 8.2), (16, 9.4), (64, 9.6), (256, 11.7), (512, 17.4), (1024, 29.1), (2048, 62.3)],
)
def test_a_step_takes_what_the_layer_profiles_of_an_h100_say(tokens, profile_ms):
    """8B on one H100, LLMServingSim; with the profile's own weight-read time, 8.8 ms. The fit's worst error is 8 %."""
    pace = Pace(a0_ms=0.0, w_ms=8.8)
    assert pace.step_s(prefill=tokens, decodes=0, context=0, past=0) * 1e3 == pytest.approx(profile_ms, rel=0.08)


def test_a_lone_prompt_takes_one_step_and_its_tokens_one_each():
    engine = step_engine()
    generation = submit(engine, list(range(1000)), max_tokens=3)
    times = drain(engine)[generation]
    assert times[0] == pytest.approx(H100.step_s(prefill=1000, decodes=0, context=0, past=0))
    assert times[1] - times[0] == pytest.approx(H100.step_s(prefill=0, decodes=1, context=1000, past=0))
    assert len(times) == 3
    assert generation.done


def test_prefill_of_one_stalls_the_decode_of_another():
    engine = step_engine()
    decoding = submit(engine, [1] * 100, max_tokens=8)
    engine.advance(engine.next_s)
    engine.advance(engine.next_s)
    prompt = submit(engine, [2] * 4000)
    times = drain(engine)
    gaps = [later - earlier for earlier, later in zip(times[decoding], times[decoding][1:], strict=False)]
    chunk_s = H100.step_s(prefill=2047, decodes=1, context=102, past=0)
    assert max(gaps) == pytest.approx(chunk_s, rel=0.05)
    assert min(gaps) < chunk_s / 5
    assert times[prompt]


def test_a_prompt_over_the_budget_takes_several_steps():
    engine = step_engine(Pace(max_batched_tokens=512))
    submit(engine, [1] * 1200)
    steps = 0
    while engine.next_s is not None:
        engine.advance(engine.next_s)
        steps += 1
    assert steps == 3


def test_what_is_cached_is_not_computed():
    engine = step_engine()
    first = submit(engine, [1] * 1600)
    drain(engine)
    again = Generation(token_ids=[1] * 1600, max_tokens=1)
    engine.submit(again, 10.0)
    assert engine.next_s == pytest.approx(10.0 + H100.step_s(prefill=16, decodes=0, context=0, past=16 * 1584))
    engine.advance(engine.next_s)
    assert (first.cached_tokens, again.cached_tokens) == (0, 1584)
    assert engine.counters.hit_tokens == 1584


def test_the_answer_is_found_when_it_comes_back_as_the_next_turn():
    engine = step_engine()
    first = submit(engine, [1] * 32, max_tokens=40)
    drain(engine)
    turn = submit(engine, [*first.token_ids, 5, 6])
    drain(engine)
    assert turn.cached_tokens == (len(first.token_ids) - 1) // 16 * 16


def test_more_than_fits_waits_or_is_preempted_and_everybody_finishes():
    engine = step_engine(blocks=8)
    several = [submit(engine, [number] * 40, max_tokens=60) for number in range(4)]
    times = drain(engine)
    assert all(len(times[generation]) == 60 for generation in several)
    assert engine.counters.preempted > 0
    assert engine.cache.free_blocks == 8


def test_prompt_scale_makes_a_short_prompt_cost_a_long_one():
    long = H100.step_s(prefill=1600, decodes=0, context=0, past=1600 * 800)
    assert Pace(a0_ms=0.0, prompt_scale=16).step_s(prefill=100, decodes=0, context=0, past=100 * 50) == pytest.approx(long)
    assert Pace(prompt_scale=16).budget == 128


def test_serial_prefill_is_computed_by_hand():
    engine = SerialEngine(BlockCache(blocks=100, block_tokens=16), rate=1000.0, gap_s=0.01)
    first = submit(engine, [1] * 500, max_tokens=3)
    second = submit(engine, [2] * 200, max_tokens=1)
    times = drain(engine)
    assert times[first] == pytest.approx([0.5, 0.51, 0.52])
    assert times[second] == pytest.approx([0.7])


def test_serial_waits_for_blocks_and_goes_on_when_a_request_is_dropped():
    engine = SerialEngine(BlockCache(blocks=4, block_tokens=16), rate=1000.0, gap_s=0.01)
    first = submit(engine, [1] * 32, max_tokens=16)
    second = submit(engine, [2] * 32, max_tokens=16)
    engine.advance(engine.next_s)
    assert engine.waiting == [second]
    engine.abort(first, 0.04)
    assert engine.waiting == []
    drain(engine)
    assert second.done
    assert engine.cache.free_blocks == 4


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["step", "serial"]),
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 20), st.integers(0, 3), st.booleans()), min_size=1, max_size=12),
)
def test_whatever_is_submitted_or_aborted_no_block_is_lost(kind, requests):
    cache = BlockCache(blocks=6, block_tokens=16)
    engine: Engine = (
        StepEngine(cache, Pace(max_batched_tokens=32, max_num_seqs=4))
        if kind == "step"
        else SerialEngine(cache, rate=1000.0, gap_s=0.01)
    )
    now_s, kept = 0.0, []
    for length, max_tokens, content, aborted in requests:
        generation = Generation(token_ids=[content] * length, max_tokens=max_tokens)
        engine.submit(generation, now_s)
        now_s = engine.next_s or now_s
        engine.advance(now_s)
        if aborted and not generation.done:
            engine.abort(generation, now_s)
        elif not aborted:
            kept.append(generation)
    drain(engine)
    assert cache.free_blocks == 6
    assert all(generation.done and generation.finished for generation in kept)
    assert not engine.waiting
    assert not engine.running
