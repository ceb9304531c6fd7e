"""An API server that does what it is told, on a real socket: answers of any status, watches that break in any way."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import yaml
from aiohttp import web

from epp.kube.client import Api

TOKEN = "token-of-the-tests"
Script = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ApiServer:
    """Plays scripts: one after the other for requests that list (or send) and for those that watch; the last one stays."""

    def __init__(self, lists: Sequence[Script], watches: Sequence[Script] = ()) -> None:
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self._lists, self._watches = list(lists), [*watches, silence]
        self.url = ""

    @property
    def watched(self) -> list[str]:
        """The versions that watches asked to go on from."""
        return [request.query["resourceVersion"] for request in self.requests if "watch" in request.query]

    @property
    def listed(self) -> int:
        return sum("watch" not in request.query for request in self.requests)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.bodies.append(await request.read())
        scripts = self._watches if "watch" in request.query else self._lists
        script = scripts.pop(0) if len(scripts) > 1 else scripts[0]
        return await script(request)


@asynccontextmanager
async def serving(monkeypatch, tmp_path, *, lists, watches=(), certificates=None, **bounds) -> AsyncIterator[tuple[ApiServer, Api]]:
    """A server that plays these scripts, and a client of it; over TLS with certificates."""
    server = ApiServer(lists, watches)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    tls = None
    if certificates is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificates.server, certificates.server_key)
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "kubeconfig", server.url, token=TOKEN)))
    try:
        async with Api(**bounds) as api:
            yield server, api
    finally:
        await runner.cleanup()


def write_kubeconfig(path, url, *, authority=None, **user):
    cluster = {"server": url} | ({"certificate-authority": str(authority)} if authority else {})
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "tests",
                "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests"}}],
                "clusters": [{"name": "tests", "cluster": cluster}],
                "users": [{"name": "tests", "user": user}],
            }
        )
    )
    return path


def thing(name: str, version: int | str, **fields: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": str(version)}, **fields}


def event(kind: str, name: str, version: int | str, **fields: Any) -> bytes:
    return json.dumps({"type": kind, "object": thing(name, version, **fields)}).encode() + b"\n"


def listing(version: int | str, *objects: dict[str, Any], more: str = "") -> Script:
    """A page of a list; `more` is the token of the next one."""
    page = {"metadata": {"resourceVersion": str(version)} | ({"continue": more} if more else {}), "items": list(objects)}
    return says(200, page)


def says(status: int, body: Any = None, **headers: str) -> Script:
    """A whole answer."""

    async def script(request: web.Request) -> web.Response:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return web.Response(status=status, body=data, headers={"Content-Type": "application/json", **headers})

    return script


def refuses(status: int, reason: str, message: str = "no", **details: Any) -> Script:
    """An answer with a Status object."""
    return says(
        status, {"kind": "Status", "status": "Failure", "code": status, "reason": reason, "message": message, "details": details}
    )


def streams(*pieces: bytes, then: Script | None = None) -> Script:
    """A watch that sends these pieces and ends in good order, or goes on as `then` does."""

    async def script(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        if then is not None:
            await asyncio.Event().wait()
        return response

    return script


async def silence(request: web.Request) -> web.StreamResponse:
    """A watch that begins and then says nothing."""
    response = web.StreamResponse()
    await response.prepare(request)
    await asyncio.Event().wait()
    return response


async def hangs_up(request: web.Request) -> web.StreamResponse:
    """A watch whose connection breaks after it has begun."""
    response = web.StreamResponse()
    await response.prepare(request)
    assert request.transport is not None
    request.transport.abort()
    return response


async def says_nothing(request: web.Request) -> web.StreamResponse:
    """A connection that is taken and never answered."""
    await asyncio.Event().wait()
    raise AssertionError
