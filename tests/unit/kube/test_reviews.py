"""What the API server is asked of a token, and what is made of its answers."""

import asyncio
import json

import pytest

from epp.errors import ApiError
from epp.kube.reviews import ACCESS_REVIEWS, ACCOUNT_CHARS_MAX, TOKEN_REVIEWS, review
from epp.kube.verdicts import UNKNOWN, Outcome, Verdict
from tests.unit.kube.api_server import hangs_up, refuses, says, serving

TOKEN = "eyJhbGciOi.J9.secret"
USER = {
    "username": "system:serviceaccount:monitoring:prometheus",
    "uid": "u-1",
    "groups": ["system:serviceaccounts", "system:authenticated"],
    "extra": {"authentication.kubernetes.io/pod-name": ["prometheus-0"]},
}
KNOWN = says(201, {"kind": "TokenReview", "spec": {"token": TOKEN}, "status": {"authenticated": True, "user": USER}})


def may(allowed, **more):
    return says(201, {"kind": "SubjectAccessReview", "status": {"allowed": allowed, **more}})


@pytest.fixture
def ask(monkeypatch, tmp_path):
    """Runs a review before a server with these answers; returns the verdict, and paths and bodies of what was asked."""

    def run(*answers, page="/metrics"):
        async def main():
            async with serving(monkeypatch, tmp_path, lists=answers) as (server, api):
                verdict = await review(api, TOKEN, page)
                return verdict, [(one.path, json.loads(body)) for one, body in zip(server.requests, server.bodies, strict=True)]

        return asyncio.run(main())

    return run


def test_who_it_is_and_whether_they_may(ask):
    verdict, ((first, token), (second, access)) = ask(KNOWN, may(True))
    assert verdict == Verdict(Outcome.ALLOWED, USER["username"])
    assert (first, second) == (TOKEN_REVIEWS, ACCESS_REVIEWS)
    assert token == {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": TOKEN}}
    assert access["spec"] == {
        "user": USER["username"],
        "uid": "u-1",
        "groups": USER["groups"],
        "extra": USER["extra"],
        "nonResourceAttributes": {"path": "/metrics", "verb": "get"},
    }


def test_the_right_is_asked_of_the_page(ask):
    assert ask(KNOWN, may(True), page="/decisions")[1][1][1]["spec"]["nonResourceAttributes"]["path"] == "/decisions"


@pytest.mark.parametrize("more", [{}, {"denied": True}, {"evaluationError": "a role is missing"}])
def test_who_may_not(ask, more):
    assert ask(KNOWN, may(False, **more))[0] == Verdict(Outcome.FORBIDDEN, USER["username"])


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"authenticated": False, "error": "invalid bearer token"},
        {"authenticated": False, "user": USER},
        {"authenticated": True},
        {"authenticated": True, "user": {"groups": ["system:masters"]}},
    ],
)
def test_who_is_not_known_is_not_asked_about(ask, status):
    verdict, asked = ask(says(201, {"kind": "TokenReview", "status": status}))
    assert verdict == UNKNOWN
    assert len(asked) == 1


def test_an_answer_without_a_status_lets_nobody_in(ask):
    assert ask(says(201, {}))[0] == UNKNOWN
    assert ask(KNOWN, says(201, {}))[0].outcome is Outcome.FORBIDDEN


def test_a_name_without_end_is_cut(ask):
    known = says(201, {"status": {"authenticated": True, "user": {"username": "x" * 5000}}})
    assert len(ask(known, may(False))[0].account) == ACCOUNT_CHARS_MAX


@pytest.mark.parametrize(
    ("answers", "status", "reason"),
    [
        ((refuses(403, "Forbidden", TOKEN),), 403, "Forbidden"),
        ((KNOWN, refuses(403, "Forbidden", TOKEN)), 403, "Forbidden"),
        ((refuses(400, "BadRequest", f"cannot read {TOKEN}"),), 400, "BadRequest"),
        ((refuses(500, "InternalError", TOKEN),), 500, "InternalError"),
        ((hangs_up,), 0, "Unreachable"),
        ((says(200, b"<html>"),), 0, "Malformed"),
        ((says(200, {"status": {"authenticated": "yes"}}),), 0, "Malformed"),
        ((KNOWN, says(200, {"status": {"allowed": "true"}})), 0, "Malformed"),
    ],
)
def test_what_cannot_be_found_out_is_an_error_that_does_not_hold_the_token(ask, answers, status, reason):
    with pytest.raises(ApiError) as caught:
        ask(*answers)
    assert (caught.value.status, caught.value.reason) == (status, reason)
    assert TOKEN not in str(caught.value)
