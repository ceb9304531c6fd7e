from hypothesis import given, settings
from hypothesis import strategies as st

from epp.testing.block_cache import BlockCache, Cleared, Removed, Stored, block_keys, chain
from epp.testing.generation import Generation

ROOT = b"root"


def run(cache: BlockCache, ids: list[int]) -> Generation:
    generation = Generation(token_ids=list(ids), max_tokens=1)
    generation.start(cache, generation.find(cache, ROOT))
    generation.grow(cache, len(ids))
    return generation


def test_keys_are_chained_so_that_equal_blocks_at_different_places_differ():
    keys = block_keys([1, 2, 1, 2], 2, root=ROOT)
    assert keys == [chain(ROOT, [1, 2]), chain(keys[0], [1, 2])]
    assert keys[0] != keys[1]


def test_a_partial_block_has_no_key():
    assert len(block_keys([1, 2, 3], 2, root=ROOT)) == 1


def test_salt_and_adapter_change_every_key():
    plain = block_keys([1, 2, 3, 4], 2, root=ROOT)
    salted = block_keys([1, 2, 3, 4], 2, root=ROOT, salt="a")
    adapted = block_keys([1, 2, 3, 4], 2, root=ROOT, lora="a")
    assert not set(plain) & set(salted)
    assert not set(plain) & set(adapted)
    assert not set(salted) & set(adapted)


def test_a_prompt_is_found_again_but_never_its_last_token():
    cache = BlockCache(blocks=8, block_tokens=2)
    run(cache, [1, 2, 3, 4]).release(cache)
    again = Generation(token_ids=[1, 2, 3, 4], max_tokens=1)
    assert len(again.find(cache, ROOT)) == 1
    longer = Generation(token_ids=[1, 2, 3, 4, 5], max_tokens=1)
    assert len(longer.find(cache, ROOT)) == 2


def test_the_tail_of_a_finished_request_is_evicted_before_its_head():
    cache = BlockCache(blocks=4, block_tokens=1)
    run(cache, [1, 2, 3]).release(cache)
    cache.events()
    cache.take(2)
    head, middle, tail = block_keys([1, 2, 3], 1, root=ROOT)
    assert cache.events() == [Removed(tail)]
    assert cache.held_keys == {head, middle}


def test_pinned_blocks_are_not_evicted():
    cache = BlockCache(blocks=3, block_tokens=1)
    running = run(cache, [1, 2])
    assert cache.free_blocks == 1
    cache.take(1)
    assert cache.held_keys == set(running.keys)


def test_the_same_block_computed_twice_is_stored_and_removed_twice():
    cache = BlockCache(blocks=4, block_tokens=2)
    first = Generation(token_ids=[1, 2], max_tokens=1)
    second = Generation(token_ids=[1, 2], max_tokens=1)
    for generation in (first, second):
        generation.start(cache, generation.find(cache, ROOT))
        generation.grow(cache, 2)
    key = first.keys[0]
    assert [event.keys for event in cache.events() if isinstance(event, Stored)] == [(key,), (key,)]
    first.release(cache)
    second.release(cache)
    cache.take(4)
    assert cache.events() == [Removed(key), Removed(key)]
    assert not cache.held_keys


def test_clear_waits_for_running_requests():
    cache = BlockCache(blocks=4, block_tokens=2)
    running = run(cache, [1, 2])
    assert not cache.clear()
    running.release(cache)
    cache.events()
    assert cache.clear()
    assert cache.events() == [Cleared()]
    assert not cache.held_keys


def test_stored_carries_parent_tokens_and_salt_of_the_first_block_only():
    cache = BlockCache(blocks=8, block_tokens=2)
    generation = Generation(token_ids=[1, 2, 3, 4, 5, 6], max_tokens=1, salt="s")
    generation.start(cache, generation.find(cache, ROOT))
    generation.grow(cache, 2)
    generation.grow(cache, 6)
    first, second = cache.events()
    assert first == Stored(keys=(generation.keys[0],), parent=None, token_ids=[1, 2], salt="s")
    assert second == Stored(keys=tuple(generation.keys[1:3]), parent=generation.keys[0], token_ids=[3, 4, 5, 6])


@settings(max_examples=60)
@given(st.lists(st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=8), st.booleans()), max_size=30))
def test_events_alone_tell_what_is_held(requests):
    """A listener that counts Stored and Removed knows exactly what can be found."""
    cache = BlockCache(blocks=8, block_tokens=2)
    running: list[Generation] = []
    counts: dict[bytes, int] = {}
    for ids, stays in requests:
        if len(running) > 1 or cache.free_blocks < 4:
            while running:
                running.pop().release(cache)
        running.append(run(cache, ids))
        if not stays:
            running.pop().release(cache)
        for event in cache.events():
            if isinstance(event, Stored):
                for key in event.keys:
                    counts[key] = counts.get(key, 0) + 1
            elif isinstance(event, Removed):
                counts[event.key] -= 1
        assert {key for key, number in counts.items() if number} == cache.held_keys
        assert cache.free_blocks == cache.blocks - len({block for generation in running for block in generation.blocks})
