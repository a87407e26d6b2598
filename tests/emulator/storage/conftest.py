from __future__ import annotations

import http.client
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from azure.storage.blob import BlobServiceClient, ContainerClient

from amlocal.compat import certificates
from amlocal.emulator.storage.blobs import BlobStore
from amlocal.emulator.storage.sas import SasKey

ACCOUNT = "aml0123456789ab"
OTHER_ACCOUNT = "amlba9876543210"
MAX_BODY = 8 << 20


@dataclass
class BlobServer:
    """The Blob surface under granian over TLS, on a port of its own."""

    root: Path
    ca: Path
    key: Path
    port: int
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {
            **os.environ,
            "BLOB_TEST_ROOT": str(self.root),
            "BLOB_TEST_SECRET": self.secret.hex(),
            "BLOB_TEST_MAX_BODY": str(MAX_BODY),
            "PYTHONPATH": str(Path(__file__).parent),
        }
        argv = [sys.executable, "-m", "granian", "--interface", "wsgi", "--factory", "blob_app:create_app"]
        argv += ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        argv += ["--blocking-threads", "96", "--log-level", "warning"]
        argv += ["--ssl-certificate", str(self.ca), "--ssl-keyfile", str(self.key)]
        with (self.root / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                argv, env=environment, start_new_session=True, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                self.raw("GET", b"/up")
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((self.root / "server.log").read_text()) from None
                time.sleep(0.05)

    def kill(self) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    @property
    def sas_key(self) -> SasKey:
        return SasKey(self.secret)

    def sas(self, container: str, permissions: str = "racwdl", **more: object) -> str:
        options = {"account": ACCOUNT, "expires": datetime.now(UTC) + timedelta(hours=1), **more}
        return self.sas_key.sign(container=container, permissions=permissions, **options)

    def container(self, container: str, sas: str | None = None, **options: object) -> ContainerClient:
        service = BlobServiceClient(
            f"https://localhost:{self.port}/{ACCOUNT}.blob.core.windows.net",
            credential=sas or self.sas(container),
            connection_verify=str(self.ca),
            retry_total=0,
            **options,
        )
        return service.get_container_client(container)

    def connect(self) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(self.ca))
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        return context.wrap_socket(plain, server_hostname="localhost")

    def raw(
        self, method: str, target: bytes, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """One request with exactly these bytes as its target."""
        fields = {"Host": f"localhost:{self.port}", "Connection": "close", **(headers or {})}
        if body is not None and "Transfer-Encoding" not in fields:
            fields.setdefault("Content-Length", str(len(body)))
        head = b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in fields.items())
        with self.connect() as connection:
            connection.sendall(
                method.encode() + b" " + target + b" HTTP/1.1\r\n" + head + b"\r\n" + (body or b"")
            )
            response = http.client.HTTPResponse(connection, method=method)
            response.begin()
            return response.status, response.headers, response.read()


@pytest.fixture(scope="session")
def blob_certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The server's own kind of certificate (its file holds the authority too) and its key."""
    files = certificates.ensure(tmp_path_factory.mktemp("tls"))
    return files.certificate, files.key


def _server(root: Path, certificate: tuple[Path, Path]) -> Iterator[BlobServer]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = BlobServer(root, *certificate, port)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def blob_server(
    tmp_path_factory: pytest.TempPathFactory, blob_certificate: tuple[Path, Path]
) -> Iterator[BlobServer]:
    yield from _server(tmp_path_factory.mktemp("data"), blob_certificate)


@pytest.fixture
def own_blob_server(tmp_path: Path, blob_certificate: tuple[Path, Path]) -> Iterator[BlobServer]:
    """One that a test may kill."""
    yield from _server(tmp_path, blob_certificate)


@pytest.fixture
def blob_store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs", tmp_path / "meta", tmp_path / "tmp")
