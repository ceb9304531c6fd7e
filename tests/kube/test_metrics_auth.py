"""Who may read the admin port, by the word of a real API server, before a picker with the rights that the chart gives it."""

import asyncio
import http.client
import json
from contextlib import asynccontextmanager
from functools import partial

import aiohttp
import pytest
from aiohttp import web

from epp.admin.gate import Gate
from epp.kube.client import Api
from epp.kube.reviews import review
from tests.data_plane.clients import whole
from tests.data_plane.rig import eventually
from tests.kube.namespace import RBAC

ON = "metrics.authentication.enabled=true"
NEIGHBOUR = "127.0.0.6"
"""Comes over loopback and is not localhost: by way of this address a service mesh brings strangers into a pod."""
LETS_IN_NOBODY = "the admin port lets in nobody new"
TOKEN_CACHE_S = 15
"""For how long the API server itself goes on believing in a token (ten seconds), and some more."""


@pytest.fixture
def user(control_plane, namespace):
    """Whom the picker is: with the rights that the chart gives where metrics are to be asked for with a token."""
    return namespace.service_account(cluster_rules=control_plane.chart_rules("metrics-auth-clusterrole", ON))


@pytest.fixture
def reader(control_plane, namespace):
    """Makes an account that the chart's role for readers is bound to; returns a token of it."""

    def make(name: str = "reader") -> str:
        namespace.service_account(name, (), cluster_rules=control_plane.chart_rules("metrics-reader-clusterrole", ON))
        return namespace.token(name)

    return make


def ask(picker, path="/metrics", token="", *, method="GET"):
    """Ask from outside of the pod."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connection = http.client.HTTPConnection(picker.host, picker.port, timeout=15, source_address=(NEIGHBOUR, 0))
    try:
        connection.request(method, path, headers=headers)
        return whole(connection.getresponse())
    finally:
        connection.close()


def said(answer) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["error"]


def test_who_reads_shows_a_token(namespace, pods, rig, user, reader):
    namespace.pool(labels=pods.labels, ports=pods.ports)
    pods.add()
    token = reader()
    namespace.create("serviceaccounts", {"metadata": {"name": "stranger"}})
    with rig.picker(namespace, kubeconfig=user) as picker:
        status, sentence = said(ask(picker))
        assert status == 401
        assert "bearer token" in sentence
        assert ask(picker).header("www-authenticate") == "Bearer"
        for made_up in ("nonsense", token[:-8] + "AAAAAAAA", namespace.token("reader", audiences=["somebody-else"])):
            assert ask(picker, token=made_up).status == 401
        status, sentence = said(ask(picker, token=namespace.token("stranger")))
        assert status == 403
        assert f"system:serviceaccount:{namespace.name}:stranger may not get the URL /metrics" in sentence
        page = ask(picker, token=token)
        assert page.status == 200
        assert b"llm_d_epp_ready_endpoints" in page.body
        for path in ("/", "/pool", "/decisions", "/decisions/x", "/strategies", "/config", "/config/1", "/nowhere"):
            assert ask(picker, path).status == 401
            assert ask(picker, path, token).status == 403, "the chart's role is for the metrics only"
        assert ask(picker, "/config/pin", token, method="POST").status == 403
        assert (ask(picker, "/healthz").status, ask(picker, "/readyz").status) == (200, 200)
        assert picker.page("/pool")["endpoints"], "in the pod no token is wanted"
        assert token not in picker.child.tail()
        assert LETS_IN_NOBODY not in picker.child.tail()


def test_one_who_may_read_another_page(namespace, pods, rig, user):
    namespace.pool(labels=pods.labels, ports=pods.ports)
    namespace.service_account("operator", (), cluster_rules=[{"nonResourceURLs": ["/pool", "/decisions"], "verbs": ["get"]}])
    token = namespace.token("operator")
    with rig.picker(namespace, kubeconfig=user) as picker:
        assert ask(picker, "/pool", token).status == 200
        assert ask(picker, "/decisions?limit=1", token).status == 200
        assert ask(picker, "/decisions/r1", token).status == 404
        assert ask(picker, "/metrics", token).status == 403


def test_while_the_api_server_is_away_only_who_was_known_reads(control_plane, namespace, pods, rig, user, reader):
    namespace.pool(labels=pods.labels, ports=pods.ports)
    known, unknown = reader(), reader("late")
    with rig.picker(namespace, kubeconfig=user) as picker:
        assert ask(picker, token=known).status == 200
        control_plane.stop_api()
        try:
            for _ in range(3):
                assert ask(picker, token=known).status == 200
                status, sentence = said(ask(picker, token=unknown))
                assert status == 503
                assert "the API server cannot be asked whose token this is" in sentence
            assert ask(picker).status == 401
            assert ask(picker, "/healthz").status == 200
        finally:
            control_plane.start_api()
        eventually(lambda: ask(picker, token=unknown).status == 200, "it is asked again")
        assert picker.child.tail().count(LETS_IN_NOBODY) == 1


def test_missing_rights_are_named_and_may_come_later(control_plane, namespace, pods, rig, reader):
    namespace.pool(labels=pods.labels, ports=pods.ports)
    token = reader()
    with rig.picker(namespace) as picker:
        for _ in range(3):
            status, sentence = said(ask(picker, token=token))
            assert status == 503
            for name in ("tokenreviews", "subjectaccessreviews", "--metrics-endpoint-auth=false"):
                assert name in sentence
        assert ask(picker, "/readyz").status == 200
        eventually(lambda: "tokenreviews" in picker.child.tail(), "the log names them, too")
        assert picker.child.tail().count(LETS_IN_NOBODY) == 1
        rules = control_plane.chart_rules("metrics-auth-clusterrole", ON)
        namespace.grant(f"{namespace.name}-late", rules, to="picker", kind="ClusterRole")
        assert ask(picker, token=token).status == 200


def test_turned_off_everybody_reads(namespace, pods, rig):
    namespace.pool(labels=pods.labels, ports=pods.ports)
    with rig.picker(namespace, flags=["--metrics-endpoint-auth=false"]) as picker:
        for path in ("/metrics", "/pool", "/config"):
            assert ask(picker, path).status == 200
        assert ask(picker, "/config/pin", method="POST").status == 403


def test_an_account_that_is_gone_and_a_right_that_was_taken_are_noticed_in_time(namespace, monkeypatch, user, reader):
    """On a clock of our own: until what is remembered runs out nothing changes, then the API server's word counts."""
    monkeypatch.setenv("KUBECONFIG", str(user))
    gone, taken = reader("gone"), reader("taken")
    binding = f"/apis/{RBAC}/v1/clusterrolebindings/{namespace.name}-taken"

    async def main() -> None:
        now_s = 0.0
        async with Api() as api:
            gate = Gate(partial(review, api), clock=lambda: now_s)
            async with serving(gate) as status:
                assert (await status(gone), await status(taken)) == (200, 200)
                await asyncio.to_thread(namespace.api.delete, namespace.path("serviceaccounts", "gone"))
                await asyncio.to_thread(namespace.api.delete, binding)
                now_s = 59.9
                assert (await status(gone), await status(taken)) == (200, 200)
                async with asyncio.timeout(TOKEN_CACHE_S):
                    while (await status(gone), await status(taken)) != (401, 403):
                        now_s += 60.0
                        await asyncio.sleep(0.5)

    asyncio.run(main())


@asynccontextmanager
async def serving(gate: Gate):
    """A page behind a gate: a function that asks for it from outside, with a token, and returns the status."""

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="page")

    app = web.Application(middlewares=[gate.let_in])
    app.router.add_get("/metrics", page)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def status(token: str) -> int:
        async with session.get("/metrics", headers={"Authorization": f"Bearer {token}"}) as answer:
            return answer.status

    try:
        async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(local_addr=(NEIGHBOUR, 0))) as session:
            yield status
    finally:
        await runner.cleanup()
