"""Asks the Kubernetes API server: bytes out, bytes in.

The official client library brings the configuration (`access`), the connections and the credentials; its models are left alone,
since making one of a pod costs thirty times what decoding the fields that are used does (`objects`). So are its watches
(`reflector` has ours).

What it protects from: answers and lines without end, a server that takes a connection and then says nothing, and the errors of four
libraries: whatever goes wrong is an `ApiError`.
"""

import asyncio
import logging
import math
import socket
import time
from collections.abc import AsyncGenerator
from http import HTTPStatus
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import urlencode

import aiohttp
import msgspec

from epp.errors import ApiError, ConfigError
from epp.kube.access import load_access

if TYPE_CHECKING:
    from kubernetes.aio.client import ApiClient

TIMEOUT_S = 30.0
"""Longest wait for a whole answer."""
CONNECT_TIMEOUT_S = 5.0
IDLE_S = 90.0
"""Longest silence of a watch. The server sends a bookmark about once a minute."""
RENEWAL_S = 60.0
"""Least time between two readings of the configuration because it seems to be out of date."""
ANSWER_BYTES_MAX = 64 << 20
"""Longest answer, decompressed. A page of a list is 100 objects of rarely more than 20 kB."""
LINE_BYTES_MAX = 8 << 20
"""Longest line of a watch. An object that etcd takes is at most 1.5 MB, its JSON somewhat longer."""
MESSAGE_CHARS_MAX = 500
"""Of a server's sentence, what is kept."""
JSON = "application/json"

UNREACHABLE = "Unreachable"
"""No connection, or it broke."""
TIMED_OUT = "TimedOut"
"""No answer in time, or a watch in which nothing came."""
TOO_LARGE = "TooLarge"
"""Longer than the bounds above."""
TRUNCATED = "Truncated"
"""A watch that ended in the middle of a line."""

_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""Of a watch's connection, where the system has the option: a server that vanished without a word is noticed in half a minute, not
with the next bookmark."""


_log = logging.getLogger(__name__)


class _Details(msgspec.Struct, frozen=True):
    retry_after_s: float = msgspec.field(name="retryAfterSeconds", default=0.0)


class Status(msgspec.Struct, frozen=True):
    """What the API server says when it says no: its `Status` object."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details | None = None


class Lines:
    """Cuts what comes into lines.

    Args:
        bytes_max: of one line.
    """

    def __init__(self, bytes_max: int = LINE_BYTES_MAX) -> None:
        self._max = bytes_max
        self._rest: list[bytes] = []
        self._rest_bytes = 0

    @property
    def cut(self) -> bool:
        """Whether a line has begun and not ended."""
        return self._rest_bytes > 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that `data` completes, without their ends; empty ones are left out.

        Raises:
            ApiError: a line is too long.
        """
        *whole, rest = data.split(b"\n")
        if whole:
            whole[0] = b"".join((*self._rest, whole[0]))
            self._rest, self._rest_bytes = [], 0
        if rest:
            self._rest.append(rest)
            self._rest_bytes += len(rest)
        if self._rest_bytes > self._max or any(len(line) > self._max for line in whole):
            raise ApiError(0, TOO_LARGE, f"a line of more than {self._max} bytes")
        return [line for line in whole if line.strip()]


class Api:
    """The API server. An asynchronous context manager: the connections live as long as it does.

    Tokens are read again before they are old (`access`). When a certificate or a token is not believed, theirs or ours, the whole
    configuration is: authorities are replaced while a picker runs.

    Args:
        timeout_s: longest wait for a whole answer.
        idle_s: longest silence of a stream.
    """

    def __init__(self, *, timeout_s: float = TIMEOUT_S, idle_s: float = IDLE_S) -> None:
        connect_s = min(timeout_s, CONNECT_TIMEOUT_S)
        self._timeout_s = timeout_s
        self._whole = aiohttp.ClientTimeout(total=timeout_s, sock_connect=connect_s)
        self._endless = aiohttp.ClientTimeout(sock_connect=connect_s, sock_read=idle_s)
        self._client: ApiClient | None = None
        self._former: ApiClient | None = None
        """The one before, which may be in use still."""
        self._doubted = False
        self._read_s = -math.inf

    async def __aenter__(self) -> Self:
        """Read the configuration; nothing is asked yet.

        Raises:
            ConfigError: there is no Kubernetes to be found, or its configuration cannot be used.
        """
        await self._connect()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the connections."""
        for client in (self._client, self._former):
            if client is not None:
                await client.close()

    async def get(self, path: str, **query: str | int) -> bytes:
        """Return what is at a path.

        Raises:
            ApiError: the server said no or could not be asked.
        """
        return await self._ask("GET", path, query)

    async def send(self, method: str, path: str, body: object = None, *, content_type: str = JSON, **query: str | int) -> bytes:
        """Send an object, or delete one, and return the answer.

        Args:
            method: POST, PUT, PATCH or DELETE.
            path: of the object, or of the collection it is to be in.
            body: what becomes JSON: built-in types or msgspec structs; None for none.
            content_type: of a PATCH, which kind of patch.
            query: `fieldManager`, `dryRun` and so on.

        Raises:
            ApiError: the server said no or could not be asked.
        """
        return await self._ask(method, path, query, None if body is None else msgspec.to_builtins(body), content_type)

    async def stream(self, path: str, **query: str | int) -> AsyncGenerator[list[bytes], None]:
        """Yield the lines of an answer as they come, all that have come at once together; ends when the server ends it.

        The first list is empty: the answer has begun. To be closed by whoever leaves it early (`contextlib.aclosing`).

        Raises:
            ApiError: the server said no, could not be asked, fell silent, broke off in a line, or sent one that is too long.
        """
        lines = Lines()
        answer = await self._open("GET", path, query, None, JSON, self._endless)
        try:
            _keep_alive(answer)
            yield []
            async for data in answer.content.iter_any():
                if whole := lines.feed(data):
                    yield whole
        except (aiohttp.ClientError, OSError) as error:
            raise _unanswered(error) from None
        finally:
            answer.close()
        if lines.cut:
            raise ApiError(0, TRUNCATED, "the stream ended in the middle of a line")

    async def _ask(
        self, method: str, path: str, query: dict[str, str | int], body: object = None, content_type: str = JSON
    ) -> bytes:
        answer = await self._open(method, path, query, body, content_type, self._whole)
        try:
            return await _read(answer)
        except (aiohttp.ClientError, OSError) as error:
            raise _unanswered(error) from None
        finally:
            answer.release()

    async def _open(
        self, method: str, path: str, query: dict[str, str | int], body: object, content_type: str, bounds: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        """Return an answer whose head has come and says yes."""
        client = await self._current()
        headers = {"Accept": JSON, "Content-Type": content_type}
        url = f"{path}?{urlencode(query)}" if query else path
        answer: aiohttp.ClientResponse
        try:
            async with asyncio.timeout(self._timeout_s):
                request = await client.param_serialize(method, url, header_params=headers, body=body, auth_settings=["BearerToken"])
                answer = (await client.call_api(*request, _request_timeout=bounds)).response
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self._doubted |= isinstance(error, (aiohttp.ClientSSLError, aiohttp.ClientConnectorCertificateError))
            raise _unanswered(error) from None
        self._doubted |= answer.status == HTTPStatus.UNAUTHORIZED
        if answer.status < 400:
            return answer
        try:
            raise _refused(answer.status, await _read(answer), answer.headers.get("Retry-After", ""))
        except (aiohttp.ClientError, OSError) as error:
            raise _unanswered(error) from None
        finally:
            answer.release()

    async def _connect(self) -> None:
        """Begin anew with the configuration as it is now."""
        configuration = await load_access()
        from kubernetes.aio.client import ApiClient  # noqa: PLC0415

        former, self._former, self._client = self._former, self._client, ApiClient(configuration)
        self._client.user_agent = "epp"
        self._read_s = time.monotonic()
        if former is not None:
            await former.close()

    async def _current(self) -> "ApiClient":
        """Return the client to ask by: another one when who we or they are was doubted."""
        assert self._client is not None, "not entered"
        if self._doubted and time.monotonic() - self._read_s >= RENEWAL_S:
            self._doubted, self._read_s = False, time.monotonic()
            try:
                await self._connect()
            except ConfigError as error:
                _log.warning("the Kubernetes configuration cannot be read again", extra={"error": str(error)})
        return self._client


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    """Return the body, if it is not too long."""
    parts: list[bytes] = []
    size = 0
    async for data in answer.content.iter_any():
        size += len(data)
        if size > ANSWER_BYTES_MAX:
            answer.close()
            raise ApiError(0, TOO_LARGE, f"an answer of more than {ANSWER_BYTES_MAX} bytes")
        parts.append(data)
    return b"".join(parts)


def _keep_alive(answer: aiohttp.ClientResponse) -> None:
    """Have the kernel notice when the peer of a quiet connection is gone."""
    transport = answer.connection.transport if answer.connection is not None else None
    peer = transport.get_extra_info("socket") if transport is not None else None
    if peer is not None:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            if hasattr(socket, option):
                peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _refused(status: int, body: bytes, retry_after: str) -> ApiError:
    """Return the error that an answer stands for."""
    try:
        said = msgspec.json.decode(body, type=Status)
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = Status()
    wait_s = float(retry_after) if retry_after.isdecimal() else said.details.retry_after_s if said.details is not None else 0.0
    return ApiError(status, said.reason or _reason(status), said.message[:MESSAGE_CHARS_MAX], retry_after_s=wait_s)


def _reason(status: int) -> str:
    """Return what the API server calls a status that came without its `Status` object, from a proxy for instance."""
    try:
        return HTTPStatus(status).phrase.replace(" ", "").replace("-", "")
    except ValueError:
        return f"Status{status}"


def _unanswered(error: Exception) -> ApiError:
    """Return the error for a connection that failed."""
    late = isinstance(error, (asyncio.TimeoutError, aiohttp.ServerTimeoutError))
    return ApiError(0, TIMED_OUT if late else UNREACHABLE, str(error)[:MESSAGE_CHARS_MAX] or type(error).__name__)
