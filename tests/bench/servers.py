"""The processes that `picker` measures: a bare grpc.aio server with canned answers as the floor, and `epp serve`.

Scraping is out of the picture (its own bench): endpoints are closed ports, read once a minute.
"""

import asyncio
import multiprocessing
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from multiprocessing.connection import Connection
from pathlib import Path

import grpc
import grpc.aio
import uvloop
import yaml

from epp.extproc.codec import encode
from epp.extproc.events import AnswerHeaders, Route, Side, StreamBody
from epp.pb import ext_proc_pb2 as pb
from epp.standalone import launcher
from epp.standalone.process import Child
from epp.standalone.run import free_ports
from epp.testing.stack import HOST, READY_TIMEOUT_S, with_pool
from epp.transport.base import TransportOptions
from epp.transport.grpc_aio import channel_arguments
from epp.transport.routes import PROCESS_METHOD
from tests.bench.envoy_client import EnvoyClient, connect

END = pb.ProcessingRequest(request_body=pb.HttpBody(end_of_stream=True)).SerializeToString()
PLAIN = "--secure-serving=false"
REQUEST_BODY, RESPONSE_HEADERS, RESPONSE_BODY = 0x22, 0x1A, 0x2A
"""First byte of a serialized ProcessingRequest: the tag of the one field that says what it is."""


# ---- the floor


@lru_cache(maxsize=64)
def canned(size: int) -> list[bytes]:
    """Return what a picker answers to a request whose body is `size` bytes, with a body of zeros."""
    headers = AnswerHeaders(side=Side.REQUEST, route=Route(destination="127.0.0.1:8000"))
    return [*encode(headers), *encode(StreamBody(side=Side.REQUEST, data=bytes(size), end=True))]


class Floor(grpc.GenericRpcHandler):
    """Answers as a picker does, and does nothing for it."""

    def __init__(self) -> None:
        self._headers = encode(AnswerHeaders(side=Side.RESPONSE))[0]
        self._method = grpc.stream_stream_rpc_method_handler(self._process)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._method if handler_call_details.method == PROCESS_METHOD else None

    async def _process(self, _requests: object, context: grpc.aio.ServicerContext) -> None:
        read, write, size = context.read, context.write, 0
        while (message := await read()) is not grpc.aio.EOF:
            kind = message[0]
            if kind == RESPONSE_BODY:
                await write(message)
            elif kind == RESPONSE_HEADERS:
                await write(self._headers)
            elif kind == REQUEST_BODY and message != END:
                size += len(message)
            elif kind == REQUEST_BODY:
                for answer in canned(size):
                    await write(answer)


def _serve_floor(pipe: Connection, pair: tuple[bytes, bytes] | None) -> None:
    """Serve until the pipe closes."""

    async def main() -> None:
        server = grpc.aio.server(handlers=[Floor()], options=channel_arguments(TransportOptions()))
        if pair is None:
            port = server.add_insecure_port(f"{HOST}:0")
        else:
            port = server.add_secure_port(f"{HOST}:0", grpc.ssl_server_credentials([(pair[1], pair[0])]))
        await server.start()
        pipe.send(port)
        gone = asyncio.Event()
        asyncio.get_running_loop().add_reader(pipe.fileno(), gone.set)
        await gone.wait()

    uvloop.run(main())


# ---- server processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A process that answers ext_proc streams."""

    pid: int
    port: int
    certificate: bytes | None = None

    def cpu_us(self) -> float:
        """Return the CPU time of the process so far, all its threads; by its own clock, not in ticks (clock_getcpuclockid(3))."""
        return time.clock_gettime_ns((~self.pid << 3) | 2) / 1000

    @asynccontextmanager
    async def client(self) -> AsyncIterator[EnvoyClient]:
        """Give a connection to it."""
        client = await connect(HOST, self.port, self.certificate)
        try:
            yield client
        finally:
            client.close()


def start_floor(stack: ExitStack, pair: tuple[bytes, bytes] | None = None) -> Server:
    """Start the floor; with TLS where a certificate and key are given."""
    context = multiprocessing.get_context("spawn")  # never fork where grpc runs
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve_floor, args=(theirs, pair), daemon=True)
    process.start()
    theirs.close()
    stack.callback(process.join, 10)
    stack.callback(ours.close)
    port = ours.recv()
    assert process.pid is not None
    return Server(pid=process.pid, port=port, certificate=pair[0] if pair else None)


def start_picker(stack: ExitStack, endpoints: int, *flags: str, certificate: bytes | None = None) -> Server:
    """Start `epp serve` with the default strategies over a pool of so many endpoints."""
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    pool = directory / "pool.yaml"
    members = [{"name": f"e{n}", "address": f"127.1.{n >> 8}.{n & 255}", "port": "9"} for n in range(1, endpoints + 1)]
    pool.write_text(yaml.safe_dump({"endpoints": members}))
    file = directory / "picker.yaml"
    file.write_text(yaml.safe_dump(with_pool({"scrape": {"busyIntervalMs": 60_000, "idleIntervalMs": 60_000}}, pool)))
    grpc_port, health_port, admin_port = free_ports(3)
    ports = [f"--grpc-port={grpc_port}", f"--grpc-health-port={health_port}", f"--metrics-port={admin_port}"]
    command = [sys.executable, "-m", "epp", "serve", "--config-file", str(file), "--bind", HOST, "--drain-timeout=0s"]
    picker = Child("picker", [*command, *ports, *(flags or (PLAIN, "--transport=grpcio"))])
    stack.callback(picker.stop)
    picker.wait_until(lambda: launcher.fetch(HOST, admin_port, "/readyz")[0] == HTTPStatus.OK, READY_TIMEOUT_S, "it is ready")
    return Server(pid=picker.pid, port=grpc_port, certificate=certificate)
