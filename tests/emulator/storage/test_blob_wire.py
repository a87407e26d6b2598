"""What no well-behaved client sends: hostile names, cut bodies, odd XML, kills."""

from __future__ import annotations

import base64
import hashlib
import os
import time
import uuid
import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.parse import quote

import pytest

ACCOUNT = "aml0123456789ab"
OTHER_ACCOUNT = "amlba9876543210"
BEARER = {"Authorization": f"Bearer for:{ACCOUNT}"}
PUT = {**BEARER, "x-ms-blob-type": "BlockBlob"}

# Target after the container's slash, as it stands on the wire.
HOSTILE = [
    b"..", b"../x", b"../../x", b"a/../x", b"a/..", b"./x", b"a/./b", b".", b"/x", b"//x", b"a//b", b"a/",
    b"a//", b"%2e%2e", b"%2e%2e/x", b"%2e%2e%2fx", b"..%2fx", b"%2E%2E%2F%2E%2E%2Fx", b"a%2f..%2f..%2fx",
    b"a/%2e%2e/%2e%2e/x", b"%2e/x", b"%2fx", b"%2f%2fx", b"%2fetc%2fpasswd", b"a%2f", b"..%5cx", b"%5c",
    b"a%5cb",
    b"%5c%5chost%5cshare", b"a\\b", b"..\\x", b"%00", b"a%00b", b"a%00.txt", b"..%00/x", b"%0a",
    b"a%0db", b"a%0d%0ab",
    b"%09", b"%1b[2J", b"%7f", b"a%c2%80b", b"%c2%9f", b"%c0%ae%c0%ae", b"%c0%ae%c0%ae/x", b"%c0%af",
    b"%e0%80%af",
    b"%f0%80%80%af", b"%ff", b"%fe%ff", b"%80", b"%ed%a0%80", b"%ed%b0%80", b"%ef%bf%bd", b"%ef%bf%be",
    b"%ef%bf%bf",
    b"\xff\xfe", b"\xc0\xae\xc0\xae/x", b"%zz/../x", b"%/../x", b"%2/..",
    b"x" * 256, b"x" * 1025, b"x" * 10_000, b"%c3%a9" * 128, b"a/" * 512 + b"b",
    b"../" * 300 + b"etc/passwd",
]  # fmt: skip
# Odd to look at, and names of files all the same.
PECULIAR = [
    "%", "%2e%2e", "%252e%252e", "%2e%2e;/x", "..;", "...;/x", ";", "a;b=c", "...", "....", "~", "~root",
    "$(id)", "`id`",
    "CON", "nul.txt", "a:b", "a?b", "a#b", "<b>&amp;", "-rf", "a b", " a", "a.", "*", "x.json",
    "x.blocks.json", ".part", "\u202etxt",
    "ｅ", "é", "e\u0301", "x" * 255, "é" * 127, "/".join(["d" * 100] * 10),
]  # fmt: skip


@pytest.fixture
def name() -> str:
    return f"c-{uuid.uuid4()}"


def snapshot(folder: Path) -> set[tuple[str, int]]:
    return {
        (str(path.relative_to(folder)), path.lstat().st_size if path.is_file() else -1)
        for path in folder.rglob("*")
    }


def code_of(headers) -> str | None:
    return headers.get("x-ms-error-code")


def test_hostile_names_write_nothing(blob_server, name):
    assert len(HOSTILE) >= 60
    server = blob_server
    base = f"/{ACCOUNT}/{name}/".encode()
    server.raw("PUT", base + b"a0", PUT, b"here")
    before = snapshot(server.root)
    for target in HOSTILE:
        for method, body in (("PUT", b"evil"), ("GET", None), ("HEAD", None), ("DELETE", None)):
            status, headers, answer = server.raw(method, base + target, PUT, body)
            assert 400 <= status < 500, (method, target, status, answer)
            if headers.get("x-ms-request-id"):
                assert status in (400, 404), (method, target, status)
                if method != "HEAD":
                    assert ET.fromstring(answer).findtext("Code") == code_of(headers)
    assert {entry for entry in snapshot(server.root) if entry[0] != "server.log"} == {
        entry for entry in before if entry[0] != "server.log"
    }
    blocks = snapshot(server.root / "tmp")
    for query in (b"comp=block&blockid=MQ==", b"comp=blocklist", b"comp=metadata"):
        for target in HOSTILE:
            status, _, answer = server.raw("PUT", base + target + b"?" + query, PUT, b"<BlockList/>")
            assert 400 <= status < 500, (query, target, status, answer)
    assert snapshot(server.root / "tmp") == blocks


def test_peculiar_names_are_kept_exactly(blob_server, name):
    folder = blob_server.root / "blobs" / ACCOUNT / name
    for blob in PECULIAR:
        target = f"/{ACCOUNT}/{name}/{quote(blob)}".encode()
        status, _, answer = blob_server.raw("PUT", target, PUT, blob.encode())
        assert status == 201, (blob, answer)
        assert (folder / blob).read_bytes() == blob.encode()
        assert blob_server.raw("GET", target, BEARER)[2] == blob.encode()
    status, _, body = blob_server.raw(
        "GET", f"/{ACCOUNT}/{name}?restype=container&comp=list".encode(), BEARER
    )
    listed = [element.text for element in ET.fromstring(body).iter("Name")]
    assert listed == sorted(set(PECULIAR))


def test_hostile_containers_and_accounts(blob_server, name):
    containers = [
        "..",
        "%2e%2e",
        "AB",
        "ab",
        "A" * 10,
        "a--b",
        "-ab",
        "ab-",
        "a_b",
        "a.b.c",
        "$root",
        "x" * 64,
        "%00aa",
    ]
    for container in containers:
        for target in (f"/{ACCOUNT}/{container}/b", f"/{ACCOUNT}/{container}?restype=container"):
            status, _, answer = blob_server.raw("PUT", target.encode(), PUT, b"x")
            assert 400 <= status < 500, (target, status, answer)
    for account in (
        "aml",
        "amlx123456789ab",
        f"{ACCOUNT}0",
        ACCOUNT.upper(),
        f"{ACCOUNT}.file.core.windows.net",
    ):
        status, headers, answer = blob_server.raw("GET", f"/{account}/{name}/b".encode(), BEARER)
        assert (status, headers.get("x-ms-version")) == (200, None)
        assert answer.startswith(b"another route"), account


def test_links_and_pipes_are_no_blobs(blob_server, name, tmp_path):
    (tmp_path / "secret").write_text("s3cret")
    base = f"/{ACCOUNT}/{name}"
    blob_server.raw("PUT", f"{base}/real/file".encode(), PUT, b"x")
    folder = blob_server.root / "blobs" / ACCOUNT / name
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "out").symlink_to(tmp_path)
    (folder / "inside").symlink_to("real")
    os.mkfifo(folder / "pipe")
    for blob in ("link", "out/secret", "inside/file", "pipe"):
        for method in ("GET", "HEAD", "DELETE"):
            assert blob_server.raw(method, f"{base}/{blob}".encode(), BEARER)[0] == 404, (method, blob)
        status, headers, _ = blob_server.raw(
            "PUT", f"{base}/{blob}?comp=metadata".encode(), {**BEARER, "x-ms-meta-a": "b"}, b""
        )
        assert status == 404
    for blob in ("out/new", "inside/new"):
        status, headers, _ = blob_server.raw("PUT", f"{base}/{blob}".encode(), PUT, b"evil")
        assert (status, code_of(headers)) == (409, "PathConflict")
    # Writing to a link's name replaces the link, not what it points to.
    assert blob_server.raw("PUT", f"{base}/link".encode(), PUT, b"mine")[0] == 201
    assert (tmp_path / "secret").read_text() == "s3cret"
    assert not (folder / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret"]
    _, _, body = blob_server.raw("GET", f"{base}?restype=container&comp=list".encode(), BEARER)
    assert [element.text for element in ET.fromstring(body).iter("Name")] == ["link", "real/file"]


def test_who_may(blob_server, name):
    target = f"/{ACCOUNT}/{name}/b".encode()
    blob_server.raw("PUT", target, PUT, b"x")
    status, headers, body = blob_server.raw("GET", target)
    assert (status, code_of(headers)) == (401, "NoAuthenticationInformation")
    assert headers["WWW-Authenticate"] == "Bearer"
    assert ET.fromstring(body).findtext("Code") == "NoAuthenticationInformation"
    cases = [
        ({"Authorization": "Bearer no"}, 401, "InvalidAuthenticationInfo"),
        ({"Authorization": f"Bearer for:{OTHER_ACCOUNT}"}, 403, "AuthorizationPermissionMismatch"),
    ]
    for credentials, status, code in cases:
        answer = blob_server.raw("GET", target, credentials)
        assert (answer[0], code_of(answer[1])) == (status, code)
        answer = blob_server.raw("HEAD", target, credentials)
        assert (answer[0], code_of(answer[1]), answer[2]) == (status, code, b"")
    sas = blob_server.sas(name, "r").encode()
    assert blob_server.raw("GET", target + b"?" + sas)[0] == 200
    assert blob_server.raw("GET", target + b"?" + sas + b"&sp=racwdl")[0] == 403
    assert blob_server.raw("GET", target + b"?sig=&" + sas)[0] == 403
    assert blob_server.raw("GET", target + b"?sig=%00%ff")[0] == 403
    assert blob_server.raw("GET", target + b"?sig=x", BEARER)[0] == 403


def test_headers_of_an_answer(blob_server, name):
    target = f"/{ACCOUNT}.blob.core.windows.net/{name}/b".encode()
    headers = {**PUT, "x-ms-blob-content-type": "text/html", "x-ms-version": "2026-10-06"}
    headers["x-ms-client-request-id"] = "mine"
    status, answer, _ = blob_server.raw("PUT", target, headers, b"hello")
    assert status == 201
    assert (answer["x-ms-version"], answer["x-ms-client-request-id"]) == ("2026-10-06", "mine")
    assert answer["Content-MD5"] == base64.b64encode(hashlib.md5(b"hello").digest()).decode()
    status, answer, body = blob_server.raw(
        "GET", target, {**BEARER, "x-ms-range": "bytes=1-3", "Range": "bytes=0-0"}
    )
    assert (status, body, answer["Content-Range"]) == (206, b"ell", "bytes 1-3/5")
    assert "Content-MD5" not in answer
    assert answer["Content-Type"] == "text/html"
    assert answer["Content-Security-Policy"].startswith("sandbox")
    assert answer["X-Content-Type-Options"] == "nosniff"
    status, answer, body = blob_server.raw("HEAD", target, BEARER)
    assert (status, answer["Content-Length"], body) == (200, "5", b"")
    status, same, _ = blob_server.raw("GET", target, {**BEARER, "If-None-Match": answer["ETag"]})
    assert status == 304
    assert same["ETag"] == answer["ETag"]
    for unread in ("bytes=3-1", "bytes=-", "lines=1-2", "bytes=0-1,3-4"):
        assert blob_server.raw("GET", target, {**BEARER, "Range": unread})[::2] == (200, b"hello")
    assert blob_server.raw("GET", target, {**BEARER, "Range": "bytes=-2"})[2] == b"lo"
    status, answer, _ = blob_server.raw("GET", target, {**BEARER, "Range": "bytes=5-"})
    assert (status, answer["Content-Range"], code_of(answer)) == (416, "bytes */5", "InvalidRange")


def test_what_is_refused(blob_server, name):
    target = f"/{ACCOUNT}/{name}/b".encode()
    blob_server.raw("PUT", target, PUT, b"kept")
    bomb = b'<!DOCTYPE a [<!ENTITY b "' + b"x" * 100 + b'">]><BlockList><Latest>&b;</Latest></BlockList>'
    cases = [
        ("PUT", b"", {**BEARER}, b"x", 400, "MissingRequiredHeader"),
        ("PUT", b"", {**BEARER, "x-ms-blob-type": "AppendBlob"}, b"x", 400, "InvalidHeaderValue"),
        ("PUT", b"", {**PUT, "Content-MD5": "AAAAAAAAAAAAAAAAAAAAAA=="}, b"x", 400, "Md5Mismatch"),
        ("PUT", b"", {**PUT, "Content-MD5": "nonsense"}, b"x", 400, "InvalidMd5"),
        ("PUT", b"", {**PUT, "x-ms-copy-source": "https://x"}, b"", 400, "UnsupportedHeader"),
        ("PUT", b"", {**PUT, "x-ms-meta-1a": "x"}, b"", 400, "InvalidMetadata"),
        ("PUT", b"", {**PUT, "x-ms-meta-a": "\xe9"}, b"", 400, "InvalidMetadata"),
        ("PUT", b"", {**PUT, "x-ms-meta-a": "x" * 8192}, b"", 400, "MetadataTooLarge"),
        ("PUT", b"", {**PUT, "If-Modified-Since": "soon"}, b"", 400, "InvalidHeaderValue"),
        ("PUT", b"?comp=block", BEARER, b"x", 400, "InvalidQueryParameterValue"),
        ("PUT", b"?comp=block&blockid=%2e%2e/", BEARER, b"x", 400, "InvalidQueryParameterValue"),
        ("PUT", b"?comp=blocklist", BEARER, bomb, 400, "InvalidXmlDocument"),
        ("PUT", b"?comp=blocklist", BEARER, b"", 400, "InvalidXmlDocument"),
        (
            "PUT",
            b"?comp=blocklist",
            BEARER,
            b"<BlockList><Oldest>MQ==</Oldest></BlockList>",
            400,
            "InvalidXmlDocument",
        ),
        ("PUT", b"?comp=blocklist", BEARER, b"<Latest>MQ==</Latest>", 400, "InvalidXmlDocument"),
        (
            "PUT",
            b"?comp=blocklist",
            BEARER,
            b"<BlockList><Latest>MQ==</Latest></BlockList>",
            400,
            "InvalidBlockList",
        ),
        ("PUT", b"?comp=appendblock", BEARER, b"x", 400, "InvalidQueryParameterValue"),
        ("POST", b"", BEARER, b"x", 405, "UnsupportedHttpVerb"),
        ("DELETE", b"?snapshot=2026", BEARER, None, 400, "UnsupportedQueryParameter"),
        ("GET", b"?versionid=2026", BEARER, None, 400, "UnsupportedQueryParameter"),
    ]
    for method, query, headers, body, status, code in cases:
        answer = blob_server.raw(method, target + query, headers, body)
        assert (answer[0], code_of(answer[1])) == (status, code), (method, query, headers, answer)
        assert ET.fromstring(answer[2]).findtext("Code") == code
    assert blob_server.raw("GET", target, BEARER)[2] == b"kept"
    listing = f"/{ACCOUNT}/{name}?restype=container&comp=list&".encode()
    for query in (
        b"maxresults=0",
        b"maxresults=x",
        b"maxresults=-1",
        b"marker=x",
        b"marker=1!%ff",
        b"prefix=%00",
    ):
        status, headers, _ = blob_server.raw("GET", listing + query, BEARER)
        assert status == 400, query
    for query in (b"prefix=..%2f", b"prefix=%2f", b"prefix=" + b"x" * 5000, b"delimiter=" + b"y" * 5000):
        assert blob_server.raw("GET", listing + query, BEARER)[0] == 200


def test_bodies_too_large(blob_server, name):
    target = f"/{ACCOUNT}/{name}/b".encode()
    # Nothing of the body is sent: the answer cannot have waited for it.
    status, headers, _ = blob_server.raw("PUT", target, {**PUT, "Content-Length": str((8 << 20) + 1)})
    assert (status, code_of(headers)) == (413, "RequestBodyTooLarge")
    chunk = b"%x\r\n" % (1 << 20) + b"z" * (1 << 20) + b"\r\n"
    chunked = {**PUT, "Transfer-Encoding": "chunked"}
    status, headers, _ = blob_server.raw("PUT", target, chunked, chunk * 3 + b"0\r\n\r\n")
    assert status == 201
    assert blob_server.raw("HEAD", target, BEARER)[1]["Content-Length"] == str(3 << 20)
    try:
        status, headers, _ = blob_server.raw("PUT", target, chunked, chunk * 12 + b"0\r\n\r\n")
    except OSError:  # the server hung up while we were still sending
        pass
    else:
        assert (status, code_of(headers)) == (413, "RequestBodyTooLarge")
    assert blob_server.raw("HEAD", target, BEARER)[1]["Content-Length"] == str(3 << 20)
    assert not any((blob_server.root / "tmp" / "uploads").iterdir())


def test_a_cut_body_leaves_the_old_blob(blob_server, name):
    target = f"/{ACCOUNT}/{name}/b"
    blob_server.raw("PUT", target.encode(), PUT, b"old")
    with blob_server.connect() as connection:
        _begin_put(connection, target, 2_000_000, b"y" * 1_000_000)
    uploads = blob_server.root / "tmp" / "uploads"
    deadline = time.monotonic() + 20
    while any(uploads.iterdir()):
        assert time.monotonic() < deadline, "the part of the cut upload stays"
        time.sleep(0.02)
    assert blob_server.raw("GET", target.encode(), BEARER)[2] == b"old"


def test_a_killed_server_leaves_no_part(own_blob_server):
    server = own_blob_server
    target = f"/{ACCOUNT}/box/"
    server.raw("PUT", f"{target}kept".encode(), {**PUT, "x-ms-meta-upload_status": "completed"}, b"old")
    server.raw("PUT", f"{target}blocks?comp=block&blockid=MQ==".encode(), BEARER, b"block")
    with server.connect() as connection:
        _begin_put(connection, f"{target}kept", 6_000_000, b"y" * 5_000_000)
        uploads = server.root / "tmp" / "uploads"
        deadline = time.monotonic() + 20
        while sum(part.stat().st_size for part in uploads.iterdir()) < 2_000_000:
            assert time.monotonic() < deadline, "the upload did not arrive"
            time.sleep(0.02)
        server.kill()
    assert any(uploads.iterdir())
    server.start()
    assert not any(uploads.iterdir())
    _, _, body = server.raw("GET", f"/{ACCOUNT}/box?restype=container&comp=list".encode(), BEARER)
    assert [element.text for element in ET.fromstring(body).iter("Name")] == ["kept"]
    status, headers, body = server.raw("GET", f"{target}kept".encode(), BEARER)
    assert (status, body, headers["x-ms-meta-upload_status"]) == (200, b"old", "completed")
    # Blocks outlive the server, as an upload that goes on must find them.
    entry = b"<BlockList><Latest>MQ==</Latest></BlockList>"
    assert server.raw("PUT", f"{target}blocks?comp=blocklist".encode(), BEARER, entry)[0] == 201
    assert server.raw("GET", f"{target}blocks".encode(), BEARER)[2] == b"block"


def _begin_put(connection, target: str, length: int, part: bytes) -> None:
    head = f"PUT {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in PUT.items())
    connection.sendall(head.encode() + b"\r\n" + part)
