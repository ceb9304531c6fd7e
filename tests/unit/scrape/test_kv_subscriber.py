"""The index behind real ZMQ sockets, with a publisher that loses, reorders, clears and restarts."""

import asyncio
import threading
import time
from contextlib import asynccontextmanager

import numpy as np
import pytest
import uvloop
import zmq

from epp.errors import ConfigError
from epp.model.endpoint import Endpoint
from epp.prefix.accurate import Accurate
from epp.prefix.kv_sources import EVENTS_PORT_LABEL, REPLAY_PORT_LABEL, Ports, source_of
from epp.prefix.kv_stream import Standing
from epp.prefix.strategy import Condition
from epp.prefix.token_keys import prompt_keys
from epp.scrape import kv_replay, kv_subscriber
from epp.scrape.kv_subscriber import KvSubscriber
from tests.unit.prefix.engine import Engine

DEADLINE_S = 10.0


class Publisher:
    """An engine on a PUB socket, with a replay ROUTER served by a thread, as vLLM does it."""

    def __init__(self, *, host="127.0.0.1", topic_in_replay=True, answers=True, block=4):
        self.engine = Engine(block=block)
        self.host = host
        self.topic_in_replay = topic_in_replay
        self.answers = answers
        self.port = self.replay_port = 0
        self.start()

    def start(self):
        self.context = zmq.Context()
        self.pub = self._bind(zmq.PUB, self.port)
        self.port = self._port(self.pub)
        self.router = self._bind(zmq.ROUTER, self.replay_port)
        self.replay_port = self._port(self.router)
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._serve, args=(self.router,))
        self.thread.start()

    def _bind(self, kind, port):
        socket = self.context.socket(kind)
        socket.setsockopt(zmq.IPV6, 1)
        socket.setsockopt(zmq.LINGER, 0)
        socket.bind(f"tcp://{self.host}:{port or '*'}")
        return socket

    @staticmethod
    def _port(socket):
        return int(socket.getsockopt(zmq.LAST_ENDPOINT).rpartition(b":")[2].rstrip(b"\0"))

    def stop(self):
        self.stopping.set()
        self.thread.join()
        self.pub.close()
        self.context.term()

    def restart(self, *silently):
        """Be another process, which has published some prompts before anybody is connected."""
        self.stop()
        self.engine.restart()
        for prompt in silently:
            self.engine.cache(prompt)
        self.start()

    def _serve(self, router):
        while not self.stopping.is_set():
            if not router.poll(10):
                continue
            peer, _, first = router.recv_multipart()
            if not self.answers:
                continue
            topic = [b"kv@pod"] if self.topic_in_replay else []
            for seq, payload in self.engine.replay(int.from_bytes(first, "big")):
                head = topic if payload else topic and [b""]
                router.send_multipart([peer, b"", *head, seq.to_bytes(8, "big"), payload])
        router.close()

    def send(self, *messages):
        for message in messages:
            if message is not None:
                self.pub.send_multipart([b"kv@somewhere-else@model", message[0].to_bytes(8, "big"), message[1]])

    def cache(self, *prompts):
        for prompt in prompts:
            self.send(self.engine.cache(prompt))

    def endpoint(self, name="default/pod", *, replay=True, **more):
        labels = {EVENTS_PORT_LABEL: str(self.port), REPLAY_PORT_LABEL: str(self.replay_port if replay else 0)}
        return Endpoint(name=name, address=self.host.strip("[]"), port=8000, labels=labels, **more)


class Pool:
    def __init__(self, *endpoints):
        self.endpoints = endpoints


class Rig:
    def __init__(self):
        self.strategy = Accurate(speculative=False)
        self.subscriber = KvSubscriber(self.strategy)

    def held(self, slot, tokens):
        column = np.zeros(8)
        for size, keys in prompt_keys([*tokens, 0], self.strategy.feed.sizes, lora="", salt="").by_size.items():
            self.strategy._lanes.match(keys, size, column)
        return int(column[slot])

    def report(self, slot=0):
        return next(report for report in self.strategy.feed.report() if report.slot == slot)

    def standing(self, slot=0):
        return self.report(slot).standing


@asynccontextmanager
async def rig():
    made = Rig()
    running = asyncio.create_task(made.subscriber.run())
    await asyncio.sleep(0)
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        made.strategy.feed.check()


async def until(condition, deadline_s=DEADLINE_S):
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        await asyncio.sleep(0.005)


@pytest.fixture
def publisher():
    made = []

    def make(**options):
        made.append(Publisher(**options))
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request):
    """Return what runs a coroutine; on the loop that the picker uses, too, since its readers are another implementation."""

    def on_loop(coroutine):
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(coroutine, 30))

    return on_loop


A, B, C, D = ([letter] * 8 for letter in (1, 2, 3, 4))


@pytest.mark.parametrize("topic_in_replay", [True, False])
def test_what_was_before_us_and_what_comes(publisher, topic_in_replay, run):
    async def body():
        engine = publisher(topic_in_replay=topic_in_replay)
        engine.cache(A, B)
        async with rig() as made:
            assert made.strategy.health().condition is Condition.UNAVAILABLE
            made.subscriber.sync(Pool(engine.endpoint()))
            await until(lambda: made.standing() is Standing.EXACT)
            assert made.strategy.health().condition is Condition.HEALTHY
            assert [made.held(0, prompt) for prompt in (A, B, C)] == [8, 8, 0]
            engine.cache(C)
            await until(lambda: made.held(0, C) == 8)

    run(body())


def test_ipv6(publisher, run):
    async def body():
        engine = publisher(host="[::1]")
        engine.cache(A)
        async with rig() as made:
            made.subscriber.sync(Pool(engine.endpoint()))
            await until(lambda: made.held(0, A) == 8)

    run(body())


def test_lost_messages_come_back_by_replay(publisher, run):
    async def body():
        engine = publisher()
        async with rig() as made:
            made.subscriber.sync(Pool(engine.endpoint()))
            await until(lambda: made.standing() is Standing.EXACT)
            engine.cache(A)
            await until(lambda: made.held(0, A) == 8)
            engine.engine.cache(B)
            engine.engine.evict(A)
            engine.cache(C)
            await until(lambda: made.held(0, C) == 8 and made.standing() is Standing.EXACT)
            assert [made.held(0, prompt) for prompt in (A, B)] == [4, 8]
            assert made.report().counts.gaps == 1

    run(body())


def test_lost_messages_without_replay(publisher, run):
    async def body():
        engine = publisher()
        async with rig() as made:
            made.subscriber.sync(Pool(engine.endpoint(replay=False)))
            await connected(made, engine)
            engine.cache(A)
            await until(lambda: made.held(0, A) == 8)
            engine.engine.evict(A)
            engine.cache(B)
            await until(lambda: made.standing() is Standing.DEGRADED)
            assert made.strategy.health().condition is Condition.UNAVAILABLE
            assert [made.held(0, prompt) for prompt in (A, B)] == [0, 8]
            engine.send(engine.engine.clear())
            await until(lambda: made.standing() is Standing.EXACT)
            assert made.held(0, B) == 0

    run(body())


async def connected(made, engine):
    """Publish until something arrives: without a replay, what is sent before the subscription stands is lost."""
    await until(lambda: made.report().standing is not Standing.RECOVERING or engine.send(engine.engine.clear()))


def test_reordered_messages(publisher, run):
    async def body():
        engine = publisher()
        async with rig() as made:
            made.subscriber.sync(Pool(engine.endpoint()))
            await until(lambda: made.standing() is Standing.EXACT)
            first, second = engine.engine.cache(A), engine.engine.cache([*A, *A])
            engine.send(second, first)
            engine.cache(B)
            await until(lambda: made.held(0, B) == 8 and made.standing() is Standing.EXACT)
            assert made.held(0, [*A, *A]) == 16
            assert made.report().blocks == 6

    run(body())


def test_restart_that_passes_the_old_number_before_we_are_back(publisher, run):
    async def body():
        engine = publisher()
        async with rig() as made:
            made.subscriber.sync(Pool(engine.endpoint()))
            await until(lambda: made.standing() is Standing.EXACT)
            engine.cache(A, B)
            await until(lambda: made.held(0, B) == 8)
            engine.restart(C, [5] * 8, [6] * 8, [7] * 8)
            await until(lambda: made.held(0, A) == 0 and made.standing() is Standing.EXACT)
            assert [made.held(0, prompt) for prompt in (B, C, [7] * 8)] == [0, 8, 8]
            assert made.report().epoch == 1
            engine.cache(D)
            await until(lambda: made.held(0, D) == 8)

    run(body())


def test_restart_that_goes_on_with_the_number_we_expect(publisher, run):
    async def body():
        engine = publisher()
        async with rig() as made:
            made.subscriber.sync(Pool(engine.endpoint()))
            await until(lambda: made.standing() is Standing.EXACT)
            engine.cache(A, B)
            await until(lambda: made.held(0, B) == 8)
            engine.restart([5] * 8, [6] * 8)
            # Until the subscription stands again nothing arrives; then the first message is the one we have been waiting for.
            third = engine.engine.cache(C)
            await until(lambda: made.held(0, C) == 8 or engine.send(third))
            await until(lambda: made.standing() is Standing.EXACT)
            assert [made.held(0, prompt) for prompt in (A, B, [6] * 8)] == [0, 0, 8]

    run(body())


def test_engine_away_for_a_while(publisher, run):
    async def body():
        engine = publisher()
        async with rig() as made:
            made.subscriber.sync(Pool(engine.endpoint()))
            await until(lambda: made.standing() is Standing.EXACT)
            engine.cache(A)
            await until(lambda: made.held(0, A) == 8)
            engine.stop()
            await until(lambda: made.standing() is Standing.RECOVERING)
            assert made.strategy.health().condition is Condition.UNAVAILABLE
            engine.engine.cache(B)
            engine.start()
            await until(lambda: made.standing() is Standing.EXACT)
            assert [made.held(0, prompt) for prompt in (A, B)] == [8, 8]
            assert made.report().epoch == 0

    run(body())


def test_replay_that_is_not_answered(publisher, monkeypatch, run):
    monkeypatch.setattr(kv_replay, "IDLE_S", 0.05)

    async def body():
        engine = publisher(answers=False)
        engine.cache(A)
        async with rig() as made:
            made.subscriber.sync(Pool(engine.endpoint()))
            await until(lambda: made.report().counts.replay_failures > 0)
            engine.cache(B)
            await until(lambda: made.held(0, B) == 8)
            assert made.standing() is Standing.DEGRADED
            assert made.held(0, A) == 0
            engine.answers = True
            await until(lambda: made.standing() is Standing.EXACT)
            assert [made.held(0, prompt) for prompt in (A, B)] == [8, 8]

    run(body())


def test_endpoints_come_and_go(publisher, run):
    async def body():
        one, two = publisher(), publisher(block=2)
        one.cache(A)
        two.cache(A)
        async with rig() as made:
            made.subscriber.sync(Pool(one.endpoint("default/one"), two.endpoint("default/two")))
            await until(lambda: made.held(0, A) == made.held(1, A) == 8)
            made.subscriber.sync(Pool(None, two.endpoint("default/two")))
            assert made.held(0, A) == 0
            assert made.strategy.feed.endpoints == 1
            made.subscriber.sync(Pool(two.endpoint("default/three"), None))
            await until(lambda: made.held(0, A) == 8)
            assert made.held(1, A) == 0
            made.strategy.forget(0)
            assert made.held(0, A) == 0
            made.subscriber.sync(Pool(two.endpoint("default/three", generation="another life")))
            await until(lambda: made.held(0, A) == 8)
            made.subscriber.sync(Pool())
            assert made.strategy.feed.endpoints == 0

    run(body())


def test_many_that_come_together_are_opened_a_few_at_a_time(publisher, run):
    many = 3 * kv_subscriber.OPENED_AT_ONCE

    async def body():
        one = publisher()
        async with rig() as made:
            made.subscriber.sync(Pool(*(one.endpoint(f"default/pod-{index}") for index in range(many))))
            opened = [subscription for subscription in made.subscriber._subscriptions.values() if subscription.inlets]
            assert len(opened) == kv_subscriber.OPENED_AT_ONCE
            assert made.strategy.feed.endpoints == many
            made.subscriber.sync(Pool(*(one.endpoint(f"default/pod-{index}") for index in range(many - 1))))
            one.cache(A)
            await until(lambda: all(made.report(slot).blocks for slot in range(many - 1)))
            assert made.strategy.feed.endpoints == many - 1

    run(body())


def test_a_stream_that_breaks_is_opened_again_and_others_go_on(publisher, monkeypatch, caplog, run):
    monkeypatch.setattr(kv_subscriber, "REOPEN_S", 0.05)

    async def body():
        one, two = publisher(), publisher()
        async with rig() as made:
            made.subscriber.sync(Pool(one.endpoint("default/one"), two.endpoint("default/two")))
            await until(lambda: made.standing(0) is made.standing(1) is Standing.EXACT)
            receive, broken = made.strategy.feed.receive_live, []

            def fails_once(slot, *message):
                if slot == 0 and not broken:
                    broken.append(slot)
                    raise RuntimeError
                return receive(slot, *message)

            monkeypatch.setattr(made.strategy.feed, "receive_live", fails_once)
            one.cache(A)
            two.cache(B)
            await until(lambda: made.held(0, A) == made.held(1, B) == 8)
            assert made.standing(0) is Standing.EXACT
            assert broken == [0]

    run(body())
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "reading a ZMQ socket failed",
        "subscription to KV events broke",
    ]


def test_garbage_on_the_wire(publisher, run):
    async def body():
        engine = publisher()
        async with rig() as made:
            made.subscriber.sync(Pool(engine.endpoint()))
            await until(lambda: made.standing() is Standing.EXACT)
            engine.pub.send_multipart([b"only one frame"])
            engine.pub.send_multipart([b"", b"short", b""])
            engine.cache(A)
            await until(lambda: made.held(0, A) == 8)
            assert made.report().counts.decode_errors == 2

    run(body())


def test_a_flood_does_not_hold_the_loop(publisher, run):
    async def body():
        engine = publisher()
        async with rig() as made:
            made.subscriber.sync(Pool(engine.endpoint()))
            await until(lambda: made.standing() is Standing.EXACT)
            messages = [engine.engine.cache([number, *range(200)]) for number in range(1500)]
            engine.send(*messages)
            longest, turn = 0.0, time.thread_time()
            while made.report().counts.batches < len(messages):
                await asyncio.sleep(0)
                longest, turn = max(longest, time.thread_time() - turn), time.thread_time()
            assert longest < 0.05, "seconds of CPU; a turn is about a millisecond"

    run(body())


class TestSources:
    def test_ports_and_ranks(self):
        endpoint = Endpoint(name="default/pod-rank-2", address="10.0.0.1", port=8002, rank=2)
        source = source_of(endpoint, Ports(events=5557, replay=6000))
        assert (source.live, source.replay) == ("tcp://10.0.0.1:5559", "tcp://10.0.0.1:6002")
        assert source_of(endpoint, Ports()).replay is None

    def test_labels(self):
        labels = {EVENTS_PORT_LABEL: "7000", REPLAY_PORT_LABEL: "7001"}
        endpoint = Endpoint(name="default/pod", address="2001:db8::1", port=8000, rank=2, labels=labels)
        source = source_of(endpoint, Ports(events=5557, replay=6000))
        assert (source.live, source.replay) == ("tcp://[2001:db8::1]:7000", "tcp://[2001:db8::1]:7001")

    @pytest.mark.parametrize("value", ["", "no", "-1", "0", "65536", "5557 ", "٣"])
    def test_labels_that_are_no_port(self, value):
        with pytest.raises(ConfigError):
            source_of(Endpoint(name="default/pod", address="::1", port=1, labels={EVENTS_PORT_LABEL: value}), Ports())

    def test_an_endpoint_with_a_bad_label_is_left_out(self, caplog, run):
        async def body():
            async with rig() as made:
                made.subscriber.sync(Pool(Endpoint(name="x/y", address="::1", port=1, labels={EVENTS_PORT_LABEL: "no"})))
                assert made.strategy.feed.endpoints == 0

        run(body())
        assert "no KV events of an endpoint" in caplog.text
