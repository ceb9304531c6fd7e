"""One page after another over one connection: the reader in any pieces, the connection over real sockets."""

import asyncio
from collections.abc import Callable, Coroutine
from ssl import CERT_REQUIRED, PROTOCOL_TLS_SERVER, SSLContext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.errors import ConfigError
from epp.scrape.page_client import HEAD_BYTES_MAX, Cause, Connection, PageReader
from epp.scrape.page_tls import PageTls
from epp.transport.tls import self_signed
from tests.unit.scrape.peers import Peer, serving

PAGE = b"up 1\nup 2\n"
LENGTH = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 10\r\n\r\n" + PAGE
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nup 1\r\n6;x=y\r\n\nup 2\n\r\n0\r\n\r\n"
TRAILERS = CHUNKED[:-2] + b"Expires: never\r\n\r\n"
CLOSES = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + PAGE


def feed(response: bytes, cuts: list[int] | None = None, bytes_max: int = 100) -> tuple[bytes | Cause | None, PageReader]:
    reader, at, result = PageReader(bytes_max), 0, None
    for cut in [*sorted(cuts or []), len(response)]:
        if cut > at and result is None:
            result = reader.feed(response[at:cut])
            at = cut
    return result, reader


@pytest.mark.parametrize("response", [LENGTH, CHUNKED, TRAILERS], ids=["length", "chunked", "trailers"])
@given(cuts=st.lists(st.integers(1, 130), max_size=8))
def test_a_page_in_any_pieces(response, cuts):
    result, reader = feed(response, cuts)
    assert result == PAGE
    assert reader.keep_alive


def test_a_page_that_ends_with_the_connection():
    result, reader = feed(CLOSES)
    assert result is None
    assert reader.end() == PAGE
    assert not reader.keep_alive


@pytest.mark.parametrize("response", [LENGTH[:-1], CHUNKED[:-1], LENGTH[:20], b""])
def test_a_page_cut_short(response):
    result, reader = feed(response)
    assert result is None
    assert reader.end() is Cause.CLOSED


@pytest.mark.parametrize(
    ("response", "cause"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", Cause.STATUS),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", Cause.STATUS),
        (b"SSH-2.0-OpenSSH\r\n\r\n", Cause.MALFORMED),
        (b"x" * HEAD_BYTES_MAX, Cause.MALFORMED),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n", Cause.TOO_LARGE),
        (CLOSES + b"x" * 100, Cause.TOO_LARGE),
        (CHUNKED[:-5] + b"ff\r\n" + b"x" * 255, Cause.TOO_LARGE),
        (CHUNKED[:-5] + b"nonsense\r\n", Cause.MALFORMED),
        (CHUNKED[:-5] + b"-1\r\n", Cause.MALFORMED),
        (CHUNKED.replace(b"up 1\r\n", b"up 1xx"), Cause.MALFORMED),
    ],
)
def test_what_is_no_page(response, cause):
    assert feed(response)[0] is cause


def test_a_connection_that_carries_more_than_the_page_is_not_kept():
    assert not feed(LENGTH + b"x")[1].keep_alive


def test_http_1_0_and_close_are_not_kept():
    assert not feed(LENGTH.replace(b"HTTP/1.1", b"HTTP/1.0"))[1].keep_alive
    assert not feed(LENGTH.replace(b"Server: x", b"connection: Close"))[1].keep_alive


@given(
    st.lists(st.binary(max_size=60) | st.sampled_from([LENGTH[:49], CHUNKED[:45], b"\r\n", b"4\r\n", b"0\r\n\r\n"]), max_size=10)
)
def test_whatever_comes_there_is_an_answer_or_none(pieces):
    reader, result = PageReader(100), None
    for piece in pieces:
        result = reader.feed(piece) if result is None else result
    assert result is None or isinstance(result, bytes | Cause)


def with_server(peer: Peer, script: Callable[[Connection], Coroutine[object, object, None]]) -> None:
    """Run `script` with a connection to a server that handles each TCP connection with `peer`."""

    async def run() -> None:
        async with serving(peer) as port:
            connection = Connection("127.0.0.1", port, b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", bytes_max=1000)
            try:
                await asyncio.wait_for(script(connection), 5)
            finally:
                connection.abandon(Cause.CLOSED)

    asyncio.run(run())


async def page(connection: Connection) -> bytes | Cause:
    future: asyncio.Future[bytes | Cause] = asyncio.get_running_loop().create_future()
    connection.get(future.set_result)
    return await future


def test_the_connection_is_kept():
    opened = []

    async def peer(reader, writer):
        opened.append(1)
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(LENGTH)

    async def script(connection):
        for _ in range(3):
            assert await page(connection) == PAGE
        assert len(opened) == 1

    with_server(peer, script)


def test_a_connection_that_the_server_closed_meanwhile_is_made_anew():
    opened = []

    async def peer(reader, writer):
        opened.append(1)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(LENGTH)

    async def script(connection):
        for _ in range(3):
            assert await page(connection) == PAGE
        assert len(opened) == 3

    with_server(peer, script)


def test_a_server_that_closes_without_an_answer_is_asked_once():
    opened = []

    async def peer(reader, writer):
        opened.append(1)
        await reader.readuntil(b"\r\n\r\n")

    async def script(connection):
        assert await page(connection) is Cause.CLOSED
        assert len(opened) == 1

    with_server(peer, script)


def test_giving_up():
    asked = asyncio.Event()

    async def peer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()

    async def script(connection):
        results: list[bytes | Cause] = []
        connection.get(results.append)
        connection.abandon(Cause.TIMEOUT)  # while connecting
        connection.get(results.append)
        await asked.wait()
        connection.abandon(Cause.TIMEOUT)  # while waiting for the page
        connection.abandon(Cause.TIMEOUT)
        assert results == [Cause.TIMEOUT, Cause.TIMEOUT]

    with_server(peer, script)


def test_bytes_that_nobody_asked_for_close_the_connection():
    async def peer(reader, writer):
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(LENGTH + b"more")

    async def script(connection):
        assert await page(connection) == PAGE
        assert await page(connection) == PAGE

    with_server(peer, script)


def test_nobody_there():
    async def script() -> None:
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        assert await page(Connection("127.0.0.1", port, b"", bytes_max=10)) is Cause.CONNECT

    asyncio.run(script())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    certificate, key = self_signed()
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(certificate + key)
    return path


@pytest.mark.parametrize(("verify", "result"), [(False, PAGE), (True, Cause.CONNECT)])
def test_over_tls(certificate, verify, result):
    async def peer(reader, writer):
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(LENGTH)

    async def script() -> None:
        server = SSLContext(PROTOCOL_TLS_SERVER)
        server.load_cert_chain(certificate)
        async with serving(peer, server) as port:
            connection = Connection("127.0.0.1", port, b"GET / HTTP/1.1\r\n\r\n", bytes_max=100, tls=PageTls(verify=verify).context)
            assert await page(connection) == result
            connection.abandon(Cause.CLOSED)

    asyncio.run(script())


def test_files_that_are_no_certificates(tmp_path):
    with pytest.raises(ConfigError, match="certificates for scraping"):
        PageTls(ca_path=str(tmp_path / "missing.pem"))


def test_files_that_have_changed_are_read_again_and_until_they_fit_together_the_old_ones_stay(tmp_path):
    """A client certificate that was renewed on disk."""
    (old, old_key), (new, new_key), (own, own_key) = self_signed(), self_signed(), self_signed()
    files = {name: tmp_path / name for name in ("client.crt", "client.key", "own.pem", "trusted.pem")}

    async def peer(reader, writer):
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(LENGTH)

    async def script() -> None:
        for name, content in (("client.crt", old), ("client.key", old_key), ("own.pem", own + own_key), ("trusted.pem", new)):
            files[name].write_bytes(content)
        server = SSLContext(PROTOCOL_TLS_SERVER)
        server.load_cert_chain(files["own.pem"])
        server.load_verify_locations(files["trusted.pem"])
        server.verify_mode = CERT_REQUIRED
        tls = PageTls(ca_path=str(files["own.pem"]), cert_path=str(files["client.crt"]), key_path=str(files["client.key"]))
        async with serving(peer, server) as port:
            connection = Connection("127.0.0.1", port, b"GET / HTTP/1.1\r\n\r\n", bytes_max=100, tls=tls.context)
            assert isinstance(await page(connection), Cause)
            files["client.crt"].write_bytes(new)
            assert isinstance(await page(connection), Cause)
            files["client.key"].unlink()
            before = tls.context()
            files["client.key"].write_bytes(new_key)
            assert await page(connection) == PAGE
            assert tls.context() is tls.context() is not before
            connection.abandon(Cause.CLOSED)

    asyncio.run(script())
