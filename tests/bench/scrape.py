"""What reading the metrics of idle endpoints costs: share of one core, with the real page of a vLLM server."""

import asyncio
import multiprocessing
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from random import Random
from typing import cast

import uvloop

from epp.model.endpoint import Endpoint
from epp.pool.engines import Engines, Reader
from epp.pool.state import PoolState
from epp.scrape.poller import Poller
from tests.bench.frame import Row, cpu_us, show

PAGE = (Path(__file__).parents[1] / "data" / "vllm_metrics.txt").read_bytes()
VARYING = b'python_gc_objects_collected_total{generation="0"} 15401.0'
"""Something that moves on every page of an idle server."""


class _Server(asyncio.Protocol):
    """Answers whatever comes in with the page, a counter in it one further each time."""

    count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        _Server.count += 1
        page = PAGE.replace(VARYING, VARYING[:-7] + str(10_000 + _Server.count).encode(), 1)
        self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n%b" % (len(page), page))


def _serve(pipe: Pipe) -> None:
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(_Server, "127.0.0.1", 0, backlog=2048)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(serve())


@contextmanager
def page_server() -> Iterator[int]:
    """Serve the page from a process of its own; yields the port."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()  # so that a server that died is an end of file, not a wait
    try:
        yield ours.recv()
    finally:
        process.kill()
        process.join()


def floor_us(port: int, polls: int) -> float:
    """CPU for one page over one kept-alive blocking socket: what receiving it costs at least."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        start = time.process_time_ns()
        for _ in range(polls):
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
            rest = len(PAGE)
            while rest > 0:
                rest -= len(connection.recv(1 << 18))
        return (time.process_time_ns() - start) / polls / 1000


async def poll(port: int, endpoints: int, seconds: float) -> tuple[float, float, int]:
    """Poll that many endpoints; return the share of a core, CPU per poll in us, and how many polls."""
    pool = PoolState()
    # One server stands for all: every 127.x.y.z is this machine.
    pool.apply(
        [Endpoint(name=f"default/e{index}", address="127.0.0.1", port=port) for index in range(endpoints)],
        time.monotonic(),
    )
    poller = Poller(pool, Engines(), clock=time.monotonic, random=Random(1))
    task = asyncio.get_running_loop().create_task(poller.run())
    await asyncio.sleep(0.5 if endpoints <= 100 else 3.0)  # connect, and spread over the interval
    before, start, cpu = poller.polls, time.monotonic(), time.process_time()
    await asyncio.sleep(seconds)
    cpu, elapsed, polls = time.process_time() - cpu, time.monotonic() - start, poller.polls - before
    task.cancel()
    assert not poller.errors, poller.errors
    return cpu / elapsed, cpu / polls * 1e6, polls


def measure(quick: bool = False) -> list[Row]:
    """Return the rows; `quick` is for the test suite."""
    rows = []
    reader = Reader(Engines().of(Endpoint(name="default/a", address="127.0.0.1", port=1)))
    moved = [PAGE, PAGE.replace(VARYING, VARYING + b"1", 1)]

    def read() -> None:
        moved.reverse()
        reader.read(moved[0])

    rows.append(
        Row(name="reading a page whose lines have moved, 56 kB", value=cpu_us(read, number=100 if quick else 1000), target=60)
    )
    with page_server() as port:
        floor = floor_us(port, 100 if quick else 2000)
        for endpoints, target in ((100, 3.0),) if quick else ((100, 3.0), (1000, 20.0)):
            share, each, polls = uvloop.run(poll(port, endpoints, 1.0 if quick else 5.0))
            rows.append(Row(name=f"{endpoints} idle endpoints, of one core", value=share * 100, unit="%", target=target))
            rows.append(
                Row(name=f"  a poll ({polls} of them)", value=each, floor=floor, floor_name="a blocking socket, no parsing")
            )
    return rows


if __name__ == "__main__":
    print(show("scrape", measure()))
