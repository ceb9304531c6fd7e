"""An echo server, as the conformance suite has them for model servers: answers everything alike, and has no metrics page."""

import json

from aiohttp import web

from epp.model.endpoint import join_host_port


class EchoServer:
    """Says on every path what it was asked and where it is. Started and stopped on an event loop.

    Args:
        host: address to listen on.
        port: to listen on.
        pod: name that it gives itself.
        namespace: likewise.
    """

    def __init__(self, host: str, port: int, pod: str, namespace: str = "") -> None:
        self._host, self._port, self._pod, self._namespace = host, port, pod, namespace
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._echo)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _echo(self, request: web.Request) -> web.Response:
        said = {
            "path": request.path,
            "host": request.host,
            "method": request.method,
            "proto": "HTTP/1.1",
            "body": await request.text(),
            "headers": {name: request.headers.getall(name) for name in request.headers},
            "namespace": self._namespace,
            "pod": self._pod,
            "httpPort": str(self._port),
        }
        headers = {"x-served-by": join_host_port(self._host, self._port), "content-type": "application/json"}  # no charset: the
        return web.Response(body=json.dumps(said).encode(), headers=headers)  # suite reads nothing else as JSON
