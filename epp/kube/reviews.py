"""Asks the API server who is behind a token (TokenReview), and whether they may get a URL (SubjectAccessReview).

Both are asked as ourselves, which takes rights in the whole cluster; the chart gives them when metrics authentication is on. The
token goes to the API server and nowhere else: what an error is told from is its status, since the server's own words may repeat
what it was sent.
"""

from typing import Any

import msgspec

from epp.errors import ApiError
from epp.kube.client import Api
from epp.kube.objects import Object
from epp.kube.reflector import MALFORMED
from epp.kube.verdicts import UNKNOWN, Outcome, Verdict

TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 - a path
ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
ACCOUNT_CHARS_MAX = 300
"""Of an account's name, what is kept. A ServiceAccount's is shorter."""


class _User(Object, frozen=True):
    username: str = ""
    uid: str = ""
    groups: list[str] = msgspec.field(default_factory=list)
    extra: dict[str, list[str]] = msgspec.field(default_factory=dict)


class _TokenStatus(Object, frozen=True):
    authenticated: bool = False
    user: _User = _User()


class _TokenReview(Object, frozen=True):
    status: _TokenStatus = _TokenStatus()


class _AccessStatus(Object, frozen=True):
    allowed: bool = False


class _AccessReview(Object, frozen=True):
    status: _AccessStatus = _AccessStatus()


_token_review = msgspec.json.Decoder(_TokenReview).decode
_access_review = msgspec.json.Decoder(_AccessReview).decode


async def review(api: Api, token: str, page: str) -> Verdict:
    """Return what the API server says of a token and a page.

    Args:
        api: entered.
        token: as shown.
        page: a URL's path, such as `/metrics`.

    Raises:
        ApiError: it could not be asked, or we may not ask. The message holds nothing of the token.
    """
    try:
        who = _token_review(await _ask(api, TOKEN_REVIEWS, "authentication.k8s.io/v1", "TokenReview", {"token": token})).status
        if not who.authenticated or not who.user.username:
            return UNKNOWN
        spec = _access_spec(who.user, page)
        access = _access_review(await _ask(api, ACCESS_REVIEWS, "authorization.k8s.io/v1", "SubjectAccessReview", spec))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise ApiError(0, MALFORMED, "not a review") from None
    outcome = Outcome.ALLOWED if access.status.allowed else Outcome.FORBIDDEN
    return Verdict(outcome, who.user.username[:ACCOUNT_CHARS_MAX])


def _access_spec(user: _User, page: str) -> dict[str, Any]:
    who = {"user": user.username, "uid": user.uid, "groups": user.groups, "extra": user.extra}
    return {**who, "nonResourceAttributes": {"path": page, "verb": "get"}}


async def _ask(api: Api, path: str, version: str, kind: str, spec: dict[str, Any]) -> bytes:
    try:
        return await api.send("POST", path, {"apiVersion": version, "kind": kind, "spec": spec})
    except ApiError as error:
        raise ApiError(error.status, error.reason, f"no answer to a {kind}") from None
