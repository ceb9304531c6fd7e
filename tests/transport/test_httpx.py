"""httpx, whose HTTP/2 is the `h2` library's. It shows no trailers; so a status is seen where there is nothing but a status."""

import asyncio
import ssl
from collections.abc import Iterator

import httpx2 as httpx
import pytest

from epp.transport.routes import PROCESS_METHOD
from tests.transport.conftest import Server
from tests.unit.transport.raw import framed

GRPC = {"content-type": "application/grpc", "te": "trailers"}
CHECK = "/grpc.health.v1.Health/Check"
SERVING = framed(b"\x08\x01")
AT_ONCE = 200


def settings(server: Server) -> dict:
    scheme, trust = ("https", ssl.create_default_context(cafile=server.certificate)) if server.certificate else ("http", True)
    return {"base_url": f"{scheme}://{server.address}", "verify": trust, "http1": False, "http2": True, "headers": GRPC}


@pytest.fixture
def client(native: Server) -> Iterator[httpx.Client]:
    with httpx.Client(**settings(native)) as client:
        yield client


def test_a_call(client):
    message = framed(b"hello") + framed(bytes(1_000_000))
    answer = client.post(PROCESS_METHOD, content=message)
    assert answer.http_version == "HTTP/2"
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/grpc"
    assert answer.content == message


def test_a_body_of_unknown_length_in_pieces(client):
    pieces = [framed(bytes(size)) for size in range(0, 200_000, 10_000)]
    assert client.post(PROCESS_METHOD, content=iter(pieces)).content == b"".join(pieces)


def test_the_health_service(client):
    assert client.post(CHECK, content=framed(b"")).content == SERVING


def test_a_status_alone(client):
    headers = client.post("/no.such.Service/Method", content=framed(b"")).headers
    assert (headers["grpc-status"], headers["grpc-message"]) == ("12", "unknown method")


def test_what_is_not_grpc(client):
    assert client.get("/", headers={"content-type": "text/html"}).status_code == 415


def test_many_calls_at_once_on_one_connection(native):
    async def main() -> None:
        async with httpx.AsyncClient(**settings(native), limits=httpx.Limits(max_connections=1), timeout=30) as client:
            messages = [framed(bytes([i % 251]) * (i * 50)) for i in range(AT_ONCE)]
            answers = await asyncio.gather(*(client.post(PROCESS_METHOD, content=message) for message in messages))
            assert [answer.content for answer in answers] == messages

    asyncio.run(main())
