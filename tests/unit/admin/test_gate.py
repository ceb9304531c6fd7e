"""Who is let in, who is told what, and how much the API server is asked for it."""

import asyncio
import logging
from contextlib import asynccontextmanager
from itertools import islice

import aiohttp
import pytest
from aiohttp import web

from epp.admin.gate import ASKING_MAX, TOKEN_CHARS_MAX, WAITING_MAX, Gate
from epp.errors import ApiError
from epp.kube.verdicts import UNKNOWN, Outcome, Verdict, Verdicts

ELSEWHERE = {"X-Forwarded-For": "10.1.1.1"}
"""Makes a request over loopback one from outside of the pod."""


class Reviews:
    """An API server's opinion of tokens: their names say what it is."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.now_s = 100.0
        self.error: ApiError | None = None
        self.answers = asyncio.Event()
        self.answers.set()
        self.busy = asyncio.Event()
        """As many as may ask do."""
        self.at_once, self.at_once_max = 0, 0

    async def ask(self, token: str, page: str) -> Verdict:
        self.asked.append((token, page))
        self.at_once += 1
        self.at_once_max = max(self.at_once_max, self.at_once)
        if self.at_once == ASKING_MAX:
            self.busy.set()
        try:
            await self.answers.wait()
        finally:
            self.at_once -= 1
        if self.error is not None:
            raise self.error
        if token.startswith("unknown"):
            return UNKNOWN
        return Verdict(Outcome.ALLOWED if token.startswith("good") else Outcome.FORBIDDEN, f"account-of-{page}")


class Client:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def get(self, path="/metrics", token="", *, scheme="Bearer", headers=ELSEWHERE, method="GET"):
        """Return status, what is said, and the challenge."""
        shown = {"Authorization": f"{scheme} {token}"} if token else {}
        async with self.session.request(method, path, headers={**headers, **shown}) as response:
            said = (await response.json())["error"] if response.status >= 400 and method != "HEAD" else await response.text()
            return response.status, said, response.headers.get("WWW-Authenticate", "")

    async def status(self, *arguments, **more) -> int:
        return (await self.get(*arguments, **more))[0]


@asynccontextmanager
async def serving(reviews: Reviews, **options):
    gate = Gate(reviews.ask, clock=lambda: reviews.now_s, **options)
    app = web.Application(middlewares=[gate.let_in])

    async def page(_request):
        return web.Response(text="page")

    for path in ("/", "/metrics", "/pool", "/decisions", "/decisions/{id}", r"/config/{number:\d+}", "/healthz", "/readyz"):
        app.router.add_get(path, page)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    session = aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}", connector=aiohttp.TCPConnector(limit=0))
    try:
        async with asyncio.timeout(20), session:
            yield Client(session)
    finally:
        await runner.cleanup()


def with_client(check, **options) -> None:
    async def main() -> None:
        reviews = Reviews()
        async with serving(reviews, **options) as client:
            await check(client, reviews)

    asyncio.run(main())


def test_a_token_opens_the_page_it_is_good_for():
    async def check(client, reviews):
        assert await client.get(token="good") == (200, "page", "")
        assert await client.status(token="good", method="HEAD") == 200
        status, said, challenge = await client.get(token="bad")
        assert (status, challenge) == (403, "")
        assert "account-of-/metrics may not get the URL /metrics" in said
        status, said, challenge = await client.get(token="unknown")
        assert (status, challenge) == (401, 'Bearer error="invalid_token"')
        assert "does not know this token" in said

    with_client(check)


def test_without_a_token_the_api_server_is_not_asked():
    async def check(client, reviews):
        for token, scheme in (("", ""), ("good", "Basic"), ("good one", "Bearer"), ("go,od", "Bearer"), ("g\xf6od", "Bearer")):
            status, said, challenge = await client.get(token=token, scheme=scheme)
            assert (status, challenge) == (401, "Bearer")
            assert "a bearer token of an account that may get the URL /metrics" in said
            assert "--metrics-endpoint-auth=false" in said
        assert await client.status(token="g" * (TOKEN_CHARS_MAX + 1)) == 401
        assert reviews.asked == []
        assert await client.status(token="good+/~._-==", scheme="bEARER ") == 200

    with_client(check)


@pytest.mark.parametrize(
    ("path", "page"),
    [
        ("/metrics", "/metrics"),
        ("/metrics?name[]=x", "/metrics"),
        ("/decisions?limit=1", "/decisions"),
        ("/decisions/r7", "/decisions"),
        ("/decisions/healthz", "/decisions"),
        ("/config/3", "/config"),
        ("/", "/"),
        ("/nowhere/at/all", "/"),
        ("/healthz/more", "/"),
        ("/%2fhealthz", "/"),
    ],
)
def test_of_which_url_the_right_is_asked(path, page):
    async def check(client, reviews):
        assert await client.status(path) == 401
        await client.session.get(path, headers={**ELSEWHERE, "Authorization": "Bearer good"})
        assert reviews.asked == [("good", page)]

    with_client(check)


def test_health_is_not_asked_for_a_token():
    async def check(client, reviews):
        for path in ("/healthz", "/readyz", "/readyz?verbose"):
            assert await client.status(path) == 200
            assert await client.status(path, "bad") == 200
        assert await client.status("/healthz", method="POST") == 401
        assert reviews.asked == []

    with_client(check)


def test_whoever_is_in_the_pod_is_let_in():
    async def check(client, reviews):
        assert await client.status(headers={}) == 200
        assert await client.status(headers={"Via": "1.1 proxy"}) == 401
        assert await client.status(headers={"Origin": "http://elsewhere.test"}) == 401
        assert reviews.asked == []

    with_client(check)


def test_an_answer_is_believed_for_a_while():
    async def check(client, reviews):
        for now_s, expected in ((100.0, 1), (159.0, 1), (160.0, 2), (219.0, 2)):
            reviews.now_s = now_s
            assert await client.status(token="good") == 200
            assert len(reviews.asked) == expected
        reviews.asked.clear()
        for now_s, expected in ((300.0, 1), (309.0, 1), (310.0, 2)):
            reviews.now_s = now_s
            assert await client.status(token="bad") == 403
            assert len(reviews.asked) == expected

    with_client(check)


def test_a_good_token_for_one_page_opens_no_other():
    async def check(client, reviews):
        assert await client.status("/metrics", "good") == 200
        assert await client.status("/pool", "good") == 200
        assert reviews.asked == [("good", "/metrics"), ("good", "/pool")]

    with_client(check)


def test_while_the_api_server_is_away_only_who_was_let_in_is_let_in(caplog):
    async def check(client, reviews):
        assert await client.status(token="good") == 200
        reviews.error = ApiError(0, "Unreachable", "no connection")
        assert await client.status(token="good") == 200
        for _ in range(3):
            status, said, _ = await client.get(token="good-too")
            assert (status, said) == (503, "the API server cannot be asked whose token this is (Unreachable)")
        reviews.now_s += 60
        assert await client.status(token="good") == 503
        reviews.error = None
        assert await client.status(token="good") == 200, "a failure is not remembered"
        reviews.error = ApiError(500, "InternalError", "")
        assert await client.status(token="good-too") == 503

    with_client(check)
    assert [one.reason for one in caplog.records] == ["Unreachable", "InternalError"], "one line an outage"


def test_missing_rights_are_named_in_the_answer_and_once_in_the_log(caplog):
    async def check(client, reviews):
        reviews.error = ApiError(403, "Forbidden", "")
        for _ in range(3):
            status, said, _ = await client.get(token="good")
            assert status == 503
            assert "tokenreviews.authentication.k8s.io" in said
            assert "subjectaccessreviews.authorization.k8s.io" in said
            assert "--metrics-endpoint-auth=false" in said

    with_client(check)
    (line,) = caplog.records
    assert line.levelno == logging.WARNING
    assert "tokenreviews" in line.cause


def test_the_log_has_no_token(caplog):
    caplog.set_level(logging.DEBUG)

    async def check(client, reviews):
        for error in (None, ApiError(0, "Unreachable", ""), ApiError(403, "Forbidden", "")):
            reviews.error = error
            await client.get("/pool" if error else "/metrics", "good-secret")

    with_client(check)
    assert "good-secret" not in "".join(str(vars(one)) for one in caplog.records)


def test_many_with_one_token_cost_few_questions():
    async def check(client, reviews):
        reviews.answers.clear()
        asking = [asyncio.create_task(client.status(token="good")) for _ in range(WAITING_MAX)]
        await reviews.busy.wait()
        reviews.answers.set()
        assert set(await asyncio.gather(*asking)) == {200}
        assert len(reviews.asked) == ASKING_MAX

    with_client(check)


def test_strangers_are_bounded_and_keep_no_reader_out():
    async def check(client, reviews):
        assert await client.status(token="good") == 200
        reviews.answers.clear()
        waiting = [asyncio.create_task(client.get(token=f"bad-{i}")) for i in range(WAITING_MAX + 8)]
        for refused in islice(asyncio.as_completed(waiting), 8):
            assert (await refused)[0] == 503
        assert await client.status(token="good") == 200, "known already"
        reviews.answers.set()
        answers = await asyncio.gather(*waiting)
        assert sorted(status for status, _, _ in answers) == [403] * WAITING_MAX + [503] * 8
        assert {said for status, said, _ in answers if status == 503} == {
            "the API server cannot be asked whose token this is (Busy)"
        }
        assert reviews.at_once_max == ASKING_MAX

    with_client(check)


def test_nobody_waits_for_ever():
    async def check(client, reviews):
        reviews.answers.clear()
        asking = [client.get(token=f"good-{i}") for i in range(ASKING_MAX * 2)]
        for status, said, _ in await asyncio.gather(*asking):
            assert (status, said) == (503, "the API server cannot be asked whose token this is (TimedOut)")
        reviews.answers.set()
        assert await client.status(token="good-0") == 200

    with_client(check, wait_s=0.05)


def test_what_is_remembered_is_bounded():
    verdicts = Verdicts(allowed_max=3, denied_max=3)

    async def check(client, reviews):
        for i in range(10):
            assert await client.status(token=f"good-{i}") == 200
            assert await client.status(token=f"bad-{i}") == 403
        assert len(verdicts) == 6

    with_client(check, verdicts=verdicts)
