"""The HTTP port for people and Prometheus: metrics, health, decisions and why, the pool, the strategies, the configuration.

It shows names of models and endpoints and hashes of prompts, no prompt, and is meant for the cluster's own network. On Kubernetes
a reader shows a token (`gate`), elsewhere nothing. Reading changes nothing; the few pages that do change something are for
whoever is in the pod (`guard`).

The composition root starts and stops it. Everything is read when asked for; nothing is kept up to date for this port's sake.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from ssl import SSLContext
from typing import Any

import msgspec
from aiohttp import web

from epp.admin.gate import Gate
from epp.admin.index import INDEX
from epp.admin.page import MetricsPage
from epp.admin.state_json import pool_json, strategies_json
from epp.errors import BadRequest
from epp.sockets import ANY_ADDRESS, listen
from epp.telemetry.health import LIVENESS, HealthState, Serving
from epp.telemetry.metrics import Metrics
from epp.telemetry.sheets import RECORDS_MAX, DecisionRing, render
from epp.telemetry.state_metrics import Sources

log = logging.getLogger(__name__)

LIMIT_DEFAULT = 50
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Admin:
    """The server. All answers but the metrics page and the index are JSON.

    Args:
        sources: pool, strategies and configuration, as they are when asked.
        metrics: what the request path counted.
        decisions: the latest of them.
        health: for `/healthz` and `/readyz`.
        pages: further ones.
        gate: stands before all of them; None lets everybody read.
    """

    def __init__(
        self,
        sources: Sources,
        metrics: Metrics,
        decisions: DecisionRing,
        health: HealthState,
        pages: Iterable[web.RouteDef] = (),
        *,
        gate: Gate | None = None,
    ) -> None:
        self._state = sources
        self._ring = decisions
        self._health = health
        self._page = MetricsPage(metrics, sources)
        self._pages = tuple(pages)
        self._gate = gate
        self._runner: web.AppRunner | None = None

    async def start(self, host: str = ANY_ADDRESS, port: int = 9090, *, tls: SSLContext | None = None) -> int:
        """Listen, over TLS with a context. Returns the bound port.

        Raises:
            OSError: the port cannot be bound.
        """
        app = web.Application(middlewares=[_errors_as_json, *([self._gate.let_in] if self._gate is not None else [])])
        routes: Mapping[str, Handler] = {
            "/": self._index,
            "/metrics": self._metrics,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/decisions": self._decisions,
            "/decisions/{request_id}": self._decision,
            "/pool": self._pool,
            "/strategies": self._strategies,
        }
        app.add_routes([*(web.get(path, handler) for path, handler in routes.items()), *self._pages])
        listening = listen(host, port)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.SockSite(self._runner, listening, ssl_context=tls).start()
        bound: int = listening.getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Close the port; answers under way get a second."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _index(self, _request: web.Request) -> web.Response:
        return web.Response(text=INDEX, content_type="text/html")

    async def _metrics(self, request: web.Request) -> web.Response:
        body, content_type = await self._page.render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _healthz(self, _request: web.Request) -> web.Response:
        return self._serving(self._health.answer(LIVENESS), ())

    async def _readyz(self, _request: web.Request) -> web.Response:
        return self._serving(self._health.answer(""), self._health.reasons(), self._health.remarks())

    @staticmethod
    def _serving(answer: Serving, reasons: tuple[str, ...], remarks: tuple[str, ...] = ()) -> web.Response:
        shown = {"status": answer.name, "reasons": reasons} | ({"remarks": remarks} if remarks else {})
        return _json(shown, 200 if answer is Serving.SERVING else 503)

    async def _decisions(self, request: web.Request) -> web.Response:
        limit, model, endpoint = _limit(request), request.query.get("model"), request.query.get("endpoint")
        found = self._ring.recent(limit, model=model, endpoint=endpoint)
        rendered = await asyncio.to_thread(lambda: [render(one) for one in found])  # a thousand take too long for the loop
        return _json({"kept": len(self._ring), "decisions": rendered})

    async def _decision(self, request: web.Request) -> web.Response:
        found = self._ring.get(request.match_info["request_id"])
        if found is None:
            return _json({"error": "no decision with this request id is kept"}, 404)
        return _json(render(found, rows_max=None))

    async def _pool(self, _request: web.Request) -> web.Response:
        return _json(pool_json(self._state.snapshot(), self._state.clock()))

    async def _strategies(self, _request: web.Request) -> web.Response:
        return _json(strategies_json(self._state.strategies()))


def _limit(request: web.Request) -> int:
    """Return how many decisions are asked for. Raises BadRequest for what is not one of the query's three names, or no number."""
    unknown = set(request.query) - {"limit", "model", "endpoint"}
    if unknown:
        raise BadRequest(f"unknown query parameter {min(unknown)!r}; there are limit, model and endpoint")
    text = request.query.get("limit", str(LIMIT_DEFAULT))
    if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= RECORDS_MAX:
        raise BadRequest(f"limit is a whole number from 1 to {RECORDS_MAX}")
    return int(text)


def _json(content: Mapping[str, Any], status: int = 200) -> web.Response:
    text = msgspec.json.format(msgspec.json.encode(content))  # with line breaks: people read these pages in browsers
    return web.Response(body=text, status=status, content_type="application/json")


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error in JSON; what nobody foresaw is logged, and does not take the process down with it."""
    try:
        return await handler(request)
    except BadRequest as error:
        return _json({"error": error.message}, error.status)
    except web.HTTPException as error:
        return _json({"error": error.reason}, error.status)
    except Exception:
        log.exception("admin page failed", extra={"path": request.path})
        return _json({"error": "internal error"}, 500)
