"""The server's certificate and the bundle that clients trust.

A certificate authority is made, signs one server certificate, and its key is thrown away unsaved: nobody can
sign another name with it, and name constraints (RFC 5280, 4.2.1.10) keep even that one to this machine.
It never goes into the system's trust store; clients get certifi's roots plus it in one file.
"""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from amlocal.compat.tokens import write_secret

VALID = datetime.timedelta(days=397)
RENEW_BEFORE = datetime.timedelta(days=30)


@dataclass(frozen=True)
class Certificates:
    """Files in PEM form; `bundle` is what REQUESTS_CA_BUNDLE and SSL_CERT_FILE should name."""

    authority: Path
    certificate: Path
    key: Path
    bundle: Path


def ensure(folder: Path, now: datetime.datetime | None = None) -> Certificates:
    """The certificates in `folder`, made or renewed when missing or within 30 days of their end."""
    files = Certificates(
        folder / "ca.pem", folder / "server.pem", folder / "server.key", folder / "bundle.pem"
    )
    moment = now or datetime.datetime.now(datetime.UTC)
    if not _good(files, moment):
        _make(files, moment)
    _write_bundle(files)
    return files


def _good(files: Certificates, now: datetime.datetime) -> bool:
    if not all(path.is_file() for path in (files.authority, files.certificate, files.key)):
        return False
    from cryptography import x509

    ends = x509.load_pem_x509_certificate(files.certificate.read_bytes()).not_valid_after_utc
    return now < ends - RENEW_BEFORE


def _write_bundle(files: Certificates) -> None:
    import certifi

    bundle = Path(certifi.where()).read_bytes().rstrip() + b"\n\n" + files.authority.read_bytes()
    if not files.bundle.is_file() or files.bundle.read_bytes() != bundle:
        write_secret(files.bundle, bundle)


def _make(files: Certificates, now: datetime.datetime) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def usage(*, signs: bool) -> x509.KeyUsage:
        return x509.KeyUsage(
            digital_signature=not signs,
            key_cert_sign=signs,
            crl_sign=signs,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )

    authority_key = ec.generate_private_key(ec.SECP256R1())
    server_key = ec.generate_private_key(ec.SECP256R1())
    begins, ends = now - datetime.timedelta(hours=1), now + VALID
    authority_id = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())
    permitted: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_network("127.0.0.0/8")),
        x509.IPAddress(ipaddress.ip_network("::1/128")),
    ]
    authority = (
        x509.CertificateBuilder()
        .subject_name(name("amlocal local authority"))
        .issuer_name(name("amlocal local authority"))
        .public_key(authority_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(signs=True), critical=True)
        .add_extension(x509.NameConstraints(permitted, None), critical=True)
        .add_extension(authority_id, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_id), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    server = (
        x509.CertificateBuilder()
        .subject_name(name("localhost"))
        .issuer_name(authority.subject)
        .public_key(server_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(server_key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_id), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    write_secret(
        files.key,
        server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    write_secret(files.authority, authority.public_bytes(pem))
    # Last, because its dates decide whether the set is good: a crash before this line makes a new set.
    write_secret(files.certificate, server.public_bytes(pem) + authority.public_bytes(pem))
