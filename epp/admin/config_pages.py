"""Pages of the admin port on the configuration: what is in force, how it came to that, what was before, and the way back.

    GET  /config                     in force, status, history
    GET  /config/3                   what generation 3 was, effective
    GET  /config/diff?from=3&to=5    what changed between two generations; `to` may be left out
    POST /config/rollback            to the one before, or to `{"generation": 3}`; pins
    POST /config/pin, /config/unpin

Errors are those of the server around it: JSON with a sentence. Who may POST is in `guard`.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from difflib import unified_diff
from typing import Any, Protocol

import msgspec
from aiohttp import web

from epp.admin.guard import why_not
from epp.config.reading import read_yaml
from epp.errors import BadRequest, ConfigError

DIFF_LINES_MAX = 20_000
"""Of both sides; comparing takes time in proportion to their product, at worst."""
BODY_BYTES_MAX = 4096
NUMBER = "[0-9]{1,9}"
"""Of a generation, as a pattern; int() takes other digits too, and not any number of them."""


class LiveConfig(Protocol):
    """What the pages show and do."""

    def report(self) -> Mapping[str, Any]:
        """Return status and history, as JSON can hold them."""

    def effective(self, number: int | None = None) -> str:
        """Return a generation's configuration as YAML, of the one in force for None. Raises ConfigError: it is not kept."""

    async def rollback(self, number: int | None) -> None:
        """Go back and pin. Raises ConfigError: it cannot be done."""

    async def pin(self) -> None:
        """Keep what is in force."""

    async def unpin(self) -> None:
        """Follow the sources again. Raises ConfigError: what they brought last cannot be used."""


class _Rollback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    generation: int | None = None


class ConfigPages:
    """The pages.

    Args:
        live: the configuration.
    """

    def __init__(self, live: LiveConfig) -> None:
        self._live = live

    def routes(self) -> list[web.RouteDef]:
        """Return who answers what."""
        return [
            web.get("/config", self._current),
            web.get("/config/diff", self._diff),
            web.get(f"/config/{{number:{NUMBER}}}", self._one),
            web.post("/config/rollback", self._rollback),
            web.post("/config/pin", self._pin),
            web.post("/config/unpin", self._unpin),
        ]

    async def _current(self, _request: web.Request) -> web.Response:
        return _json({**self._live.report(), "effective": await asyncio.to_thread(read_yaml, self._live.effective())})

    async def _one(self, request: web.Request) -> web.Response:
        text = self._effective(int(request.match_info["number"]))
        return _json({"effective": await asyncio.to_thread(read_yaml, text)})

    async def _diff(self, request: web.Request) -> web.Response:
        older, newer = _number(request, "from"), _number(request, "to", needed=False)
        old, new = self._effective(older).splitlines(), self._effective(newer).splitlines()
        if len(old) + len(new) > DIFF_LINES_MAX:
            raise BadRequest("these are too long to be compared here")
        names = f"generation {older}", "in force" if newer is None else f"generation {newer}"
        return _json({"diff": await asyncio.to_thread(lambda: list(unified_diff(old, new, *names, lineterm="")))})

    async def _rollback(self, request: web.Request) -> web.Response:
        wanted = await _order(request)
        return await self._change(request, lambda: self._live.rollback(wanted.generation))

    async def _pin(self, request: web.Request) -> web.Response:
        return await self._change(request, self._live.pin)

    async def _unpin(self, request: web.Request) -> web.Response:
        return await self._change(request, self._live.unpin)

    async def _change(self, request: web.Request, change: Callable[[], Awaitable[None]]) -> web.Response:
        """Do it if whoever asks may, and return how things are then."""
        reason = why_not(request.remote or "", request.headers)
        if reason:
            return _json({"error": reason}, 403)
        try:
            await change()
        except ConfigError as error:
            return _json({"error": str(error)}, 409)
        return _json(self._live.report())

    def _effective(self, number: int | None) -> str:
        try:
            return self._live.effective(number)
        except ConfigError as error:
            raise web.HTTPNotFound(reason=error.message) from None


async def _order(request: web.Request) -> _Rollback:
    body = await request.content.read(BODY_BYTES_MAX)
    try:
        return msgspec.json.decode(body, type=_Rollback) if body.strip() else _Rollback()
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise BadRequest('the body is empty or `{"generation": <number>}`') from None


def _number(request: web.Request, name: str, *, needed: bool = True) -> int | None:
    text = request.query.get(name)
    if text is None and not needed:
        return None
    if text is None or not re.fullmatch(NUMBER, text):
        raise BadRequest(f"{name!r} is the number of a generation, as in /config/diff?from=3&to=5")
    return int(text)


def _json(content: Mapping[str, Any], status: int = 200) -> web.Response:
    text = msgspec.json.format(msgspec.json.encode(content))
    return web.Response(body=text, status=status, content_type="application/json")
