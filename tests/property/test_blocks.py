"""Where prompts are cut, for any prompt and any parameters."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from epp.prefix.blocks import Blocks
from epp.testing.builders import build_request

BLOCKS = Blocks()
cuts = st.builds(
    Blocks,
    block_bytes_min=st.sampled_from((4, 64, 256)),
    block_growth=st.sampled_from((0.0, 1 / 16, 0.25, 1.0)),
    prompt_bytes_max=st.integers(64, 20_000),
)
prompts = st.binary(max_size=600).flatmap(lambda start: st.integers(1, 20).map(lambda times: start * times))


def common_bytes(left: bytes, right: bytes) -> int:
    return next((at for at, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


@given(prompts, st.binary(max_size=300), st.binary(max_size=300), cuts)
def test_prompts_share_exactly_the_keys_of_the_blocks_they_share(start, left, right, blocks):
    a, b = start + left, start + right
    shared = min(common_bytes(a, b), blocks.prompt_bytes_max)
    keys_a, keys_b = (blocks.keys(build_request(prompt)).blocks for prompt in (a, b))
    equal = sum(one == other for one, other in zip(keys_a, keys_b, strict=False))
    assert keys_a[:equal] == keys_b[:equal]
    assert set(keys_a[equal:]).isdisjoint(keys_b[equal:])
    assert blocks.ends[equal] <= shared
    assert equal + 1 == len(blocks.ends) or blocks.ends[equal + 1] > shared


@given(st.integers(0, 2_000_000))
def test_a_match_is_at_most_a_sixteenth_or_one_small_block_too_short(shared):
    """What is lost of a common prefix by looking at boundaries only."""
    last = max(end for end in BLOCKS.ends if end <= shared)
    if shared <= BLOCKS.ends[-1]:
        assert shared - last < max(64, last / 16)


@given(cuts)
def test_boundaries_rise_and_hold_whole_tokens(blocks):
    sizes = [end - start for start, end in zip(blocks.ends, blocks.ends[1:], strict=False)]
    assert all(size > 0 and size % 4 == 0 for size in sizes)
    assert sizes == sorted(sizes)
    assert [end // 4 for end in blocks.ends] == list(blocks.tokens)
    assert blocks.ends[-1] <= blocks.prompt_bytes_max


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=400), st.integers(0, 399))
def test_prompts_of_token_ids_share_the_blocks_of_equal_ids(ids, at):
    at %= len(ids)
    other = [*ids[:at], ids[at] ^ 1, *ids[at + 1 :]]
    keys, changed = (BLOCKS.keys(replace(build_request(b""), token_ids=tuple(one))) for one in (ids, other))
    whole_blocks = sum(end <= at * 4 for end in BLOCKS.ends) - 1
    assert keys.blocks[:whole_blocks] == changed.blocks[:whole_blocks]
    assert set(keys.blocks[whole_blocks:]).isdisjoint(changed.blocks[whole_blocks:])
    assert keys.whole != changed.whole
    assert keys.total == len(ids)
    assert keys.scale == 1.0
