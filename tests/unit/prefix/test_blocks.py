"""Cutting prompts: what a key depends on, and what it costs."""

import pytest
from msgspec.structs import replace

from epp.prefix.blocks import Blocks, id_bytes, seed, shared_blocks
from epp.testing.builders import build_request

BLOCKS = Blocks()


def test_blocks_grow_with_depth():
    assert BLOCKS.ends[:4] == (0, 64, 128, 192)
    assert BLOCKS.ends[16:19] == (1024, 1088, 1156)
    assert len(BLOCKS.keys(build_request(b"x" * 2_000)).blocks) == 27
    assert len(BLOCKS.keys(build_request(b"x" * 200_000)).blocks) == 103


def test_without_growth_all_blocks_are_equal():
    uniform = Blocks(block_growth=0)
    assert uniform.ends[:4] == (0, 64, 128, 192)
    assert len(uniform.keys(build_request(b"x" * 200_000)).blocks) == 3125


def test_an_incomplete_last_block_has_no_key_but_counts_for_the_whole_prompt():
    short, longer = BLOCKS.keys(build_request(b"x" * 100)), BLOCKS.keys(build_request(b"x" * 101))
    assert len(short.blocks) == 1
    assert short.blocks == longer.blocks
    assert short.whole != longer.whole
    assert BLOCKS.keys(build_request(b"x" * 63)).blocks == []


def test_no_prompt_has_no_keys():
    keys = BLOCKS.keys(build_request(b""))
    assert (keys.blocks, keys.whole, keys.total) == ([], 0, 1)


def test_what_lies_beyond_the_limit_is_not_looked_at():
    blocks = Blocks(prompt_bytes_max=1000)
    one, other = (blocks.keys(build_request(b"x" * 1000 + tail)) for tail in (b"one", b"other"))
    assert one.blocks == other.blocks
    assert one.whole == other.whole


def test_model_salt_and_kind_of_prompt_keep_prompts_apart():
    request = build_request(b"x" * 300)
    ids = replace(request, prompt=b"", token_ids=(2021161080,) * 75)  # the same bytes
    others = [
        request,
        replace(request, target_model="an-adapter"),
        replace(request, cache_salt="tenant"),
        replace(request, target_model="tiny\0tenant"),
        ids,
    ]
    assert id_bytes(ids.token_ids) == request.prompt
    assert len({BLOCKS.keys(one).blocks[0] for one in others}) == len(others)


def test_model_and_salt_do_not_run_into_each_other():
    request = build_request(b"x")
    assert seed(replace(request, target_model="ab", cache_salt="c")) != seed(replace(request, target_model="a", cache_salt="bc"))
    assert seed(replace(request, target_model="a", cache_salt="\0b")) != seed(replace(request, target_model="a\0", cache_salt="b"))
    assert isinstance(seed(replace(request, target_model="\ud800")), int)


def test_a_model_that_is_not_rewritten_is_the_one_asked_for():
    request = build_request(b"x" * 64)
    assert BLOCKS.keys(replace(request, target_model="")).blocks == BLOCKS.keys(request).blocks


@pytest.mark.parametrize("ids", [(2**32,), (-1,), ("a",), (1.5,), (2**70,)])
def test_what_is_no_token_id_makes_no_keys(ids):
    keys = BLOCKS.keys(replace(build_request(b""), token_ids=ids * 100))
    assert (keys.blocks, keys.whole) == ([], 0)


def test_text_goes_before_ids_so_that_a_late_tokenizer_changes_nothing():
    request = build_request(b"x" * 640)
    counted = BLOCKS.keys(replace(request, token_ids=(7,) * 200))
    assert counted.blocks == BLOCKS.keys(request).blocks
    assert counted.total == 200
    assert counted.scale == 200 / 160


def test_media_tokens_are_spread_over_the_prompt():
    keys = BLOCKS.keys(replace(build_request(b"x" * 400), media_tokens=300))
    assert keys.total == 400
    assert BLOCKS.tokens[6] * keys.scale == 384  # 384 of 400 bytes


def test_strategies_that_cut_alike_hash_a_request_once():
    blocks = shared_blocks(64, 1 / 16, 1 << 20)
    assert shared_blocks(64, 1 / 16, 1 << 20) is blocks
    assert shared_blocks(64, 0.0, 1 << 20) is not blocks
    request = build_request(b"x" * 200)
    first = blocks.keys(request)
    assert blocks.keys(request) is first
    assert blocks.keys(replace(request, prompt=b"y" * 200)) != first
