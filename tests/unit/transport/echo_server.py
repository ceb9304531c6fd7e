"""A native server that echoes, as a process of its own: prints its port, lives until its standard input ends."""

import asyncio
import sys

import uvloop

from epp.model.stream import Outlet
from epp.transport.base import TransportOptions
from epp.transport.native import NativeTransport
from epp.transport.tls import TlsOptions


class Echo:
    def __init__(self, outlet: Outlet) -> None:
        self.receive = outlet.send

    def half_close(self) -> bool:
        return False

    def end(self) -> None:
        """Nothing to account for."""


async def main() -> None:
    transport = NativeTransport(TransportOptions(host="127.0.0.1", port=0, tls=TlsOptions(secure=False)))
    print(await transport.start(Echo), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await transport.stop(0)


if __name__ == "__main__":
    uvloop.run(main())
