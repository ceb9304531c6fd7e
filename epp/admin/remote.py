"""The configuration of a running picker, from the command line: asks its admin port, and says the answer for people to read."""

import http.client
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from epp.errors import ConfigError

TIMEOUT_S = 30.0
"""A rollback may have to read a tokenizer."""
LOCALHOST = ("localhost", "127.0.0.1", "::1")


class _Newest(msgspec.Struct, frozen=True):
    hash: str
    source: str
    held: str | None


class _Refused(msgspec.Struct, frozen=True):
    path: str
    message: str
    source: str
    at: str


class _Trial(msgspec.Struct, frozen=True):
    for_s: float
    requests: int
    error_ratio: float


class _Status(msgspec.Struct, frozen=True):
    pinned: bool
    newest: _Newest | None
    error: _Refused | None
    warnings: tuple[str, ...]
    trial: _Trial | None


class _Generation(msgspec.Struct, frozen=True):
    generation: int
    hash: str
    source: str
    cause: str
    since: str


class Report(_Generation, frozen=True):
    """What is said here of the page `/config`."""

    status: _Status
    previous: tuple[_Generation, ...]


class _Diff(msgspec.Struct, frozen=True):
    diff: tuple[str, ...]


class _No(msgspec.Struct, frozen=True):
    error: str


Answer = TypeVar("Answer")


class Remote:
    """A picker's admin port.

    Args:
        base: such as `http://127.0.0.1:9090`.
        token: what to show where the port asks for authentication; empty for nothing.

    Raises:
        ConfigError: one of them cannot be what it should be.
    """

    def __init__(self, base: str, token: str = "") -> None:
        if not _is_address(base):
            raise ConfigError(f"{base!r} is not an address such as http://127.0.0.1:9090", "--admin")
        if not re.fullmatch("[!-~]*", token):
            raise ConfigError("there is more in it than a token, or something else", "--token-file")
        self._base = base.rstrip("/")
        # Past any proxy of the environment: what comes through one is not taken for localhost.
        self._direct = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=_tls(base)))
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def report(self) -> Report:
        """Return what is in force, and what was.

        Raises:
            ConfigError: nobody answers, or no picker, or the answer is no.
        """
        return self._ask("/config", None, Report)

    def diff(self, query: str) -> tuple[str, ...]:
        """Return the lines that say what changed.

        Raises:
            ConfigError: as `report`.
        """
        return self._ask(f"/config/diff?{query}", None, _Diff).diff

    def order(self, what: str, **details: int | None) -> Report:
        """Have something done; return how things are then.

        Raises:
            ConfigError: as `report`.
        """
        given = {name: value for name, value in details.items() if value is not None}
        return self._ask(f"/config/{what}", msgspec.json.encode(given), Report)

    def _ask(self, path: str, body: bytes | None, kind: type[Answer]) -> Answer:
        place = f"{self._base}{path}"
        request = urllib.request.Request(  # noqa: S310 - the scheme is checked
            place, data=body, headers=self._headers, method="GET" if body is None else "POST"
        )
        try:
            with self._direct.open(request, timeout=TIMEOUT_S) as answer:
                return msgspec.json.decode(answer.read(), type=kind)
        except urllib.error.HTTPError as error:
            raise ConfigError(_why(error), place) from None
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ConfigError(f"this is not what a picker answers: {error}", place) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise ConfigError(f"no picker answers: {getattr(error, 'reason', error)}", self._base) from None


def _is_address(base: str) -> bool:
    try:
        parts = urlsplit(base)
        return re.fullmatch("https?://[!-~]+", base) is not None and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bracket without the other, a port that is none
        return False


def _tls(base: str) -> ssl.SSLContext:
    """Return which certificates are believed: on localhost any, since nobody is between, and it is made out to a Service."""
    context = ssl.create_default_context()
    if urlsplit(base).hostname in LOCALHOST:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def status_lines(report: Report) -> Iterator[str]:
    """Yield what is in force and what stands in the way of the newest."""
    status, newest = report.status, report.status.newest
    yield f"generation {report.generation} ({report.hash}) is in force since {report.since}"
    yield f"  from {report.source}: {report.cause}"
    if status.pinned:
        yield "pinned: nothing else goes in force until `epp config unpin`"
    if newest is not None and newest.held:
        yield f"the newest, {newest.hash} from {newest.source}, stays out: {newest.held}"
    if (error := status.error) is not None:
        place = f"{error.path}: " if error.path else ""
        yield f"refused at {error.at}, from {error.source}: {place}{error.message}"
    if (trial := status.trial) is not None:
        yield f"on trial for {trial.for_s:g} s: {trial.requests} requests, error ratio {trial.error_ratio:g}"
    for warning in status.warnings:
        yield f"warning: {warning}"


def history_lines(report: Report) -> Iterator[str]:
    """Yield the generations, the one in force first."""
    for one in (report, *report.previous):
        yield f"{one.generation:>5}  {one.hash}  {one.since}  {one.cause}, from {one.source}"


def _why(error: urllib.error.HTTPError) -> str:
    """Return the sentence of an answer that says no."""
    with error:
        try:
            return msgspec.json.decode(error.read(), type=_No).error
        except (msgspec.MsgspecError, UnicodeDecodeError, OSError, http.client.HTTPException):
            return f"{error.code} {error.reason}"
