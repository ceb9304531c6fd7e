"""The accurate strategy with an engine for each slot, for its tests."""

import numpy as np

from epp.model.endpoint import Endpoint
from epp.model.request import Api, InferenceRequest, RequestHead
from epp.prefix.accurate import Accurate
from epp.prefix.kv_stream import Replay
from tests.unit.prefix.engine import Engine


class Columns:
    def __init__(self, width):
        self.live = np.ones(width, np.bool_)


class Pool:
    """As much of a snapshot as the strategy looks at."""

    def __init__(self, width=4, adapters=()):
        self.columns = Columns(width)
        self.slots = np.arange(width)
        self.adapters = dict.fromkeys(adapters, (0, 0))
        self.version = 1


def request(tokens, *, model="base", salt=""):
    return InferenceRequest(
        head=RequestHead(),
        api=Api.COMPLETIONS,
        model=model,
        target_model=model,
        token_ids=None if tokens is None else tuple(tokens),
        cache_salt=salt,
    )


class Rig:
    """A strategy, and for each slot an engine whose messages it gets."""

    def __init__(self, engines=1, *, replayable=False, **engine):
        self.strategy = Accurate(speculative=False)
        self.feed = self.strategy.feed
        self.engines = [Engine(seed=slot, **engine) for slot in range(engines)]
        self.pool = Pool(max(4, engines))
        for slot in range(engines):
            self.feed.attach(slot, endpoint(slot), replayable=replayable)
            self.do(slot, self.feed.connected(slot))

    def do(self, slot, command):
        """Carry out replays until none is asked for."""
        rounds = 0
        while command is not None:
            assert isinstance(command, Replay)
            rounds += 1
            assert rounds < 10, "replays without end"
            asked, command = command, None
            for seq, payload in self.engines[slot].replay(asked.from_seq):
                command = self.feed.receive_replay(asked, seq, payload, 1000.0) or command

    def live(self, slot, message):
        command = self.feed.receive_live(slot, *message, 1000.0)
        self.do(slot, command)
        return command

    def cache(self, slot, tokens):
        self.live(slot, self.engines[slot].cache(tokens))

    def match(self, tokens, **how):
        asked = request(tokens, **how)
        found = self.strategy.match(self.strategy.prepare(asked), asked, self.pool, self.pool.slots)
        return None if found is None else found.tokens.tolist()[: len(self.engines)]

    def standing(self, slot):
        return self.report(slot).standing

    def report(self, slot):
        return next(report for report in self.feed.report() if report.slot == slot)


def endpoint(slot, **more):
    return Endpoint(name=f"default/pod-{slot}", address=f"10.0.0.{slot + 1}", port=8000, **more)


PROMPT = list(range(17))
