"""Hostile text in every place of a Blob request, and bodies that come slowly or stop."""

from __future__ import annotations

import http.client
import os
import random
import ssl
import time
import uuid
import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import pytest

ACCOUNT = "aml0123456789ab"
BEARER = {"Authorization": f"Bearer for:{ACCOUNT}"}
PUT = {**BEARER, "x-ms-blob-type": "BlockBlob"}
ATOMS = (
    "../", "..", "./", "%2e%2e", "%2e%2e%2f", "%252e%252e%252f", "..%5c", "%5c", ";", "%00",
    "%c0%ae%c0%ae%c0%af",
    "$(id)", "%60id%60", "%7c", "%0d%0a", "%ff%fe", "%e2%80%ae", "%27%22", "%3Cscript%3E", "*", "%20", "~",
    "%ed%a0%80", "%f0%9f%98%80", "%1b%5b2J", "%ef%bf%bf",
)  # fmt: skip
QUERIES = (
    "comp", "restype", "prefix", "delimiter", "marker", "maxresults", "include", "blockid", "blocklisttype",
    "versionid", "snapshot", "timeout", "sig", "se", "sv",
)  # fmt: skip
HEADERS = (
    "Range", "x-ms-range", "Content-MD5", "x-ms-blob-content-md5", "x-ms-meta-a", "x-ms-blob-content-type",
    "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "x-ms-version", "x-ms-date",
    "x-ms-client-request-id", "x-ms-blob-type", "x-ms-copy-source", "x-ms-range-get-content-md5",
    "x-ms-lease-id", "x-ms-access-tier", "x-ms-tags", "Authorization", "Content-Type",
)  # fmt: skip


def names(number: int) -> list[str]:
    """Percent-encoded; made from a seed, so that a failure can be seen again."""
    chosen = random.Random(20261122)
    made = [*ATOMS, "A" * 10_000, "%2e" * 2_000, "../" * 40 + "etc/passwd", "bytes=0-99999999999999999999"]
    while len(made) < number:
        words = (*ATOMS, "a", "etc", "passwd", "bytes=", "0-", "-1", "1!", "MQ==", "=", "list", "9" * 30)
        made.append("".join(chosen.choices(words, k=chosen.randint(2, 6))))
    return made


class Asker:
    """Raw requests over one connection at a time; targets and headers go out byte for byte."""

    def __init__(self, server) -> None:
        self.server = server
        self.connection: ssl.SSLSocket | None = None

    def ask(self, method: str, target: str, headers: dict[str, bytes], body: bytes | None) -> tuple:
        for attempt in (1, 2):
            try:
                if self.connection is None:
                    self.connection = self.server.connect()
                return self._ask(method, target, headers, body)
            except (OSError, http.client.HTTPException):
                self.close()
                if attempt == 2:
                    raise
        raise AssertionError

    def _ask(self, method: str, target: str, headers: dict[str, bytes], body: bytes | None) -> tuple:
        fields = {"Host": f"localhost:{self.server.port}".encode(), **headers}
        if body is not None:
            fields["Content-Length"] = str(len(body)).encode()
        head = b"".join(name.encode() + b": " + value + b"\r\n" for name, value in fields.items())
        assert self.connection is not None
        line = f"{method} {target} HTTP/1.1\r\n".encode("latin-1")
        self.connection.sendall(line + head + b"\r\n" + (body or b""))
        response = http.client.HTTPResponse(self.connection, method=method)
        response.begin()
        content = response.read()
        if response.will_close:
            self.close()
        return response.status, response.headers, content

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def check(method: str, answer: tuple, what: object) -> None:
    """A refusal in the service's shape, or an answer as it gives it."""
    status, headers, content = answer
    assert 200 <= status < 500, (what, answer)
    ours = headers.get("x-ms-request-id") is not None
    if status >= 400 and ours and method != "HEAD":
        assert ET.fromstring(content).findtext("Code") == headers["x-ms-error-code"], (what, answer)
    if status < 300 and content.startswith(b"<?xml"):
        ET.fromstring(content)


def run(server, number: int) -> None:
    container = f"c-{uuid.uuid4()}"
    base = f"/{ACCOUNT}/{container}"
    asker = Asker(server)
    plain = {name: value.encode() for name, value in PUT.items()}
    assert asker.ask("PUT", f"{base}/kept", plain, b"0123456789")[0] == 201
    (server.root / "outside").write_text("not to be touched")
    around = sorted(os.listdir(server.root)), sorted(os.listdir(server.root.parent))
    generated = names(number)
    for index, name in enumerate(generated):
        query = QUERIES[index % len(QUERIES)]
        header = HEADERS[index % len(HEADERS)]
        value = unquote_to_bytes(name).translate(None, b"\r\n\0")[:8000]
        escaped = quote(name, safe="%/;~*$()=!")
        places = (
            ("PUT", f"{base}/{escaped}", plain, b"evil"),
            ("GET", f"{base}?restype=container&comp=list&{query}={escaped}", plain, None),
            ("GET", f"{base}/kept", {**plain, header: value}, None),
            ("GET", f"{base}/{escaped}", plain, None),
            ("PUT", f"{base}/q?{query}={escaped}", plain, b"evil"),
            ("PUT", f"{base}/h", {**plain, header: value}, b"evil"),
            ("GET", f"/{ACCOUNT}/{escaped}/kept", plain, None),
            ("GET", f"{base}/kept?{query}={escaped}", plain, None),
            ("PUT", f"/{ACCOUNT}/{escaped}?restype=container", plain, b""),
        )
        # Every name in three kinds of places, each kind in turn.
        for method, target, headers, body in places[index % 3 * 3 : index % 3 * 3 + 3]:
            answer = asker.ask(method, target, headers, body)
            check(method, answer, (method, target[:300], header, value[:300]))
    asker.close()
    assert (sorted(os.listdir(server.root)), sorted(os.listdir(server.root.parent))) == around
    assert (server.root / "outside").read_text() == "not to be touched"
    (server.root / "outside").unlink()
    assert server.raw("GET", f"{base}/kept".encode(), BEARER)[2] == b"0123456789"
    assert not any((server.root / "tmp" / "uploads").iterdir())
    # What was kept has a name that a client can ask for again, and is listed.
    listed, marker = 0, ""
    while True:
        target = f"{base}?restype=container&comp=list&marker={quote(marker)}"
        page = ET.fromstring(server.raw("GET", target.encode(), BEARER)[2])
        listed += len(page.findall(".//Blob"))
        marker = page.findtext("NextMarker") or ""
        if not marker:
            break
    folder = server.root / "blobs" / ACCOUNT / container
    assert listed == sum(path.is_file() for path in folder.rglob("*"))


def test_hostile_text_in_every_place(blob_server) -> None:
    run(blob_server, 500)


@pytest.mark.slow
def test_much_hostile_text(blob_server) -> None:
    run(blob_server, 5_000)


def begin(server, target: str, size: int, sent: bytes) -> ssl.SSLSocket:
    connection = server.connect()
    head = "".join(f"{name}: {value}\r\n" for name, value in PUT.items())
    connection.sendall(
        f"PUT {target} HTTP/1.1\r\nHost: localhost:{server.port}\r\n".encode()
        + f"{head}Content-Length: {size}\r\n\r\n".encode()
        + sent
    )
    return connection


def resident(server) -> int:
    """Bytes of memory of the server's processes."""
    total = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if os.getpgid(int(entry.name)) == server.process.pid:
                total += int((entry / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ProcessLookupError):
            continue
    return total


def hold_up(server, number: int) -> None:
    """`number` uploads to one name that stop halfway, and one that drips, while others go on."""
    piece, size = 1 << 20, 8 << 20
    base = f"/{ACCOUNT}/c-{uuid.uuid4()}"
    server.raw("PUT", f"{base}/one".encode(), PUT, b"old")
    uploads = server.root / "tmp" / "uploads"
    deadline = time.monotonic() + 120

    def wait_for_bytes(wanted: int) -> None:
        while sum(part.stat().st_size for part in uploads.iterdir()) < wanted:
            assert time.monotonic() < deadline, "the uploads did not arrive"
            time.sleep(0.05)

    stopped = [begin(server, f"{base}/one", size, b"x" * (2 * piece)) for _ in range(number)]
    dripping = begin(server, f"{base}/one", size, b"")
    wait_for_bytes(number * piece)
    before = resident(server)
    for connection in stopped:
        connection.sendall(b"x" * (5 * piece))
    wait_for_bytes(number * 6 * piece)
    # The bytes lie on disk: 5 MiB more of each upload are not held in memory.
    assert resident(server) - before < number * 4 * piece
    for turn in range(5):
        dripping.sendall(b"y")
        there = b"new-%d" % (turn - 1) if turn else b"old"
        assert server.raw("GET", f"{base}/one".encode(), BEARER)[2] == there
        assert server.raw("PUT", f"{base}/one".encode(), PUT, b"new-%d" % turn)[0] == 201
    page = server.raw("GET", f"{base}?restype=container&comp=list".encode(), BEARER)[2]
    assert [element.text for element in ET.fromstring(page).iter("Name")] == ["one"]
    for connection in (*stopped, dripping):
        connection.close()
    while any(uploads.iterdir()):
        assert time.monotonic() < deadline, "the parts of the broken uploads stay"
        time.sleep(0.05)
    assert server.raw("GET", f"{base}/one".encode(), BEARER)[2] == b"new-4"


def test_stopped_and_dripping_uploads_hold_nobody_up(own_blob_server) -> None:
    hold_up(own_blob_server, 8)


@pytest.mark.slow
def test_sixty_four_stopped_uploads(own_blob_server) -> None:
    hold_up(own_blob_server, 64)
