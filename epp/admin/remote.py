"""The configuration of a running picker, from the command line: asks its admin port, and says the answer for people to read."""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from epp.errors import ConfigError

TIMEOUT_S = 30.0
"""A rollback may have to read a tokenizer."""
Json = dict[str, Any]

LOCALHOST = ("localhost", "127.0.0.1", "::1")


class Remote:
    """A picker's admin port.

    Args:
        base: such as `http://127.0.0.1:9090`.
        token: what to show where the port asks for authentication; empty for nothing.
    """

    def __init__(self, base: str, token: str = "") -> None:
        if not base.startswith(("http://", "https://")):
            raise ConfigError(f"{base!r} is not an address such as http://127.0.0.1:9090", "--admin")
        self._base = base.rstrip("/")
        # Past any proxy of the environment: what comes through one is not taken for localhost.
        self._direct = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=_tls(base)))
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def get(self, path: str) -> Json:
        """Return a page.

        Raises:
            ConfigError: nobody answers, or the answer is no.
        """
        return self._ask(path, None)

    def post(self, path: str, **order: int | None) -> Json:
        """Have something done; return how things are then.

        Raises:
            ConfigError: as `get`.
        """
        return self._ask(path, json.dumps({name: value for name, value in order.items() if value is not None}).encode())

    def _ask(self, path: str, body: bytes | None) -> Json:
        request = urllib.request.Request(  # noqa: S310 - the scheme is checked
            self._base + path, data=body, headers=self._headers, method="GET" if body is None else "POST"
        )
        try:
            with self._direct.open(request, timeout=TIMEOUT_S) as answer:
                found: Json = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise ConfigError(_why(error), f"{self._base}{path}") from None
        except (OSError, ValueError) as error:
            raise ConfigError(f"no picker answers: {getattr(error, 'reason', error)}", self._base) from None
        return found


def _tls(base: str) -> ssl.SSLContext:
    """Return which certificates are believed: on localhost any, since nobody is between, and it is made out to a Service."""
    context = ssl.create_default_context()
    if urlsplit(base).hostname in LOCALHOST:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def status_lines(report: Json) -> Iterator[str]:
    """Yield what is in force and what stands in the way of the newest."""
    status = report["status"]
    yield f"generation {report['generation']} ({report['hash']}) is in force since {report['since']}"
    yield f"  from {report['source']}: {report['cause']}"
    if status["pinned"]:
        yield "pinned: nothing else goes in force until `epp config unpin`"
    newest = status["newest"]
    if newest and newest["held"]:
        yield f"the newest, {newest['hash']} from {newest['source']}, stays out: {newest['held']}"
    if status["error"]:
        error = status["error"]
        place = f"{error['path']}: " if error["path"] else ""
        yield f"refused at {error['at']}, from {error['source']}: {place}{error['message']}"
    if status["trial"]:
        trial = status["trial"]
        yield f"on trial for {trial['for_s']:g} s: {trial['requests']} requests, error ratio {trial['error_ratio']:g}"
    for warning in status["warnings"]:
        yield f"warning: {warning}"


def history_lines(report: Json) -> Iterator[str]:
    """Yield the generations, the one in force first."""
    for one in (report, *report["previous"]):
        yield f"{one['generation']:>5}  {one['hash']}  {one['since']}  {one['cause']}, from {one['source']}"


def _why(error: urllib.error.HTTPError) -> str:
    """Return the sentence of an answer that says no."""
    with error:
        try:
            return str(json.loads(error.read())["error"])
        except (ValueError, KeyError, TypeError):
            return f"{error.code} {error.reason}"
