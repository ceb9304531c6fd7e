"""Little HTTP servers on real sockets that are gone when the test is."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ssl import SSLContext

Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(peer: Peer, tls: SSLContext | None = None) -> AsyncIterator[int]:
    """Handle each connection with `peer`, which may end by the client's going; yields the port.

    When the body is done, whatever connections are left must be closed by the client: the peers are waited for.
    """
    peers = set()

    async def quiet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.add(asyncio.current_task())
        try:
            await peer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    server = await asyncio.start_server(quiet, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()
        await asyncio.wait_for(asyncio.gather(*peers), 5)
