"""What carrying messages costs: CPU of a serving process that echoes, for each transport beside bare floors.

Floors: a bare grpc.aio echo handler, and a plain echo on the `h2` library, the least that it can do for one connection. Server
processes are started from this module, one for each kind, so that what they spend is what `getrusage` of their own says; the
client, `envoy_client`, runs here. Rounds of the kinds alternate, since a shared machine drifts, and the best of each counts.
"""

import asyncio
import multiprocessing
import resource
from collections.abc import Callable, Coroutine, Iterable, Sequence
from itertools import repeat
from multiprocessing.connection import Connection

import grpc
import grpc.aio
import uvloop

from epp import heap
from epp.model.stream import Outlet
from epp.transport.base import TransportOptions
from epp.transport.grpc_aio import GrpcAioTransport, channel_arguments
from epp.transport.native import NativeTransport
from epp.transport.routes import PROCESS_METHOD
from epp.transport.tls import TlsOptions
from tests.bench.envoy_client import EnvoyClient, connect
from tests.bench.frame import Row, show
from tests.bench.h2_floor import H2Echo

CHUNK = bytes(220)
"""About one SSE event of a chat completion in its ext_proc envelope."""
CLIENTS = 16
PACE_S = 0.01
REQUEST = (bytes(700), bytes(2_000), bytes(20))
"""Messages of a request with 2 kB of body: headers, body, its end."""
ANSWER = (bytes(300), bytes(800), bytes(20))
"""The same of its response."""
LARGE_REQUEST = (bytes(700), *[bytes(32_768)] * 6, bytes(3_400), bytes(20))
"""The same with 200 kB, in the pieces that Envoy reads from a socket."""
GRPC_RATIO_MAX = 1.1
BARE, H2, GRPC, LATE, NATIVE, NATIVE_LATE = (
    "bare grpc.aio",
    "bare h2",
    "grpcio",
    "grpcio, answered later",
    "native",
    "native, answered later",
)


class Echo:
    """The least a handler can do."""

    def __init__(self, outlet: Outlet) -> None:
        self.receive = outlet.send

    def half_close(self) -> bool:
        return False

    def end(self) -> None:
        """Nothing to account for."""


class LateEcho(Echo):
    """Answers in the next turn of the loop, so that every message goes through the flusher."""

    def __init__(self, outlet: Outlet) -> None:
        loop = asyncio.get_running_loop()
        self.receive = lambda message: loop.call_soon(outlet.send, message)


class BareEcho(grpc.GenericRpcHandler):
    """The floor: read, write, nothing else."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return grpc.stream_stream_rpc_method_handler(self._process) if handler_call_details.method == PROCESS_METHOD else None

    async def _process(self, _requests: object, context: grpc.aio.ServicerContext) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            await context.write(message)


TRANSPORTS = {
    GRPC: (GrpcAioTransport, Echo),
    LATE: (GrpcAioTransport, LateEcho),
    NATIVE: (NativeTransport, Echo),
    NATIVE_LATE: (NativeTransport, LateEcho),
}


async def start(kind: str) -> tuple[object, int]:
    """Start a server of `kind` on this loop; returns it and its port."""
    options = TransportOptions(host="127.0.0.1", port=0, tls=TlsOptions(secure=False))
    if kind in TRANSPORTS:
        make, handler = TRANSPORTS[kind]
        transport = make(options)
        return transport, await transport.start(handler)
    if kind == H2:
        listener = await asyncio.get_running_loop().create_server(H2Echo, "127.0.0.1", 0)
        return listener, listener.sockets[0].getsockname()[1]
    server = grpc.aio.server(handlers=[BareEcho()], options=channel_arguments(options))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, port


def cpu_s() -> float:
    """Return the CPU time of this process so far, all its threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def serve(kind: str, pipe: Connection) -> None:
    """Run a server process: send the port, then the CPU time for every word received, until the pipe closes."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        _server, port = await start(kind)
        pipe.send(port)
        gone = loop.create_future()

        def asked() -> None:
            try:
                pipe.recv()
                pipe.send(cpu_s())
            except EOFError:
                loop.remove_reader(pipe.fileno())
                gone.set_result(None)

        loop.add_reader(pipe.fileno(), asked)
        await gone

    if kind in TRANSPORTS:
        heap.keep_freed()  # as `epp serve` does
    uvloop.run(main())


class Server:
    """A server process seen from here."""

    def __init__(self, kind: str) -> None:
        context = multiprocessing.get_context("spawn")  # never fork where grpc runs
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(kind, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.port: int = self._pipe.recv()

    def cpu_s(self) -> float:
        self._pipe.send(None)
        return self._pipe.recv()

    def stop(self) -> None:
        self._pipe.close()
        self._process.join(10)


async def talk(client: EnvoyClient, turns: Iterable[Sequence[bytes]], pause_s: float = 0.0) -> None:
    """Send messages on one stream, those of a turn after the answers to the last one and a pause."""
    stream = client.open()
    for messages in turns:
        stream.send(messages)
        await stream.receive(len(messages))
        if pause_s:
            await asyncio.sleep(pause_s)
    await stream.close()


async def long_streams(client: EnvoyClient, messages: int) -> None:
    """One stream, as fast as it answers."""
    await talk(client, repeat([CHUNK], messages))


async def paced_streams(client: EnvoyClient, messages: int) -> None:
    """One stream at the pace of a decoding engine: the loop sleeps in between, as it does in life."""
    await talk(client, repeat([CHUNK], messages), PACE_S)


async def requests(client: EnvoyClient, streams: int) -> None:
    """Streams one after another, each with the messages of a request, then those of its answer."""
    for _ in range(streams):
        await talk(client, (REQUEST, ANSWER))


async def large_requests(client: EnvoyClient, streams: int) -> None:
    """The same with a long prompt."""
    for _ in range(streams):
        await talk(client, (LARGE_REQUEST, ANSWER))


Work = Callable[[EnvoyClient, int], Coroutine[None, None, None]]


def cost_us(server: Server, work: Work, units: int) -> float:
    """Return the server's CPU microseconds for one of the `units` of `work` that each of `CLIENTS` does at the same time."""

    async def main() -> None:
        client = await connect("127.0.0.1", server.port)
        await asyncio.gather(*(work(client, units) for _ in range(CLIENTS)))
        client.close()

    before = server.cpu_s()
    uvloop.run(main())
    return (server.cpu_s() - before) * 1e6 / (units * CLIENTS)


def measure(quick: bool) -> list[Row]:
    """Return the rows of this bench."""
    rounds, scale = (1, 1) if quick else (9, 4)
    loads: list[tuple[str, Work, int, float]] = [
        ("chunk, unpaced", long_streams, 40 * scale, 0.3),
        ("chunk, paced", paced_streams, 8 * scale, 0.3),
        ("request, 2 kB", requests, 8 * scale, 0.25),
        ("request, 200 kB", large_requests, 2 * scale, 0.35),
    ]
    servers = {kind: Server(kind) for kind in (BARE, H2, *TRANSPORTS)}
    rows = []
    try:
        for name, work, units, native_ratio_max in loads:
            costs = [{kind: cost_us(server, work, units) for kind, server in servers.items()} for _ in range(rounds)]
            best = {kind: min(cost[kind] for cost in costs) for kind in servers}
            targets = {GRPC: GRPC_RATIO_MAX, NATIVE: native_ratio_max}
            rows += [
                Row(name=f"{name}, {kind}", value=best[kind], floor=best[BARE], floor_name=BARE, ratio_target=targets.get(kind))
                for kind in (GRPC, LATE, H2, NATIVE, NATIVE_LATE)
            ]
    finally:
        for server in servers.values():
            server.stop()
    return rows


if __name__ == "__main__":
    print(show("Transport: server CPU beside bare echoes", measure(quick=False)))
