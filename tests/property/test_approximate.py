"""The router's own memory against what was really sent: it never claims a token that was not, and misses little of what was."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from epp.model.request import InferenceRequest
from epp.prefix.approximate import Approximate
from epp.prefix.blocks import Blocks
from epp.testing.builders import build_request, build_snapshot

CAPACITY_TOKENS = 900
ENDPOINTS = 3
POOL = build_snapshot(ENDPOINTS, capacity_tokens=[CAPACITY_TOKENS] * ENDPOINTS)
pieces = st.lists(st.sampled_from((b"a" * 64, b"b" * 100, b"c" * 700)), min_size=1, max_size=4).map(b"".join)
slots = st.integers(0, ENDPOINTS - 1)


def common(left: bytes, right: bytes) -> int:
    return next((at for at, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


class Truthful(RuleBasedStateMachine):
    """Whatever is sent and forgotten, in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.strategy = Approximate(Blocks())
        self.sent: dict[int, list[bytes]] = {slot: [] for slot in range(ENDPOINTS)}

    def tokens(self, request: InferenceRequest) -> list[float]:
        found = self.strategy.match(self.strategy.prepare(request), request, POOL, POOL.slots)
        return [0.0] * ENDPOINTS if found is None else found.tokens.tolist()

    @rule(prompt=pieces, slot=slots)
    def send(self, prompt: bytes, slot: int) -> None:
        request = build_request(prompt)
        self.strategy.record(self.strategy.prepare(request), request, POOL, slot, 0.0)
        self.sent[slot].append(prompt)
        # What was sent last is there up to its last boundary.
        assert self.tokens(request)[slot] * 4 > len(prompt) - max(64, len(prompt) / 16) - 4

    @rule(slot=slots)
    def forget(self, slot: int) -> None:
        self.strategy.forget(slot)
        self.sent[slot].clear()

    @rule(prompt=pieces)
    def claim(self, prompt: bytes) -> None:
        for slot, claimed in enumerate(self.tokens(build_request(prompt))):
            really = max((common(prompt, other) for other in self.sent[slot]), default=0)
            assert claimed * 4 <= really

    @invariant()
    def bounded(self) -> None:
        assert self.strategy.size().tokens <= CAPACITY_TOKENS * ENDPOINTS


TestTruthful = Truthful.TestCase
TestTruthful.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(st.lists(st.tuples(pieces, slots), max_size=20), st.randoms(use_true_random=False))
def test_with_room_for_all_the_order_of_requests_does_not_matter(requests, random):
    pool = build_snapshot(ENDPOINTS, capacity_tokens=[10**6] * ENDPOINTS)
    answers = []
    for _ in range(2):
        strategy = Approximate(Blocks())
        for prompt, slot in requests:
            request = build_request(prompt)
            strategy.record(strategy.prepare(request), request, pool, slot, 0.0)
        probes = [build_request(prompt) for prompt, _ in sorted(requests)]
        found = [strategy.match(strategy.prepare(probe), probe, pool, pool.slots) for probe in probes]
        answers.append([None if one is None else one.tokens.tolist() for one in found])
        random.shuffle(requests)
    assert answers[0] == answers[1]
