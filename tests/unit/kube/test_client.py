"""Asking an API server: what comes back, and every way in which it does not."""

import asyncio
import json
import socket
from itertools import pairwise

import msgspec
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from epp.errors import ApiError
from epp.kube import client
from epp.kube.client import Api, Lines
from tests.unit.kube.api_server import (
    TOKEN,
    hangs_up,
    refuses,
    says,
    says_nothing,
    serving,
    silence,
    streams,
    write_kubeconfig,
)

EMPTY = (says(200, {}),)


@pytest.fixture
def ask(monkeypatch, tmp_path):
    """Runs a coroutine function of (server, api) with a server that plays these scripts."""

    def run(check, *, lists=EMPTY, watches=(), **bounds):
        async def main():
            played = serving(monkeypatch, tmp_path, lists=lists, watches=watches, **bounds)
            async with asyncio.timeout(20), played as (server, api):
                return await check(server, api)

        return asyncio.run(main())

    return run


@pytest.fixture
def error_of(ask):
    """The error that a GET ends with."""

    def run(script, **bounds):
        async def check(server, api):
            with pytest.raises(ApiError) as caught:
                await api.get("/x")
            return caught.value

        return ask(check, lists=[script], **bounds)

    return run


def test_get_asks_with_the_token_and_the_query(ask):
    async def check(server, api):
        assert await api.get("/api/v1/pods", labelSelector="a=b,c in (d)", limit=5) == b'{"a": 1}'
        (request,) = server.requests
        assert request.path == "/api/v1/pods"
        assert dict(request.query) == {"labelSelector": "a=b,c in (d)", "limit": "5"}
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        assert request.headers["User-Agent"] == "epp"

    ask(check, lists=[says(200, {"a": 1})])


def test_send_sends_structs_as_json(ask):
    class Spec(msgspec.Struct, rename="camel"):
        lease_transitions: int

    async def check(server, api):
        assert await api.send("POST", "/leases", {"spec": Spec(3)}) == b"{}"
        await api.send("PATCH", "/leases/a", {"spec": None}, content_type="application/merge-patch+json", fieldManager="epp")
        await api.send("DELETE", "/leases/a")
        post, patch, delete = server.requests
        assert (post.method, post.content_type, json.loads(server.bodies[0])) == (
            "POST",
            "application/json",
            {"spec": {"leaseTransitions": 3}},
        )
        assert (patch.method, patch.content_type, json.loads(server.bodies[1])) == (
            "PATCH",
            "application/merge-patch+json",
            {"spec": None},
        )
        assert patch.query["fieldManager"] == "epp"
        assert (delete.method, server.bodies[2]) == ("DELETE", b"")

    ask(check)


@pytest.mark.parametrize(
    ("script", "status", "reason", "message", "wait_s"),
    [
        (refuses(404, "NotFound", "no pods"), 404, "NotFound", "no pods", 0),
        (refuses(403, "Forbidden"), 403, "Forbidden", "no", 0),
        (refuses(409, "Conflict", "x" * 5000), 409, "Conflict", "x" * client.MESSAGE_CHARS_MAX, 0),
        (refuses(500, "Timeout", retryAfterSeconds=3), 500, "Timeout", "no", 3),
        (says(429, b"slow down", **{"Retry-After": "7"}), 429, "TooManyRequests", "", 7),
        (says(429, b"slow down", **{"Retry-After": "Fri, 31 Dec 1999"}), 429, "TooManyRequests", "", 0),
        (says(502, b"<html>\xff"), 502, "BadGateway", "", 0),
        (says(599, b""), 599, "Status599", "", 0),
        (says(404, b'{"code": "text"}'), 404, "NotFound", "", 0),
    ],
)
def test_what_the_server_refuses(error_of, script, status, reason, message, wait_s):
    error = error_of(script)
    assert (error.status, error.reason, error.message, error.retry_after_s) == (status, reason, message, wait_s)


def test_a_server_that_is_not_there(monkeypatch, tmp_path, unused_port):
    monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "kubeconfig", f"http://127.0.0.1:{unused_port}", token="x")))

    async def main():
        async with Api() as api:
            with pytest.raises(ApiError) as caught:
                await api.get("/x")
            return caught.value

    error = asyncio.run(main())
    assert (error.status, error.reason) == (0, client.UNREACHABLE)


@pytest.fixture
def unused_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_server_that_takes_the_connection_and_says_nothing(error_of):
    assert error_of(says_nothing, timeout_s=0.05).reason == client.TIMED_OUT


def test_a_connection_that_breaks(error_of):
    assert error_of(hangs_up).reason == client.UNREACHABLE


def test_an_answer_that_is_too_long(error_of, monkeypatch):
    monkeypatch.setattr(client, "ANSWER_BYTES_MAX", 1000)
    assert error_of(says(200, b"x" * 1001)).reason == client.TOO_LARGE


async def gather(api, **query):
    return [line async for lines in api.stream("/x", watch="1", **query) for line in lines]


@pytest.mark.parametrize("pieces", [[b"a\nb\n"], [b"a", b"\nb\n"], [b"a\n", b"b\n"], [b"\na\n\n", b"b\r\n"]])
def test_a_stream_comes_in_lines(ask, pieces):
    async def check(server, api):
        assert [line.strip() for line in await gather(api)] == [b"a", b"b"]

    ask(check, watches=[streams(*pieces)])


def test_a_stream_says_at_once_that_it_has_begun(ask):
    async def check(server, api):
        stream = api.stream("/x", watch="1")
        assert await anext(stream) == []
        await stream.aclose()

    ask(check, watches=[silence])


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_the_kernel_watches_over_a_quiet_stream(monkeypatch, tmp_path, run):
    async def main():
        async with asyncio.timeout(20), serving(monkeypatch, tmp_path, lists=EMPTY, watches=[silence]) as (_, api):
            answers, keep_alive = [], client._keep_alive
            monkeypatch.setattr(client, "_keep_alive", lambda answer: (keep_alive(answer), answers.append(answer)))
            stream = api.stream("/x", watch="1")
            await anext(stream)
            peer = answers[0].connection.transport.get_extra_info("socket")
            assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
            await stream.aclose()

    run(main())


@pytest.mark.parametrize(
    ("script", "reason", "bounds"),
    [
        (streams(b"a\nb"), client.TRUNCATED, {}),
        (hangs_up, client.UNREACHABLE, {}),
        (silence, client.TIMED_OUT, {"idle_s": 0.05}),
        (says_nothing, client.TIMED_OUT, {"timeout_s": 0.05}),
        (refuses(410, "Expired"), "Expired", {}),
    ],
)
def test_streams_that_break(ask, script, reason, bounds):
    async def check(server, api):
        with pytest.raises(ApiError) as caught:
            await gather(api)
        return caught.value

    assert ask(check, watches=[script], **bounds).reason == reason


def test_a_line_has_a_longest_length():
    lines = Lines(bytes_max=4)
    assert lines.feed(b"abcd\nab") == [b"abcd"]
    with pytest.raises(ApiError, match=client.TOO_LARGE):
        lines.feed(b"cde")
    with pytest.raises(ApiError, match=client.TOO_LARGE):
        Lines(bytes_max=4).feed(b"abcde\n")


@given(st.lists(st.binary(max_size=8).map(lambda data: data.replace(b"\n", b" ")), max_size=8), st.lists(st.integers(0, 80)))
def test_lines_are_the_same_however_they_are_cut(texts, cuts):
    data = b"".join(text + b"\n" for text in texts)
    cuts = [0, *sorted(cut for cut in cuts if cut <= len(data)), len(data)]
    lines = Lines()
    assert [line for a, b in pairwise(cuts) for line in lines.feed(data[a:b])] == [t for t in texts if t.strip()]
    assert not lines.cut
