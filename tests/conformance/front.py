"""A stand-in for the part of a gateway that reads HTTPRoutes: by host and path it sends a request on to one of several Envoys.

What a gateway does with a picker is done by those Envoys, one for each pool. Runs on an event loop; its rules may be replaced from
any thread.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import aiohttp
from aiohttp import web

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "upgrade"}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Requests to a host under a path, and the Envoys (`host:port`) that they go to, with weights; an empty one answers 503."""

    hosts: Sequence[str]
    """None: every one."""
    prefix: str
    targets: Mapping[str, int]


class Front:
    """Listens at one address. The longest prefix wins; what no rule is for is answered with 404."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self.rules: Sequence[Rule] = ()
        self._runner: web.AppRunner | None = None
        self._client: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        self._client = aiohttp.ClientSession(auto_decompress=False)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()

    async def stop(self) -> None:
        assert self._runner is not None
        assert self._client is not None
        await self._runner.cleanup()
        await self._client.close()

    async def _pass_on(self, request: web.Request) -> web.Response:
        matching = [rule for rule in self.rules if self._matches(rule, request)]
        if not matching:
            return web.Response(status=404)
        targets = max(matching, key=lambda rule: len(rule.prefix)).targets
        target = random.choices(list(targets), weights=list(targets.values()))[0] if targets else ""
        if not target:
            return web.Response(status=503)
        assert self._client is not None
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP]
        url = f"http://{target}{request.path_qs}"
        body = await request.read() or None
        try:
            async with self._client.request(request.method, url, headers=headers, data=body) as answer:
                passed = [(name, value) for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP]
                return web.Response(status=answer.status, headers=passed, body=await answer.read())
        except aiohttp.ClientError as error:
            return web.Response(status=502, text=str(error))

    @staticmethod
    def _matches(rule: Rule, request: web.Request) -> bool:
        prefix = rule.prefix.rstrip("/")
        path_fits = request.path == prefix or request.path.startswith(f"{prefix}/")
        return path_fits and (not rule.hosts or request.host.partition(":")[0] in rule.hosts)
