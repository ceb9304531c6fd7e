"""Between Envoy and the picker: TLS with a certificate made at start (every other test), with one from a directory, or none."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.data_plane.clients import request

BODY = b'{"model": "m", "prompt": "hello"}'


def certificate(directory: Path) -> Path:
    """Write `tls.crt` and `tls.key` as cert-manager does; return the certificate, which is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "picker")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    directory.mkdir()
    file = directory / "tls.crt"
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "tls.key").write_bytes(private)
    return file


def test_plaintext(lab, fleet):
    with (
        lab.picker(fleet.ports, flags=["--secure-serving=false"]) as picker,
        lab.gateway(picker, picker_tls=False) as gateway,
    ):
        assert request(gateway, "POST", "/v1/completions", BODY).status == 200


def test_a_certificate_of_our_own_is_checked_by_the_gateway(lab, fleet, tmp_path):
    ours, another = certificate(tmp_path / "ours"), certificate(tmp_path / "another")
    with lab.picker(fleet.ports, flags=["--cert-path", str(ours.parent)]) as picker:
        with lab.gateway(picker, picker_ca=ours) as gateway:
            assert request(gateway, "POST", "/v1/completions", BODY).status == 200
        with lab.gateway(picker, picker_ca=another) as gateway:
            assert request(gateway, "POST", "/v1/completions", BODY).status == 500


def test_a_gateway_without_tls_gets_an_error_and_not_a_hang(picker, open_gateway):
    assert request(open_gateway(picker_tls=False), "POST", "/v1/completions", BODY).status == 500
