"""The certificates of a control plane that lives for one run: authority, API server, administrator; a signing key."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID = timedelta(days=2)
SERVER_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
ADMINISTRATORS = "system:masters"
"""The group that the API server lets do everything, whatever the rules say."""

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, kw_only=True)
class Certificates:
    """Files in PEM."""

    authority: Path
    server: Path
    server_key: Path
    admin: Path
    admin_key: Path
    service_account_key: Path
    """Signs the tokens of ServiceAccounts. RSA, as the tokens' readers expect."""


def make(directory: Path) -> Certificates:
    """Write them all below `directory`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("control plane of the tests")
    ca = x509.BasicConstraints(ca=True, path_length=None)
    authority = _certificate(name, key, issuer=name, issuer_key=key, extensions=[(ca, True)])

    def issue(what: str, subject: x509.Name, *extensions: x509.ExtensionType) -> tuple[Path, Path]:
        own = ec.generate_private_key(ec.SECP256R1())
        made = _certificate(subject, own, issuer=name, issuer_key=key, extensions=[(one, False) for one in extensions])
        return _write(directory / f"{what}.crt", made), _write(directory / f"{what}.key", own)

    hosts = x509.SubjectAlternativeName(
        [x509.IPAddress(ip_address("127.0.0.1")), *(x509.DNSName(host) for host in SERVER_NAMES)],
    )
    server, server_key = issue("server", _name("kube-apiserver"), hosts, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]))
    client = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    admin, admin_key = issue("admin", _name("admin", organization=ADMINISTRATORS), client)
    return Certificates(
        authority=_write(directory / "authority.crt", authority),
        server=server,
        server_key=server_key,
        admin=admin,
        admin_key=admin_key,
        service_account_key=_write(directory / "service-account.key", rsa.generate_private_key(65537, 2048)),
    )


def _name(common: str, *, organization: str = "") -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)] if organization else []
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _certificate(subject, key, *, issuer, issuer_key, extensions) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + VALID)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(issuer_key, hashes.SHA256())


def _write(path: Path, what: x509.Certificate | PrivateKey) -> Path:
    if isinstance(what, x509.Certificate):
        path.write_bytes(what.public_bytes(serialization.Encoding.PEM))
    else:
        kind = serialization.PrivateFormat.TraditionalOpenSSL
        path.write_bytes(what.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption()))
    return path
