"""What a decision costs without a transport: bytes of the last request message to bytes of the answer.

Everything is real but the sockets: codec, session, parser, the default chain of strategies, marginal-cost rule, ledger,
metrics and the ring of decisions; the log is at warnings, its own row says what a line costs. Prompts come from a hundred
conversations that share a system prompt, so most of them match in part. The floor is what decoding the body's JSON and hashing its
bytes costs by itself: no decision can do without.
"""

import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from random import Random

import msgspec
import xxhash

from epp.config import load
from epp.director import Director, Routing
from epp.extproc.pump import Pump
from epp.model.endpoint import Endpoint
from epp.parsers.select import Parsers
from epp.parts import build_strategies
from epp.pb import ext_proc_pb2 as pb
from epp.pool.state import PoolState
from epp.scheduling.build import build
from epp.scheduling.registry import Registry
from epp.telemetry import logs
from epp.telemetry.metrics import Metrics
from epp.telemetry.observers import Observers
from epp.telemetry.sheets import RECORDS_MAX, DecisionRing
from tests.bench.frame import Row
from tests.bench.wire import HEADERS, PIECE_BYTES

SYSTEM = "You are a helpful AI writer. Please write in a professional manner. "
CONVERSATIONS = 100
TARGETS_US = {2_000: 100.0, 20_000: 150.0, 200_000: 300.0}
MORE_ENDPOINTS_RATIO = 1.3
WARM_ROUNDS = RECORDS_MAX // CONVERSATIONS + 1


class Outlet:
    """Keeps the last message."""

    def send(self, message: bytes) -> None:
        self.last = message

    def close(self) -> None: ...

    def fail(self, code: int, message: str) -> None: ...

    def pending_bytes(self) -> int:
        return 0


def build_director(endpoints: int, *, log_decisions: bool = False) -> Director:
    """Return a director over a pool of that many endpoints, with the default configuration."""
    plan = build(load(""), Registry())
    strategies = build_strategies(plan)
    pool = PoolState()
    observers: list[object] = [Metrics(time.monotonic), DecisionRing(time.time)]
    if log_decisions:
        observers.append(logs.DecisionLog())
    director = Director(
        routing=Routing(
            profiles=plan.profiles, handler=plan.handler, strategies=strategies.driven, default=plan.default_producer, asked={}
        ),
        pool=pool,
        parsers=Parsers(plan.parsers),
        observer=Observers(observers),
        clock=time.monotonic,
        random=Random(1),
    )
    members = [Endpoint(name=f"default/e{n}", address=f"10.{n >> 8}.{n & 255}.1", port=8000) for n in range(endpoints)]
    pool.apply(members, time.monotonic())
    pool.snapshot().columns.scraped_s[:] = time.monotonic()
    return director


def bodies(size: int) -> list[bytes]:
    """Return chat requests of about `size` bytes: half of each is shared by all, a quarter by its conversation."""
    random = Random(7)
    words = ["".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(997)]

    def text(length: int, seed: int) -> str:
        source = Random(seed)
        return " ".join(source.choices(words, k=length // 8))

    shared = SYSTEM + text(size // 2 - len(SYSTEM), 0)
    return [
        json.dumps(
            {
                "model": "tiny",
                "stream": True,
                "messages": [
                    {"role": "system", "content": shared},
                    {"role": "user", "content": text(size // 4, 1 + number % 25)},
                    {"role": "user", "content": text(size // 4, 1000 + number)},
                ],
            }
        ).encode()
        for number in range(CONVERSATIONS)
    ]


def messages_of(body: bytes, *, lean: bool, request_id: str = HEADERS["x-request-id"]) -> list[bytes]:
    """Return the ext_proc messages of one request as Envoy sends them."""
    first = pb.ProcessingRequest()
    first.protocol_config.request_body_mode = pb.FULL_DUPLEX_STREAMED
    if not lean:
        first.protocol_config.response_body_mode = pb.FULL_DUPLEX_STREAMED
    for key, value in (HEADERS | {"x-request-id": request_id}).items():
        first.request_headers.headers.headers.add(key=key, raw_value=value.encode())
    pieces = [body[start : start + PIECE_BYTES] for start in range(0, len(body), PIECE_BYTES)]
    parts = [pb.HttpBody(body=piece) for piece in pieces] + [pb.HttpBody(end_of_stream=True)]
    return [message.SerializeToString() for message in (first, *(pb.ProcessingRequest(request_body=part) for part in parts))]


def last_message_us(director: Director, requests: list[list[bytes]], *, rounds: int) -> float:
    """Return CPU microseconds of the last message of a request, mean over all requests, best of `rounds`.

    Until the ring of decisions is full, every sheet is memory never touched before; that is over after a thousand decisions.
    """
    best = float("inf")
    for number in range(-WARM_ROUNDS if rounds > 1 else -1, rounds):
        spent = 0
        for messages in requests:
            pump = Pump(Outlet(), director)
            for message in messages[:-1]:
                pump.receive(message)
            start = time.process_time_ns()
            pump.receive(messages[-1])
            spent += time.process_time_ns() - start
            pump.end()
        if number >= 0:
            best = min(best, spent / len(requests) / 1000)
    return best


def _floor_us(size: int, rounds: int) -> float:
    """Return what decoding the JSON of a body to plain objects and hashing its bytes costs."""
    samples, best = bodies(size), float("inf")
    for _ in range(rounds):
        start = time.process_time_ns()
        for body in samples:
            msgspec.json.decode(body)
            xxhash.xxh3_64_intdigest(body)
        best = min(best, (time.process_time_ns() - start) / len(samples) / 1000)
    return best


def _rows(rounds: int) -> Iterator[Row]:
    for size, target in TARGETS_US.items():
        floor = _floor_us(size, rounds)
        for lean in (False, True):
            requests = [messages_of(body, lean=lean) for body in bodies(size)]
            few = last_message_us(build_director(10), requests, rounds=rounds)
            many = last_message_us(build_director(1000), requests, rounds=rounds)
            mode = "lean" if lean else "full duplex"
            yield Row(
                name=f"decision, {size // 1000} kB, 10 endpoints, {mode}",
                value=few,
                target=target,
                floor=floor,
                floor_name="JSON decode + xxh3 of the body",
            )
            yield Row(
                name=f"decision, {size // 1000} kB, 1000 endpoints, {mode}",
                value=many,
                floor=few,
                floor_name="the same with 10",
                ratio_target=MORE_ENDPOINTS_RATIO,
            )


def _log_line(rounds: int) -> Row:
    """What the decision's log line adds, its formatting on the writer's thread included."""
    requests = [messages_of(body, lean=True) for body in bodies(2_000)]
    without = last_message_us(build_director(10), requests, rounds=rounds)
    undo = logs.configure(verbosity=2, stream=io.StringIO())
    try:
        with_log = last_message_us(build_director(10, log_decisions=True), requests, rounds=rounds)
    finally:
        undo()
    return Row(name="decision, 2 kB, with its log line", value=with_log, floor=without, floor_name="without")


def measure(*, quick: bool = False) -> list[Row]:
    """Return the rows of this bench; `quick` proves that it runs, its figures mean little."""
    logging.getLogger("epp.decisions").setLevel(logging.NOTSET)
    rounds = 1 if quick else 7
    return [*_rows(rounds), _log_line(rounds)]


Measure = Callable[..., list[Row]]
