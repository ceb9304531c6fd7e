"""The certificate a gRPC server shows: made at start, or read from a directory and read again when it changes.

`grpc_aio` asks for credentials once, at start; with reload, grpc then calls back before every TLS handshake. HTTP/2 by ALPN is
grpc's own doing. The gateway does not verify a self-signed certificate; it protects from listening in, not from an impostor.
"""

import datetime
import logging
import os
import socket
import threading
from dataclasses import dataclass
from pathlib import Path

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
"""Spellings of the one minimum that can be promised; empty means the default, which is the same."""


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

    Raises:
        ConfigError: the pair cannot be read or does not belong together.
    """

    def __init__(self, directory: Path) -> None:
        self._paths = (directory / KEY_FILE, directory / CERTIFICATE_FILE)
        self._lock = threading.Lock()
        try:
            self._seen = self._identity()
            self.pair = self._read()
        except (OSError, ValueError) as error:
            raise ConfigError(f"no usable {CERTIFICATE_FILE} and {KEY_FILE} in {directory}: {error}", "cert-path") from error

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the new pair when the files have changed and fit together, else None: go on with the last good one.

        Called by grpc before every handshake, on a thread of its own choosing. Cost: two `stat` calls when nothing changed.
        """
        with self._lock:
            try:
                identity = self._identity()
                if identity == self._seen:
                    return None
                self._seen = identity
                self.pair = self._read()
            except (OSError, ValueError) as error:
                log.warning("certificate not reloaded", extra={"directory": str(self._paths[0].parent), "why": str(error)})
                return None
        log.info("certificate reloaded", extra={"directory": str(self._paths[0].parent)})
        return grpc.ssl_server_certificate_configuration([self.pair])

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
