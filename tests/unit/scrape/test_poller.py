"""Who is polled when, with time as an argument; and once for real."""

import asyncio
import logging
from dataclasses import dataclass, field
from itertools import count, pairwise
from random import Random

import pytest

from epp.model.endpoint import Endpoint
from epp.pool.engines import EngineConfig, Engines
from epp.pool.state import PoolState
from epp.scrape.page_client import Cause
from epp.scrape.poller import BACKOFF_MAX_S, TICK_S, Pace, Poller, Target
from tests.unit.scrape.peers import serving

PAGE = b"vllm:num_requests_waiting 3\nvllm:num_requests_running 0\n"
IDLE = b"vllm:num_requests_waiting 0\nvllm:num_requests_running 0\n"


class FakeConnection:
    """Answers when told to."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.done = None
        self.closed = False

    def get(self, done) -> None:
        assert self.done is None, "two polls of one endpoint at once"
        self.done = done

    def abandon(self, cause: Cause) -> None:
        self.closed = True
        self.answer(cause)

    def answer(self, result: bytes | Cause) -> None:
        done, self.done = self.done, None
        if done is not None:
            done(result)


@dataclass(frozen=True, kw_only=True)
class FakeTarget(Target):
    made: list[FakeConnection] = field(default_factory=list)

    def connection(self, endpoint, bytes_max):
        self.made.append(FakeConnection(endpoint))
        return self.made[-1]


class Bench:
    """A poller whose time is moved by hand."""

    def __init__(self, endpoints: int, **pace: float) -> None:
        self.now = 100.0
        self.pool = PoolState()
        self.target = FakeTarget()
        self.poller = Poller(self.pool, Engines(), clock=lambda: self.now, random=Random(7), pace=Pace(**pace), target=self.target)
        self.members = [Endpoint(name=f"default/e{index}", address=f"10.0.0.{index}", port=8000) for index in range(endpoints)]
        self.pool.apply(self.members, self.now)
        self.polled: list[tuple[float, str]] = []

    def run(self, seconds: float, answer: bytes | Cause | None = IDLE) -> list[float]:
        """Let time pass; every poll is answered at once with `answer` (None: not at all). Return when polls started."""
        started = []
        for _ in range(round(seconds / TICK_S)):
            self.now += TICK_S
            self.poller.tick(self.now)
            for connection in self.waiting():
                started.append(self.now)
                if answer is not None:
                    connection.answer(answer)
        return started

    def waiting(self) -> list[FakeConnection]:
        return [connection for connection in self.target.made if connection.done is not None]


def gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


def test_an_idle_endpoint_is_read_once_a_second():
    times = Bench(1).run(20.0)
    assert max(gaps(times)) <= 1.0 + 1e-9
    assert len(times) <= 26


def test_an_endpoint_with_traffic_of_ours_is_fresh_within_a_tenth_of_a_second():
    bench = Bench(1)
    bench.run(3.0)
    bench.pool.ledger.reserve(0, 100.0, bench.now)
    start = bench.now
    times = [start, *bench.run(3.0)]
    assert max(gaps(times)) <= 0.1 + 1e-9
    assert times[1] - start <= TICK_S + 1e-9


def test_an_endpoint_with_traffic_of_others_is_read_often_too():
    bench = Bench(1)
    bench.run(2.0, PAGE)
    assert max(gaps(bench.run(3.0, PAGE))) <= 0.1 + 1e-9


def test_after_the_last_request_it_is_idle_again():
    bench = Bench(1)
    handle = bench.pool.ledger.reserve(0, 100.0, bench.now)
    bench.run(3.0)
    bench.pool.ledger.release(handle, bench.now)
    bench.run(2.0)
    assert len(bench.run(10.0)) <= 14


def test_what_was_read_lands_in_the_pool_with_its_time():
    bench = Bench(1)
    bench.run(TICK_S, PAGE)
    columns = bench.pool.snapshot().columns
    assert (columns.waiting[0], columns.scraped_s[0]) == (3.0, bench.now)
    assert bench.poller.polls == 1


def test_never_two_polls_of_one_endpoint_and_an_end_to_each():
    bench = Bench(1, timeout_s=1.0)
    assert bench.run(0.95, None)
    assert not bench.poller.errors
    bench.run(0.1, None)
    assert bench.poller.errors == {Cause.TIMEOUT: 1}


def test_polls_under_way_are_bounded_and_all_get_their_turn():
    bench = Bench(20, concurrency_max=6)
    bench.run(TICK_S, None)
    assert len(bench.waiting()) == 6
    for _ in range(4):
        for connection in bench.waiting():
            connection.answer(IDLE)
        bench.run(TICK_S, None)
    assert len({connection.endpoint.name for connection in bench.target.made}) == 20


def test_failures_back_off_up_to_a_limit_and_recovery_is_seen():
    bench = Bench(1)
    times = bench.run(60.0, Cause.CONNECT)
    assert len(times) < 20
    assert max(gaps(times)) <= BACKOFF_MAX_S + 2 * TICK_S
    assert bench.poller.failing == 1
    bench.run(BACKOFF_MAX_S + 1.0, IDLE)
    assert bench.poller.failing == 0
    assert max(gaps(bench.run(10.0))) <= 1.0 + 1e-9


def test_what_was_waiting_is_forgotten_when_the_endpoint_stays_silent():
    bench = Bench(1)
    bench.pool.ledger.reserve(0, 100.0, bench.now)
    foreign = bench.pool.snapshot().columns.foreign
    bench.run(TICK_S, PAGE)
    assert foreign[0] == 200.0
    polls = 0
    while polls < 3:
        assert foreign[0] == 200.0
        polls += len(bench.run(TICK_S, Cause.TIMEOUT))
    assert foreign[0] == 0.0
    bench.run(BACKOFF_MAX_S, PAGE)
    assert foreign[0] == 200.0


@pytest.mark.parametrize(
    "page", [b"", b"[]", b"# starting\n", b"\x1f\x8b\x08", b"sglang:num_queue_reqs 3\n", b"vllm:num_requests_waiting NaN\n"]
)
def test_a_page_that_says_nothing_of_the_engine_is_no_reading(page):
    """It would pass for an idle server, and draw all the traffic."""
    bench = Bench(1)
    bench.run(1.0, page)
    columns = bench.pool.snapshot().columns
    assert columns.scraped_s[0] == -float("inf")
    assert bench.poller.errors.keys() == {Cause.NO_SERIES}
    assert (bench.poller.polls, bench.poller.failing) == (0, 1)
    bench.run(BACKOFF_MAX_S, PAGE)
    read_s = columns.scraped_s[0]
    bench.run(2.0, page)
    assert bench.poller.failing == 1
    assert columns.waiting[0] == 3.0
    assert columns.scraped_s[0] <= read_s + 1.0


def test_a_server_that_has_not_counted_anything_yet_may_say_only_what_its_cache_is():
    """vLLM with several API servers, before its first request: it must not pass for one that does not answer."""
    bench = Bench(1)
    bench.run(TICK_S, b'vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1.0\n')
    assert bench.pool.snapshot().columns.capacity_tokens[0] == 1600
    assert not bench.poller.errors


def test_an_engine_described_without_such_series_need_not_say_it():
    bench = Bench(1)
    engines = Engines([EngineConfig(name="vllm", kv_usage_spec="kv")])
    bench.poller.configure(engines, pace=Pace(), target=bench.target)
    bench.run(TICK_S, b"kv 0.5\n")
    assert bench.pool.snapshot().columns.kv_usage[0] == 0.5
    assert not bench.poller.errors


def test_those_that_answer_come_before_those_that_do_not():
    bench = Bench(10, concurrency_max=10)
    bench.run(TICK_S, None)
    for index, connection in enumerate(bench.waiting()):
        connection.answer(IDLE if index < 2 else Cause.CONNECT)
    bench.poller._pace = Pace(concurrency_max=2)
    bench.now += 30.0
    bench.poller.tick(bench.now)
    assert {connection.endpoint.name for connection in bench.waiting()} == {"default/e0", "default/e1"}


def test_endpoints_that_came_together_are_spread():
    bench = Bench(100)
    bench.run(3.0)
    times = bench.run(1.0)
    assert 100 <= len(times) <= 130
    assert max(times.count(time) for time in set(times)) < 20


def test_one_line_per_change_of_state(caplog):
    caplog.set_level(logging.INFO)
    bench = Bench(1)
    bench.run(30.0, Cause.TIMEOUT)
    bench.run(30.0, IDLE)
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "metrics cannot be read"),
        ("INFO", "metrics are read again"),
    ]
    assert (caplog.records[0].endpoint, caplog.records[0].cause) == ("default/e0", "timeout")


def test_an_answer_for_an_endpoint_that_has_gone_does_not_reach_the_next_owner_of_its_slot():
    bench = Bench(1)
    bench.run(TICK_S, None)
    (old,) = bench.waiting()
    late = old.done
    bench.pool.apply([Endpoint(name="default/other", address="10.0.0.9", port=8000)], bench.now)
    assert old.closed
    late(PAGE)
    assert bench.pool.snapshot().columns.waiting[0] == 0
    bench.run(TICK_S, PAGE)
    assert bench.target.made[-1].endpoint.name == "default/other"
    assert bench.pool.snapshot().columns.waiting[0] == 3.0


def test_a_label_that_changes_the_engine_changes_how_pages_are_read():
    bench = Bench(1)
    bench.run(TICK_S, PAGE)
    bench.pool.apply(
        [Endpoint(name="default/e0", address="10.0.0.0", port=8000, labels={"llm-d.ai/engine-type": "sglang"})], bench.now
    )
    bench.run(2.0, b"sglang:num_queue_reqs 9\n")
    assert bench.pool.snapshot().columns.waiting[0] == 9.0
    assert len(bench.target.made) == 1


class TestOtherSettings:
    def test_another_pace_keeps_the_connections(self):
        bench = Bench(1)
        bench.run(3.0)
        bench.poller.configure(bench.poller._engines, pace=Pace(idle_interval_s=0.2), target=bench.target)
        assert max(gaps(bench.run(3.0))[1:]) <= 0.2 + 1e-9
        assert len(bench.target.made) == 1

    def test_another_page_is_read_over_another_connection_and_what_the_old_one_brings_is_dropped(self):
        bench = Bench(1)
        bench.run(TICK_S, None)
        (old,) = bench.waiting()
        late, other = old.done, FakeTarget(path="/other")
        bench.poller.configure(bench.poller._engines, pace=Pace(), target=other)
        assert old.closed
        late(PAGE)
        assert bench.pool.snapshot().columns.waiting[0] == 0
        bench.poller.tick(bench.now)
        other.made[0].answer(PAGE)
        assert bench.pool.snapshot().columns.waiting[0] == 3.0
        assert not bench.poller.errors

    def test_other_engines_read_the_same_page_by_other_names(self):
        bench = Bench(1)
        bench.run(TICK_S, PAGE)
        bench.poller.configure(Engines(default="sglang"), pace=Pace(), target=bench.target)
        bench.run(2.0, b"sglang:num_queue_reqs 9\n")
        assert bench.pool.snapshot().columns.waiting[0] == 9.0
        assert len(bench.target.made) == 1


@pytest.mark.parametrize(("port", "path"), [(None, "/metrics"), (9000, "/other")])
def test_the_request(port, path):
    endpoint = Endpoint(name="default/v6", address="fd00::1", port=8000)
    connection = Target(port=port, path=path).connection(endpoint, 100)
    assert connection._request.startswith(f"GET {path} HTTP/1.1\r\nHost: [fd00::1]:{port or 8000}\r\n".encode())


def test_over_a_real_socket():
    requests, fourth = count(1), asyncio.Event()

    async def peer(reader, writer):
        while await reader.readuntil(b"\r\n\r\n"):
            if next(requests) == 4:
                fourth.set()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(PAGE), PAGE))

    async def script() -> None:
        loop = asyncio.get_running_loop()
        async with serving(peer) as port:
            pool = PoolState()
            pool.apply([Endpoint(name="default/a", address="127.0.0.1", port=port)], loop.time())
            poller = Poller(pool, Engines(), clock=loop.time, random=Random(1), pace=Pace(busy_interval_s=0.03))
            task = loop.create_task(poller.run())
            await asyncio.wait_for(fourth.wait(), 5)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert poller.polls >= 3
            assert pool.snapshot().columns.waiting[0] == 3.0
            assert not poller.errors

    asyncio.run(script())
