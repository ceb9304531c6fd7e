import json
import math
from random import Random

import pytest

from epp.testing.tokenizer import encode
from epp.testing.workload import (
    SYSTEM,
    chats,
    example,
    groups,
    merged,
    mooncake,
    one_system_prompt,
    paced,
    size,
    unrelated,
    words,
)


def times(conversations):
    return sorted(turn.at_s for one in conversations for turn in one.turns)


def test_the_same_seed_makes_the_same_traffic():
    assert example(3, 100) == example(3, 100)
    assert example(3, 100) != example(4, 100)


def test_the_system_prompt_of_the_example_is_the_published_one():
    assert SYSTEM == "You are a helpful AI writer. Please write in a professional manner."
    shared = [one for one in example(1, 200) if one.system]
    assert shared
    assert all(one.system == SYSTEM for one in shared)
    assert {one.kind for one in example(1, 200)} == {"groups", "chat", "unrelated"}


def test_words_are_tokens():
    assert len(encode(words(Random(1), 200))) == 200


@pytest.mark.parametrize(
    "made",
    [
        one_system_prompt(Random(1), 400, system=20, question=10, answer=4),
        groups(Random(1), 400, groups=10, prefix=20, question=10, answer=4),
        chats(Random(1), 400, turns=4, first=10, question=5, answer=4, pause=20),
        unrelated(Random(1), 400, question=10, answer=4),
        example(1, 400),
    ],
)
def test_arrivals_are_one_a_second_and_pace_divides_them(made):
    assert size(made) == pytest.approx(400, rel=0.02)
    assert times(made)[-1] == pytest.approx(400, rel=0.25)
    fast = paced(made, 20)
    assert times(fast) == pytest.approx([at_s / 20 for at_s in times(made)])


def test_merged_parts_share_the_same_time():
    long, short = unrelated(Random(1), 300, question=5, answer=1), unrelated(Random(2), 100, question=5, answer=1)
    both = merged([long, short])
    assert times(both[:300])[-1] == pytest.approx(400, rel=0.2)
    assert times(both[300:])[-1] == pytest.approx(400, rel=0.3)


def test_a_group_shares_its_document_and_turns_of_a_chat_are_in_order():
    firsts = {one.turns[0].text.split("\n")[0] for one in groups(Random(1), 100, groups=5, prefix=30, question=10, answer=4)}
    assert len(firsts) == 5
    for one in chats(Random(1), 40, turns=4, first=10, question=5, answer=4, pause=3):
        assert [turn.at_s for turn in one.turns] == sorted(turn.at_s for turn in one.turns)


def test_a_trace_keeps_its_shared_prefixes(tmp_path):
    rows = [
        {"timestamp": 0, "input_length": 1024, "output_length": 500, "hash_ids": [0, 1]},
        {"timestamp": 0, "input_length": 1500, "output_length": 8, "hash_ids": [0, 1, 2]},
    ]
    file = tmp_path / "trace.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = mooncake(file, Random(1), 10, scale=16, answer_max=20)
    assert second.turns[0].text.startswith(first.turns[0].text)
    assert len(encode(second.turns[0].text)) == 1500 // 16
    assert (first.turns[0].max_tokens, second.turns[0].max_tokens) == (20, 1)
    assert not math.isnan(second.turns[0].at_s)
