"""The certificate a server shows: made at start, or read from a directory and read again when it changes.

`grpc_aio` asks for credentials, `native` for a context of the `ssl` module, each once, at start; with reload, grpc or OpenSSL then
calls back during every TLS handshake. The gateway does not verify a self-signed certificate; it protects from listening in, not
from an impostor.
"""

import datetime
import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from epp.errors import ConfigError

log = logging.getLogger(__name__)

CERTIFICATE_FILE = "tls.crt"
KEY_FILE = "tls.key"
SELF_SIGNED_DAYS = 3650

TLS12_NAMES = frozenset({"", "1.2", "TLS12", "TLSv1.2", "VersionTLS12"})
"""Spellings of the lowest version that HTTP/2 may be spoken over (RFC 9113 section 9.2); empty means the default, the same."""
TLS13_NAMES = frozenset({"1.3", "TLS13", "TLSv1.3", "VersionTLS13"})

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: ephemeral and authenticated, none of the list in RFC 9113 appendix A."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions:
    """How the main port is secured."""

    secure: bool = True
    """False: plaintext."""
    cert_path: str = ""
    """Directory with `tls.crt` and `tls.key`; empty: a self-signed certificate is made."""
    reload: bool = False
    """Read the directory again when its files change."""
    min_version: str = ""
    """Lowest TLS version to accept."""


def server_credentials(options: TlsOptions) -> grpc.ServerCredentials | None:
    """Return grpc credentials, or None for plaintext.

    Raises:
        ConfigError: the directory holds no usable pair, or the minimum version cannot be promised.
    """
    if not options.secure:
        return None
    check_min_version(options.min_version)
    if not options.cert_path:
        certificate, key = self_signed()
        return grpc.ssl_server_credentials([(key, certificate)])
    files = CertificateFiles(Path(options.cert_path))
    if not options.reload:
        return grpc.ssl_server_credentials([files.pair])
    initial = grpc.ssl_server_certificate_configuration([files.pair])
    return grpc.dynamic_ssl_server_credentials(initial, files.changed)


def check_min_version(name: str) -> None:
    """Refuse a minimum other than TLS 1.2.

    grpc's servers accept TLS 1.2 and 1.3, and grpcio has no setting for it, neither argument nor environment variable. An older
    client cannot be let in and a TLS 1.2 client cannot be kept out, so a promise of either would be false.

    Raises:
        ConfigError: the value is not a spelling of TLS 1.2.
    """
    if name not in TLS12_NAMES:
        raise ConfigError(
            f"{name!r} cannot be honoured: the gRPC server always accepts TLS 1.2 and 1.3; leave it empty or say VersionTLS12",
            "tls-min-version",
        )


def server_context(options: TlsOptions) -> ssl.SSLContext | None:
    """Return what the `ssl` module needs to serve HTTP/2, or None for plaintext.

    With reload, the context looks at the files during every handshake and goes on with a new context when they have changed.

    Raises:
        ConfigError: the directory holds no usable pair, or the minimum version is none.
    """
    if not options.secure:
        return None
    make = partial(_context, version=minimum_version(options.min_version), protocol="h2")
    if not options.cert_path:
        certificate, key = self_signed()
        return make((key, certificate))
    files = CertificateFiles(Path(options.cert_path))
    return _reloading(files, make) if options.reload else make(files.pair)


def page_context(directory: Path, client_ca_file: Path | None = None) -> ssl.SSLContext:
    """Return what the `ssl` module needs to serve HTTP/1.1 pages. The pair is read again when it changes, the authority is not.

    Args:
        directory: holds `tls.crt` and `tls.key`.
        client_ca_file: a client has to show a certificate of one of these authorities.

    Raises:
        ConfigError: the directory holds no usable pair, or the file no authority.
    """
    authorities = _read_authorities(client_ca_file) if client_ca_file is not None else b""

    def make(pair: tuple[bytes, bytes]) -> ssl.SSLContext:
        context = _context(pair, version=ssl.TLSVersion.TLSv1_2, protocol="http/1.1")
        if authorities:
            context.load_verify_locations(cadata=authorities)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    return _reloading(CertificateFiles(directory, flag="metrics-cert-dir"), make)


def minimum_version(name: str) -> ssl.TLSVersion:
    """Return the version of a name.

    Raises:
        ConfigError: it names none that HTTP/2 can be spoken over.
    """
    if name in TLS12_NAMES:
        return ssl.TLSVersion.TLSv1_2
    if name in TLS13_NAMES:
        return ssl.TLSVersion.TLSv1_3
    raise ConfigError(f"{name!r} is neither VersionTLS12 nor VersionTLS13; HTTP/2 needs TLS 1.2 or 1.3", "tls-min-version")


def _read_authorities(file: Path) -> bytes:
    """Return the certificates of a PEM file in DER, one after the other. Raises ConfigError: there are none."""
    try:
        found = x509.load_pem_x509_certificates(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"no usable certificates in {file}: {error}", "metrics-client-ca-file") from error
    return b"".join(one.public_bytes(serialization.Encoding.DER) for one in found)


def _reloading(files: "CertificateFiles", make: Callable[[tuple[bytes, bytes]], ssl.SSLContext]) -> ssl.SSLContext:
    context = make(files.pair)
    context.sni_callback = _Reload(files, context, make)
    return context


class _Reload:
    """Called by OpenSSL with every ClientHello, whether it names a server or not, on the thread of the handshake: the loop's."""

    def __init__(
        self, files: "CertificateFiles", context: ssl.SSLContext, make: Callable[[tuple[bytes, bytes]], ssl.SSLContext]
    ) -> None:
        self._files = files
        self._context = context
        self._make = make

    def __call__(self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _asked: ssl.SSLContext) -> None:
        if self._files.refresh():
            self._context = self._make(self._files.pair)
        connection.context = self._context


def _context(pair: tuple[bytes, bytes], *, version: ssl.TLSVersion, protocol: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = version
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION  # RFC 9113 section 9.2.1
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols([protocol])
    with _as_file(b"".join(pair)) as path:
        context.load_cert_chain(path)
    return context


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Yield the path of a file: `ssl` takes certificates from nothing else.

    A key should not be copied to a disk, so the file is in memory where the system has such; else in a private directory, gone
    after use.
    """
    try:
        descriptor = os.memfd_create("pair", os.MFD_CLOEXEC)
    except (AttributeError, OSError):  # not Linux; or a sandbox that forbids it
        with TemporaryDirectory(prefix="epp-") as directory:  # 0700
            path = Path(directory) / "pair"
            path.write_bytes(content)
            yield str(path)
        return
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def self_signed() -> tuple[bytes, bytes]:
    """Return a new self-signed certificate and its key, both PEM.

    Cost: under a millisecond; P-256 rather than RSA, whose 4096-bit keys take seconds to make and milliseconds a handshake.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    host = socket.gethostname()[:64]
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "epp"), x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=SELF_SIGNED_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(pem), secret


class CertificateFiles:
    """A certificate and key in a directory, followed through renames and Kubernetes' symlink swaps.

    Args:
        directory: holds `tls.crt` and `tls.key`.
        flag: which names the directory, for the error.

    Raises:
        ConfigError: the pair cannot be read or does not belong together.
    """

    def __init__(self, directory: Path, *, flag: str = "cert-path") -> None:
        self._paths = (directory / KEY_FILE, directory / CERTIFICATE_FILE)
        self._lock = threading.Lock()
        try:
            self._seen = self._identity()
            self.pair = self._read()
        except (OSError, ValueError) as error:
            raise ConfigError(f"no usable {CERTIFICATE_FILE} and {KEY_FILE} in {directory}: {error}", flag) from error

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the new pair for grpc, or None: go on with the last good one.

        Called by grpc before every handshake, on a thread of its own choosing.
        """
        with self._lock:
            return grpc.ssl_server_certificate_configuration([self.pair]) if self.refresh() else None

    def refresh(self) -> bool:
        """Return whether `pair` is another now: the files have changed and fit together. Cost: two `stat` calls when not."""
        try:
            identity = self._identity()
            if identity == self._seen:
                return False
            self._seen = identity
            self.pair = self._read()
        except (OSError, ValueError) as error:
            log.warning("certificate not reloaded", extra={"directory": str(self._paths[0].parent), "why": str(error)})
            return False
        log.info("certificate reloaded", extra={"directory": str(self._paths[0].parent)})
        return True

    def _identity(self) -> tuple[tuple[int, int, int], ...]:
        """Return what changes when a file is rewritten, renamed over, or its symlink is pointed elsewhere."""
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in map(os.stat, self._paths))

    def _read(self) -> tuple[bytes, bytes]:
        """Return key and certificate. Raises ValueError when one is not PEM or the key is of another certificate."""
        key, certificate = (path.read_bytes() for path in self._paths)
        leaf = x509.load_pem_x509_certificates(certificate)[0]
        if serialization.load_pem_private_key(key, password=None).public_key() != leaf.public_key():
            raise ValueError("the key does not belong to the certificate")
        return key, certificate
