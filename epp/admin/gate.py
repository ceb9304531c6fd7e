"""Who may read the admin port on Kubernetes: who shows a token of an account that may get the page's URL, and who is in the pod.

    GET /metrics            Authorization: Bearer ...      may that account `get` the URL /metrics?
    GET /decisions/<id>                                    ... the URL /decisions?
    GET /healthz, /readyz                                  not asked: the kubelet has no token

Whoever may change something (`guard`) may see it without a token. An answer is believed for a while (`epp.kube.verdicts`), which
is also for how long a reader known before is let in while the API server is away; nobody else is then.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable

from aiohttp import web

from epp.admin.guard import why_not
from epp.errors import ApiError
from epp.kube.client import TIMED_OUT
from epp.kube.verdicts import Outcome, Verdict, Verdicts, key_of

OPEN = ("/healthz", "/readyz")
ASKING_MAX = 4
"""Questions under way at once."""
WAITING_MAX = 32
"""Requests that wait for one of those; the next are refused at once."""
WAIT_S = 5.0
"""Longest that one waits. Scrapes rarely wait longer than ten seconds."""
TOKEN_CHARS_MAX = 8000
FORBIDDEN = 403
BUSY = "Busy"
"""More requests wait than may."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Ask = Callable[[str, str], Awaitable[Verdict]]

_BEARER = re.compile(r"bearer +([-A-Za-z0-9._~+/]+=*)", re.IGNORECASE)
_log = logging.getLogger(__name__)


class Gate:
    """Stands before the pages.

    Args:
        ask: what the API server says of a token and a page; raises ApiError.
        clock: monotonic seconds.
        verdicts: what is believed already.
        wait_s: longest that a request waits for the API server.
    """

    def __init__(self, ask: Ask, *, clock: Callable[[], float], verdicts: Verdicts | None = None, wait_s: float = WAIT_S) -> None:
        self._ask = ask
        self._clock = clock
        self._verdicts = Verdicts() if verdicts is None else verdicts
        self._wait_s = wait_s
        self._asking = asyncio.Semaphore(ASKING_MAX)
        self._waiting = 0
        self._warned: set[str] = set()
        """What has been said in the log since the API server last answered; two sentences at most."""

    @web.middleware
    async def let_in(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request as `handler` does, or say why not."""
        page = _page(request)
        if page in OPEN or not why_not(request.remote or "", request.headers):
            return await handler(request)
        token = _token(request)
        if not token:
            return _no_token(page)
        try:
            verdict = await self._judge(token, page)
        except ApiError as error:
            return _refuse(503, self._trouble(error))
        return await handler(request) if verdict.outcome is Outcome.ALLOWED else _denied(verdict, page)

    async def _judge(self, token: str, page: str) -> Verdict:
        """Return what is believed, or what the API server says. Raises ApiError: it does not, or not in time."""
        key = key_of(token, page)
        known = self._verdicts.get(key, self._clock())
        if known is not None:
            return known
        if self._waiting >= WAITING_MAX:
            raise ApiError(0, BUSY, "too many wait for a review")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._wait_s), self._asking:
                known = self._verdicts.get(key, self._clock())  # others may have asked meanwhile
                if known is not None:
                    return known
                asked_s = self._clock()
                verdict = await self._ask(token, page)
        except TimeoutError:
            raise ApiError(0, TIMED_OUT, "no answer to a review") from None
        finally:
            self._waiting -= 1
        self._verdicts.put(key, verdict, asked_s)
        self._warned.clear()
        return verdict

    def _trouble(self, error: ApiError) -> str:
        """Return in a sentence why nobody can be asked; the log has it once until somebody can."""
        sentence = _MAY_NOT_ASK if error.status == FORBIDDEN else _CANNOT_ASK
        if sentence not in self._warned:
            self._warned.add(sentence)
            _log.warning("the admin port lets in nobody new", extra={"reason": error.reason, "cause": sentence})
        return f"{sentence} ({error.reason})"


_CANNOT_ASK = "the API server cannot be asked whose token this is"
_MAY_NOT_ASK = (
    "the picker may not ask the API server whose token this is: its account has to be allowed to create "
    "tokenreviews.authentication.k8s.io and subjectaccessreviews.authorization.k8s.io in the whole cluster, "
    "or the picker started with --metrics-endpoint-auth=false"
)


def _page(request: web.Request) -> str:
    """Return the URL whose right is asked for: of everything below `/decisions` that; of what does not exist `/`."""
    resource = request.match_info.route.resource
    return f"/{resource.canonical.split('/')[1]}" if resource is not None else "/"


def _token(request: web.Request) -> str:
    """Return the token that is shown; empty for none, or what cannot be one."""
    found = _BEARER.fullmatch(request.headers.get("Authorization", ""))
    return found[1] if found is not None and len(found[1]) <= TOKEN_CHARS_MAX else ""


def _no_token(page: str) -> web.Response:
    sentence = (
        f"this wants a bearer token of an account that may get the URL {page}; through kubectl port-forward it wants none, "
        "nor does a picker with --metrics-endpoint-auth=false"
    )
    return _refuse(401, sentence, challenge="Bearer")


def _denied(verdict: Verdict, page: str) -> web.Response:
    if verdict.outcome is Outcome.UNKNOWN:
        sentence = "the API server does not know this token, or not any more"
        return _refuse(401, sentence, challenge='Bearer error="invalid_token"')
    return _refuse(
        403, f"{verdict.account} may not get the URL {page}: a ClusterRole with it among its nonResourceURLs allows that"
    )


def _refuse(status: int, sentence: str, *, challenge: str = "") -> web.Response:
    headers = {"WWW-Authenticate": challenge} if challenge else {}
    return web.json_response({"error": sentence}, status=status, headers=headers)
