"""Certificates, tokens and environments: what both sides must agree on."""

from __future__ import annotations

import contextlib
import datetime
import json
import ssl
import stat
import subprocess
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from pytest_mock import MockerFixture

from amlocal.compat import certificates, cloud, environment
from amlocal.compat.tokens import TokenError, TokenIssuer

TARGET = environment.Target("https://localhost:4265", Path("/x/bundle.pem"), "it's $secret", "token")


def test_the_authority_can_only_speak_for_this_machine(tmp_path: Path) -> None:
    files = certificates.ensure(tmp_path)
    authority = x509.load_pem_x509_certificate(files.authority.read_bytes())
    constraints = authority.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    assert {str(name.value) for name in constraints.value.permitted_subtrees} == {
        "localhost",
        "127.0.0.0/8",
        "::1/128",
    }
    server = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    for extension in (x509.AuthorityKeyIdentifier, x509.SubjectKeyIdentifier):
        server.extensions.get_extension_for_class(extension)
        authority.extensions.get_extension_for_class(extension)
    assert not [path for path in tmp_path.iterdir() if b"PRIVATE" in path.read_bytes() and path != files.key]
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600


def test_the_chain_passes_the_strictest_verification(tmp_path: Path) -> None:
    files = certificates.ensure(tmp_path)
    context = ssl.create_default_context(cafile=str(files.bundle))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    listener = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listener.load_cert_chain(files.certificate, files.key)
    client_in, client_out = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_in, server_out = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(client_in, client_out, server_hostname="localhost")
    server = listener.wrap_bio(server_in, server_out, server_side=True)
    for _ in range(4):
        for side in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
            server_in.write(client_out.read())
            client_in.write(server_out.read())
    assert client.getpeercert()["subjectAltName"][0] == ("DNS", "localhost")


def test_certificates_are_kept_until_thirty_days_before_their_end(tmp_path: Path) -> None:
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    first = certificates.ensure(tmp_path, now).certificate.read_bytes()
    assert certificates.ensure(tmp_path, now + datetime.timedelta(days=360)).certificate.read_bytes() == first
    renewed = certificates.ensure(tmp_path, now + datetime.timedelta(days=368))
    assert renewed.certificate.read_bytes() != first
    assert renewed.bundle.read_bytes().endswith(renewed.authority.read_bytes())


def test_a_half_made_set_is_made_again(tmp_path: Path) -> None:
    certificates.ensure(tmp_path).key.unlink()
    files = certificates.ensure(tmp_path)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.certificate, files.key)


def test_tokens_expire_by_the_clock_and_name_their_audience(tmp_path: Path) -> None:
    now = [1_800_000_000.0]
    issuer = TokenIssuer(tmp_path / "key.pem", "https://us", clock=lambda: now[0])
    token = issuer.issue("https://a", lifetime=60, oid="x")
    assert issuer.verify(token, ["https://b", "https://a"])["oid"] == "x"
    with pytest.raises(TokenError, match="audience"):
        issuer.verify(token, ["https://b"])
    now[0] += 61
    with pytest.raises(TokenError, match="expired"):
        issuer.verify(token, ["https://a"])
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600


def test_a_signature_is_checked_once_and_a_forged_one_every_time(
    tmp_path: Path, mocker: MockerFixture
) -> None:
    issuer = TokenIssuer(tmp_path / "key.pem", "https://us")
    token = issuer.issue("https://a")
    decode = mocker.spy(jwt, "decode")
    for _ in range(5):
        issuer.verify(token, ["https://a"])
    assert decode.call_count == 1
    head, payload, _ = token.split(".")
    forged = f"{head}.{payload}.{issuer.issue('https://a').rpartition('.')[2]}"
    for _ in range(2):
        with pytest.raises(TokenError, match="not valid"):
            issuer.verify(forged, ["https://a"])
    assert decode.call_count == 3


def test_the_key_of_another_folder_opens_nothing(tmp_path: Path) -> None:
    ours, theirs = (TokenIssuer(tmp_path / name, "https://us") for name in ("a.pem", "b.pem"))
    with pytest.raises(TokenError, match="not valid"):
        ours.verify(theirs.issue("https://a"), ["https://a"])
    assert TokenIssuer(tmp_path / "a.pem", "https://us").verify(ours.issue("https://a"), ["https://a"])


def test_the_metadata_url_holds_the_resource_manager() -> None:
    record = cloud.metadata("https://localhost:4265")
    assert record["resourceManager"] in cloud.metadata_url("https://localhost:4265")
    assert ".".join(record["portal"].split(".")[2:]) == cloud.AML_RESOURCE.removeprefix("https://ml.azure.")


def test_sh_gives_back_every_value(tmp_path: Path) -> None:
    values = environment.variables(TARGET, {"NO_PROXY": "a b,localhost"})
    script = environment.FORMATS["sh"](values) + "\nenv -0"
    shown = subprocess.run(
        ["sh", "-c", script],
        capture_output=True,
        env={"PATH": "/usr/bin:/bin", "MSI_SECRET": "x"},
        check=True,
    )
    read = dict(item.split("=", 1) for item in shown.stdout.decode().split("\0") if item)
    for key, value in values.items():
        assert read[key] == value
    assert "MSI_SECRET" not in read
    assert read["NO_PROXY"] == "a b,localhost,127.0.0.1,::1"


@pytest.mark.parametrize("name", ["fish", "powershell"])
def test_quotes_are_doubled_or_escaped(name: str) -> None:
    text = environment.FORMATS[name](environment.variables(TARGET, {}))
    assert {"fish": "'it\\'s $secret'", "powershell": "'it''s $secret'"}[name] in text


def test_json_tells_what_to_unset() -> None:
    shown = json.loads(environment.FORMATS["json"](environment.variables(TARGET, {})))
    assert shown["set"]["IDENTITY_HEADER"] == "it's $secret"
    assert "AZURE_CLIENT_SECRET" in shown["unset"]


def test_a_users_own_polling_interval_stays() -> None:
    values = environment.variables(TARGET, {"AZUREML_RUN_POLLING_INTERVAL_MAX": "30"})
    assert values["AZUREML_RUN_POLLING_INTERVAL_MAX"] == "30"
    assert values["AZUREML_RUN_POLLING_INTERVAL_MIN"] == "1"
