"""A server in a process of its own: `python -m tests.transport.server KIND [DIRECTORY]`, the latter with a certificate for TLS.

It echoes on the method of ext_proc, has the interoperability tests' service and the health service, and prints its port. Then each
line of its standard input is a wish, answered by a line: "counts" for how many streams have begun and ended, "serving" and
"not-serving" for what the health service is to say. It leaves when there are no more lines.
"""

import asyncio
import json
import sys

import uvloop

from epp.model.stream import Accept, Outlet, StreamHandler
from epp.telemetry.health import Fact, HealthState
from epp.transport.base import TransportOptions
from epp.transport.grpc_aio import GrpcAioTransport
from epp.transport.native import NativeTransport
from epp.transport.routes import Route, Routes
from epp.transport.tls import TlsOptions
from tests.transport import interop

KINDS = {
    "native": (NativeTransport, uvloop.new_event_loop),
    "native-asyncio": (NativeTransport, asyncio.new_event_loop),
    "grpcio": (GrpcAioTransport, uvloop.new_event_loop),
}


class Echo(interop.Call):
    def receive(self, message: bytes) -> None:
        self.outlet.send(message)


class Counts:
    """Streams of the server, health's left out."""

    def __init__(self) -> None:
        self.begun = self.ended = 0

    def counting(self, accept: Accept) -> Accept:
        """`accept`, with what begins and ends counted."""

        def accept_and_count(outlet: Outlet) -> StreamHandler:
            self.begun += 1
            return Counted(accept(outlet), self)

        return accept_and_count


class Counted:
    def __init__(self, handler: StreamHandler, counts: Counts) -> None:
        self.receive, self.half_close = handler.receive, handler.half_close
        self._handler, self._counts = handler, counts

    def end(self) -> None:
        self._counts.ended += 1
        self._handler.end()


def with_interop(kind: type, counts: Counts) -> type:
    """A transport that has the interoperability tests' service beside what the picker's has."""

    class WithInterop(kind):
        async def _listen(self, routes: Routes) -> int:
            more = {path: Route(accept=counts.counting(route.accept)) for path, route in interop.ROUTES.items()}
            return await super()._listen({**routes, **more})

    return WithInterop


async def main(kind: type, tls: TlsOptions) -> None:
    counts, health = Counts(), HealthState()
    health.set(Fact.POOL_SYNCED, True)
    transport = with_interop(kind, counts)(TransportOptions(host="127.0.0.1", port=0, tls=tls))
    print(await transport.start(counts.counting(Echo), health), flush=True)
    while wish := (await asyncio.to_thread(sys.stdin.readline)).strip():
        if wish != "counts":
            health.set(Fact.POOL_SYNCED, wish == "serving")
        print(json.dumps([counts.begun, counts.ended]), flush=True)
    await transport.stop(0)


if __name__ == "__main__":
    transport_kind, new_loop = KINDS[sys.argv[1]]
    options = TlsOptions(cert_path=sys.argv[2]) if len(sys.argv) > 2 else TlsOptions(secure=False)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main(transport_kind, options))
