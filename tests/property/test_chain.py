"""The chain, for any strategies in any health: the first with an answer gives it, everybody before it is accounted for."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from epp.prefix.chain import Chain
from epp.prefix.strategy import Condition, Health
from epp.testing.builders import build_request, build_snapshot
from tests.unit.prefix.test_chain import Scripted

POOL = build_snapshot(3)
REQUEST = build_request(b"x")
healths = st.sampled_from([Health(condition, condition.value) for condition in Condition])
answers = st.none() | st.lists(st.sampled_from((0.0, 3.0)), min_size=3, max_size=3)
candidates = st.sets(st.integers(0, 2), min_size=1).map(sorted)


@given(st.lists(st.tuples(healths, answers), min_size=1, max_size=5), candidates, st.integers(1, 3))
def test_the_answer_is_that_of_the_first_who_has_one(members, slots, times):
    chain = Chain([Scripted(str(index), tokens, health) for index, (health, tokens) in enumerate(members)])
    able = [
        index
        for index, (health, tokens) in enumerate(members)
        if health.condition is not Condition.UNAVAILABLE and tokens is not None and any(tokens[slot] for slot in slots)
    ]
    for _ in range(times):
        found = chain.match(chain.prepare(REQUEST), REQUEST, POOL, np.array(slots))
        asked_before = able[0] if able else len(members)
        assert [line.split(":")[0] for line in found.passed_over] == [str(index) for index in range(asked_before)]
        if able:
            assert found.tokens.tolist() == members[able[0]][1]
        else:
            assert (found.known, found.source) == (False, "")
    assert sum(chain.verdicts.values()) == times * (able[0] + 1 if able else len(members))
