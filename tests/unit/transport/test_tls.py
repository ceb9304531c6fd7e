import asyncio
import logging
import os
import ssl
import tempfile
from pathlib import Path

import grpc
import grpc.aio
import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from epp.errors import ConfigError
from epp.transport.native import NativeTransport
from epp.transport.routes import PROCESS_METHOD
from epp.transport.tls import (
    CertificateFiles,
    TlsOptions,
    check_min_version,
    page_context,
    self_signed,
    server_context,
    server_credentials,
)
from tests.unit.transport.streams import Streams, serving_with


def write_pair(directory: Path, pair: tuple[bytes, bytes]) -> None:
    certificate, key = pair
    (directory / "tls.crt").write_bytes(certificate)
    (directory / "tls.key").write_bytes(key)


def der(pair: tuple[bytes, bytes]) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pair[0].decode())


async def handshake(port: int, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> tuple[str | None, bytes | None]:
    """Return what the server chose by ALPN, and its certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # lets the client offer TLS 1.1, so that the refusal is the server's
    context.set_alpn_protocols(["h2", "http/1.1"])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    connection = writer.get_extra_info("ssl_object")
    try:
        return connection.selected_alpn_protocol(), connection.getpeercert(binary_form=True)
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_default_is_a_self_signed_certificate_and_http2(serving, run, version):
    async def main():
        async with serving(Streams(), tls=TlsOptions()) as (_, port):
            alpn, shown = await handshake(port, version)
            assert alpn == "h2"
            certificate = x509.load_der_x509_certificate(shown)
            assert certificate.issuer == certificate.subject
            assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)

    run(main())


def forbidden(*_: object) -> int:
    raise PermissionError


@pytest.mark.parametrize("how", ["missing", "forbidden"])
def test_where_no_file_can_be_in_memory_a_private_one_is_removed(monkeypatch, tmp_path, how):
    modes: list[int] = []
    load = ssl.SSLContext.load_cert_chain

    def looking(context: ssl.SSLContext, path: str) -> None:
        modes.append(Path(path).parent.stat().st_mode & 0o777)
        load(context, path)

    async def main():
        async with serving_with(NativeTransport, Streams(), tls=TlsOptions()) as (_, port):
            assert (await handshake(port))[0] == "h2"

    if how == "missing":
        monkeypatch.delattr(os, "memfd_create")
    else:
        monkeypatch.setattr(os, "memfd_create", forbidden)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", looking)
    asyncio.run(main())
    assert modes == [0o700]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_older_tls_is_refused(serving, run):
    async def main():
        async with serving(Streams(), tls=TlsOptions()) as (_, port):
            with pytest.raises(ConnectionError):  # cut by the server; had the client balked, it would be an SSLError
                await handshake(port, ssl.TLSVersion.TLSv1_1)

    run(main())


def test_a_certificate_directory_serves_a_verifying_client(serving, run, tmp_path):
    pair = self_signed()
    write_pair(tmp_path, pair)

    async def main():
        async with serving(Streams(), tls=TlsOptions(cert_path=str(tmp_path))) as (_, port):
            trust = grpc.ssl_channel_credentials(root_certificates=pair[0])
            async with grpc.aio.secure_channel(f"localhost:{port}", trust) as channel:
                call = channel.stream_stream(PROCESS_METHOD)()
                await call.write(b"x")
                assert await call.read() == b"x"
                call.cancel()

    run(main())


def test_new_files_are_shown_to_new_connections(serving, run, tmp_path):
    first, second = self_signed(), self_signed()
    write_pair(tmp_path, first)

    async def main():
        async with serving(Streams(), tls=TlsOptions(cert_path=str(tmp_path), reload=True)) as (_, port):
            assert await handshake(port) == ("h2", der(first))
            write_pair(tmp_path, second)
            assert await handshake(port) == ("h2", der(second))

    run(main())


def test_a_swapped_symlink_counts_as_change(tmp_path):
    """A Kubernetes secret volume points `tls.crt` at `..data/tls.crt` and swaps `..data`."""
    pairs = [self_signed(), self_signed()]
    for i, pair in enumerate(pairs):
        (tmp_path / f"v{i}").mkdir()
        write_pair(tmp_path / f"v{i}", pair)
    (tmp_path / "..data").symlink_to("v0")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    files = CertificateFiles(tmp_path)
    assert files.changed() is None
    (tmp_path / "new").symlink_to("v1")
    (tmp_path / "new").replace(tmp_path / "..data")
    assert files.changed() is not None
    assert files.pair == (pairs[1][1], pairs[1][0])


def test_half_a_change_keeps_the_last_good_pair(serving, run, tmp_path, caplog):
    first, second = self_signed(), self_signed()
    write_pair(tmp_path, first)

    async def main():
        async with serving(Streams(), tls=TlsOptions(cert_path=str(tmp_path), reload=True)) as (_, port):
            (tmp_path / "tls.crt").write_bytes(second[0])
            assert await handshake(port) == ("h2", der(first))
            (tmp_path / "tls.key").unlink()
            assert await handshake(port) == ("h2", der(first))
            (tmp_path / "tls.key").write_bytes(second[1])
            assert await handshake(port) == ("h2", der(second))

    with caplog.at_level(logging.INFO):
        run(main())
    messages = [record.getMessage() for record in caplog.records]
    assert messages[-1] == "certificate reloaded"
    assert set(messages[:-1]) == {"certificate not reloaded"}


def test_without_reload_the_first_pair_stays(serving, run, tmp_path):
    first = self_signed()
    write_pair(tmp_path, first)

    async def main():
        async with serving(Streams(), tls=TlsOptions(cert_path=str(tmp_path))) as (_, port):
            write_pair(tmp_path, self_signed())
            assert await handshake(port) == ("h2", der(first))

    run(main())


@pytest.mark.parametrize("damage", ["missing", "garbage", "foreign key"])
def test_an_unusable_directory_is_a_configuration_error(tmp_path, damage):
    write_pair(tmp_path, self_signed())
    match damage:
        case "missing":
            (tmp_path / "tls.key").unlink()
        case "garbage":
            (tmp_path / "tls.crt").write_text("not a certificate")
        case "foreign key":
            (tmp_path / "tls.key").write_bytes(self_signed()[1])
    with pytest.raises(ConfigError) as caught:
        server_credentials(TlsOptions(cert_path=str(tmp_path)))
    assert caught.value.path == "cert-path"


def test_plaintext_needs_no_credentials():
    assert server_credentials(TlsOptions(secure=False)) is None


@pytest.mark.parametrize("name", ["", "VersionTLS12", "1.2", "TLSv1.2"])
def test_the_minimum_that_holds_is_accepted(name):
    check_min_version(name)


@pytest.mark.parametrize("name", ["VersionTLS10", "VersionTLS11", "VersionTLS13", "1.3", "nonsense"])
def test_a_minimum_that_would_not_hold_is_refused(name):
    with pytest.raises(ConfigError, match=r"TLS 1\.2 and 1\.3"):
        server_credentials(TlsOptions(min_version=name))


@pytest.mark.parametrize(
    ("name", "version"), [("", "TLSv1_2"), ("VersionTLS12", "TLSv1_2"), ("1.3", "TLSv1_3"), ("VersionTLS13", "TLSv1_3")]
)
def test_the_native_transport_keeps_either_minimum(name, version):
    assert server_context(TlsOptions(min_version=name)).minimum_version is ssl.TLSVersion[version]


@pytest.mark.parametrize("name", ["VersionTLS10", "VersionTLS11", "nonsense"])
def test_the_native_transport_refuses_what_http2_may_not_be_spoken_over(name):
    with pytest.raises(ConfigError, match=r"TLS 1\.2 or 1\.3"):
        server_context(TlsOptions(min_version=name))


def test_the_native_transport_needs_a_usable_directory(tmp_path):
    assert server_context(TlsOptions(secure=False)) is None
    with pytest.raises(ConfigError) as caught:
        server_context(TlsOptions(cert_path=str(tmp_path)))
    assert caught.value.path == "cert-path"


class Page(asyncio.Protocol):
    """A server of one page."""

    def connection_made(self, transport):
        transport.write(b"page")
        transport.close()


def pages(context, check) -> None:
    """Run a coroutine function of the port of a server that has this context."""

    async def main():
        loop = asyncio.get_running_loop()
        async with await loop.create_server(Page, "127.0.0.1", 0, ssl=context) as server:
            await check(server.sockets[0].getsockname()[1])

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_pages_are_not_http2_and_a_new_certificate_is_shown(tmp_path):
    first, second = self_signed(), self_signed()
    write_pair(tmp_path, first)

    async def check(port):
        assert await handshake(port) == ("http/1.1", der(first))
        write_pair(tmp_path, second)
        assert await handshake(port, ssl.TLSVersion.TLSv1_2) == ("http/1.1", der(second))

    pages(page_context(tmp_path), check)


def test_pages_are_not_shown_over_older_tls(tmp_path):
    write_pair(tmp_path, self_signed())
    assert page_context(tmp_path).minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("shown", ["none", "foreign", "trusted"])
def test_only_who_shows_a_certificate_of_the_authorities_sees_pages(tmp_path, shown):
    certificates = {"trusted": self_signed(), "foreign": self_signed()}
    write_pair(tmp_path, self_signed())
    (tmp_path / "ca.crt").write_bytes(certificates["trusted"][0])
    client = ssl.create_default_context()
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    if shown in certificates:
        (tmp_path / "client").write_bytes(b"".join(certificates[shown]))
        client.load_cert_chain(tmp_path / "client")

    async def check(port):
        write_pair(tmp_path, self_signed())  # holds for the context that comes after a change, too
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        try:
            seen = await reader.read()
        except (ssl.SSLError, ConnectionError):  # with TLS 1.3 the client is told after its part of the handshake
            seen = b""
        writer.transport.abort()
        assert seen == (b"page" if shown == "trusted" else b"")

    pages(page_context(tmp_path, tmp_path / "ca.crt"), check)


@pytest.mark.parametrize("content", [None, b"", b"not a certificate"])
def test_authorities_that_cannot_be_read_are_a_configuration_error(tmp_path, content):
    write_pair(tmp_path, self_signed())
    if content is not None:
        (tmp_path / "ca.crt").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        page_context(tmp_path, tmp_path / "ca.crt")
    assert caught.value.path == "metrics-client-ca-file"
    with pytest.raises(ConfigError) as caught:
        page_context(tmp_path / "nowhere")
    assert caught.value.path == "metrics-cert-dir"
