"""What the whole picker costs: CPU of an `epp serve` process for a request and for a chunk, beside a bare grpc.aio server.

Both are processes of their own, spoken to over a socket by a driver in this one, with the messages that Envoy sends. The floor
reads the same messages and answers with bytes made beforehand, of the same shape and number; what it spends is grpc's and the
kernel's. Rounds of all servers alternate and the best of each counts, since noise on a shared machine only ever adds.
"""

import asyncio
import itertools
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random

import uvloop

from epp.extproc.codec import DESTINATION
from epp.pb import ext_proc_pb2 as pb
from epp.transport.tls import CERTIFICATE_FILE, KEY_FILE, self_signed
from tests.bench.decision import bodies, messages_of
from tests.bench.envoy_client import EnvoyClient, Stream
from tests.bench.frame import Row, show
from tests.bench.servers import PLAIN, Server, canned, start_floor, start_picker
from tests.bench.wire import SSE_CHUNK, response_message

CLIENTS = 16
"""Streams under way at once."""
PACED_CLIENTS = 64
"""The same where each of them waits most of the time: enough that the server's CPU can be measured."""
PACE_S = 0.01
REQUESTS = {2_000: 6, 20_000: 5, 200_000: 2}
"""Requests of each client in a round, by bytes of the body."""
CHUNKS = 40
"""Chunks of each stream in a round."""
ROUNDS = 21
"""Many and short: on a shared machine a short one is more likely to fall into a quiet moment."""
REQUEST_RATIO_MAX = 1.25
CHUNK_RATIO_MAX = 1.1
NATIVE_TARGETS_US = {2_000: 170.0, 200_000: 600.0}
NATIVE = "10 endpoints, native"
REQUEST_IDS = 5_000
"""More than a picker remembers, so that each is new to it when it comes again."""
SATURATION_CLIENTS = 64
LATENCY_SECONDS = 5.0
LATENCY_TARGET_MS = 3.0
"""99 of 100 decisions, at half of what the picker can take."""

FLOOR_NAME = "bare grpc.aio, canned answers"


# ---- the driver


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request as Envoy carries it, and how many messages must come back before the response goes on."""

    request: Sequence[bytes]
    answers: int
    response: Sequence[bytes]
    """Each is answered by one message."""


def _response_headers() -> bytes:
    message = pb.ProcessingRequest()
    for key, value in ((":status", "200"), ("content-type", "application/json"), ("server", "uvicorn")):
        message.response_headers.headers.headers.add(key=key, raw_value=value.encode())
    return message.SerializeToString()


COMPLETION = (
    b'{"id":"chatcmpl-1","object":"chat.completion","model":"tiny","choices":[{"index":0,"message":{"role":"assistant","content":"'
    + b"word " * 100
    + b'"},"finish_reason":"stop"}],"usage":{"prompt_tokens":500,"completion_tokens":100,"total_tokens":600}}'
)


def exchanges(size: int, *, lean: bool) -> list[Exchange]:
    """Return requests of `size` bytes from a hundred conversations, each with a short answer that is no stream."""
    response = [_response_headers()]
    if not lean:
        end = pb.ProcessingRequest(response_body=pb.HttpBody(end_of_stream=True)).SerializeToString()
        response += [response_message(COMPLETION), end]
    heads = [messages_of(b"", lean=lean, request_id=f"6b0d3ee9-6f0c-4d8f-8d9e-{number:012}")[0] for number in range(REQUEST_IDS)]
    rest = [(messages_of(body, lean=lean)[1:], len(canned(len(body)))) for body in bodies(size)]
    return [
        Exchange(request=[head, *messages], answers=answers, response=response)
        for head, (messages, answers) in zip(heads, itertools.cycle(rest), strict=False)
    ]


async def _open(client: EnvoyClient, exchange: Exchange) -> Stream:
    """Begin a stream and carry it to where the request has been answered."""
    stream = client.open()
    stream.send(exchange.request)
    first, *_ = await stream.receive(exchange.answers)
    if DESTINATION.encode() not in first:
        raise RuntimeError(f"no destination in {first!r}")
    return stream


async def _serve_requests(client: EnvoyClient, given: Iterator[Exchange], count: int) -> None:
    """Send so many requests, one after another."""
    for exchange in itertools.islice(given, count):
        stream = await _open(client, exchange)
        stream.send(exchange.response)
        await stream.receive(len(exchange.response))
        await stream.close()


async def request_us(server: Server, given: Iterator[Exchange], count: int) -> float:
    """Return the server's CPU for one request, while `CLIENTS` send `count` each."""
    async with server.client() as client:
        await _serve_requests(client, given, 2)
        before = server.cpu_us()
        await asyncio.gather(*(_serve_requests(client, given, count) for _ in range(CLIENTS)))
        return (server.cpu_us() - before) / (CLIENTS * count)


async def chunk_us(server: Server, exchange: Exchange, count: int, pause_s: float) -> float:
    """Return the server's CPU for one chunk of a response; each stream sends one after the answer to the last, and a pause."""
    chunk, streams = response_message(SSE_CHUNK), PACED_CLIENTS if pause_s else CLIENTS

    async def send(stream: Stream, number: int) -> None:
        for _ in range(number):
            if pause_s:
                await asyncio.sleep(pause_s)
            stream.send([chunk])
            await stream.receive(1)

    async with server.client() as client:
        opened = [await _open(client, exchange) for _ in range(streams)]
        for stream in opened:
            stream.send(exchange.response[:1])
            await stream.receive(1)
            await send(stream, 1)  # the first one is the first token
        before = server.cpu_us()
        await asyncio.gather(*(send(stream, count) for stream in opened))
        spent = server.cpu_us() - before
        for stream in opened:
            await stream.close()
    return spent / (streams * count)


# ---- the rows

Work = Callable[[Server], Awaitable[float]]


def best(servers: Sequence[Server], work: Work, rounds: int) -> list[float]:
    """Return the best cost of each server, taken in turns."""

    async def once(server: Server) -> float:
        return await work(server)

    costs = [[uvloop.run(once(server)) for server in servers] for _ in range(rounds)]
    return [min(column) for column in zip(*costs, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """The servers of a run."""

    floor: Server
    pickers: dict[int, Server]
    """By number of endpoints."""
    native: Server
    """Over the native transport, 10 endpoints."""
    quiet: Server | None = None
    """Without log lines, 10 endpoints."""
    tls: tuple[Server, Server] | None = None
    """Floor and picker."""


def start(stack: ExitStack, *, quick: bool) -> Field:
    """Start what is measured; `quick`: only the floor and one picker."""
    floor = start_floor(stack)
    native = start_picker(stack, 10, PLAIN, "--transport=native")
    if quick:
        return Field(floor=floor, native=native, pickers={10: start_picker(stack, 10)})
    certificate, key = self_signed()
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    (directory / CERTIFICATE_FILE).write_bytes(certificate)
    (directory / KEY_FILE).write_bytes(key)
    return Field(
        floor=floor,
        native=native,
        pickers={endpoints: start_picker(stack, endpoints) for endpoints in (10, 100, 1000)},
        quiet=start_picker(stack, 10, PLAIN, "--transport=grpcio", "-v=0"),
        tls=(
            start_floor(stack, (certificate, key)),
            start_picker(stack, 10, "--transport=grpcio", "--cert-path", str(directory), certificate=certificate),
        ),
    )


def request_rows(field: Field, size: int, *, lean: bool, rounds: int, count: int) -> list[Row]:
    """Return the rows of requests of one size."""
    given = itertools.cycle(exchanges(size, lean=lean))
    named = {f"{endpoints} endpoints": server for endpoints, server in field.pickers.items()} | {NATIVE: field.native}
    if size == min(REQUESTS) and field.quiet is not None and field.tls is not None:
        named |= {"10 endpoints, no log": field.quiet, "10 endpoints, TLS": field.tls[1]}
    servers = [field.floor, *named.values(), *(field.tls[:1] if field.tls is not None else ())]
    floor, *costs = best(servers, lambda server: request_us(server, given, count), rounds)
    rows = []
    for name, cost in zip(named, costs, strict=False):
        target = REQUEST_RATIO_MAX if (size, name) == (2_000, "10 endpoints") else None
        least = costs[-1] if "TLS" in name else floor
        what = f"request, {size // 1000} kB, {'lean' if lean else 'full duplex'}, {name}"
        most = NATIVE_TARGETS_US.get(size) if name == NATIVE and not lean else None
        rows.append(Row(name=what, value=cost, floor=least, floor_name=FLOOR_NAME, ratio_target=target, target=most))
    return rows


def chunk_rows(field: Field, *, rounds: int, count: int) -> list[Row]:
    """Return the rows of response chunks."""
    exchange, servers = exchanges(2_000, lean=False)[0], [field.floor, field.pickers[10], field.native]
    rows = []
    for name, pause_s in (("unpaced", 0.0), (f"every {PACE_S * 1000:g} ms", PACE_S)):
        floor, grpcio, native = best(servers, lambda server, pause_s=pause_s: chunk_us(server, exchange, count, pause_s), rounds)  # type: ignore[misc]
        rows += [
            Row(name=f"SSE chunk, {name}", value=grpcio, floor=floor, floor_name=FLOOR_NAME, ratio_target=CHUNK_RATIO_MAX),
            Row(name=f"SSE chunk, {name}, native", value=native, floor=floor, floor_name=FLOOR_NAME),
        ]
    return rows


async def saturation_rps(server: Server, given: Iterator[Exchange], seconds: float) -> float:
    """Return how many requests a second it takes from clients that send the next one when the last is over."""
    done, end = 0, time.perf_counter() + seconds

    async def one(client: EnvoyClient) -> None:
        nonlocal done
        while time.perf_counter() < end:
            await _serve_requests(client, given, 1)
            done += 1

    async with server.client() as client:
        await asyncio.gather(*(one(client) for _ in range(SATURATION_CLIENTS)))
    return done / seconds


async def latency_ms(server: Server, given: Iterator[Exchange], rate_rps: float, seconds: float) -> float:
    """Return the time from a whole request to its answer that 99 of 100 stay under, requests coming by chance at `rate_rps`."""
    random, taken = Random(1), []

    async def one(client: EnvoyClient, exchange: Exchange) -> None:
        start = time.perf_counter()
        stream = await _open(client, exchange)
        taken.append(time.perf_counter() - start)
        stream.send(exchange.response)
        await stream.receive(len(exchange.response))
        await stream.close()

    async with server.client() as client, asyncio.TaskGroup() as tasks:
        start, due = time.perf_counter(), 0.0
        while (due := due + random.expovariate(rate_rps)) < seconds:
            # The loop's timers count in milliseconds, and would have requests come in heaps.
            while time.perf_counter() < start + due:  # noqa: ASYNC110
                await asyncio.sleep(0)
            tasks.create_task(one(client, next(given)))
    return sorted(taken)[int(0.99 * len(taken))] * 1000


def latency_row(field: Field, *, seconds: float) -> Row:
    """Return the row of latency over the native transport, at half of the most requests that it takes."""
    given = itertools.cycle(exchanges(2_000, lean=False))
    rate_rps = 0.5 * uvloop.run(saturation_rps(field.native, given, seconds))
    value = uvloop.run(latency_ms(field.native, given, rate_rps, seconds))
    what = f"p99 of the answer, native, 2 kB, {rate_rps:.0f} requests/s"
    return Row(name=what, value=value, unit="ms", target=LATENCY_TARGET_MS)


def measure(*, quick: bool = False) -> list[Row]:
    """Return the rows of this bench; `quick` proves that it runs, its figures mean little."""
    rounds = 1 if quick else ROUNDS
    with ExitStack() as stack:
        field = start(stack, quick=quick)
        rows = []
        for size, count in REQUESTS.items():
            for lean in (False, True):
                rows += request_rows(field, size, lean=lean, rounds=rounds, count=1 if quick else count)
        rows += chunk_rows(field, rounds=rounds, count=4 if quick else CHUNKS)
        return [*rows, latency_row(field, seconds=0.2 if quick else LATENCY_SECONDS)]


if __name__ == "__main__":
    print(show("Picker: CPU of the process beside a bare server", measure(quick="--quick" in sys.argv)))
