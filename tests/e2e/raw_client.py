"""Plain HTTPS calls on one kept connection: what a client got acknowledged, without an SDK's own retries."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sqlite3
import ssl
from typing import Any

from amlocal.emulator.cli import instance

API_VERSION = "2025-12-01"
ENDED = ("Completed", "Failed", "Canceled")


class RawClient:
    """Not for use by several threads. A broken connection is an OSError and nothing is sent twice."""

    def __init__(self, server: Any, timeout: float = 60) -> None:
        self.workspace = server.workspace_path
        self._port = server.port
        self._timeout = timeout
        self._token = server.user_token()
        self._context = ssl.create_default_context(cafile=str(server.folder.tls / "ca.pem"))
        self._connection: http.client.HTTPSConnection | None = None
        self._container: tuple[str, str] | None = None

    def raw(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        """(status, body, headers in lower case)."""
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(
                "localhost", self._port, timeout=self._timeout, context=self._context
            )
        sent = {"Authorization": f"Bearer {self._token}", "x-ms-version": "2024-11-04", **(headers or {})}
        try:
            self._connection.request(method, path, body, sent)
            answer = self._connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise OSError(str(error)) from error
        return answer.status, content, {name.lower(): value for name, value in answer.getheaders()}

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def arm(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """A call below the workspace, with a JSON body."""
        data = None if body is None else json.dumps(body).encode()
        mark = "&" if "?" in path else "?"
        url = f"{self.workspace}/{path}{mark}api-version={API_VERSION}"
        status, content, _ = self.raw(
            method, url, data, {"Content-Type": "application/json", **(headers or {})}
        )
        return status, json.loads(content) if content else None

    def all(self, path: str) -> list[Any]:
        """Every item of a list, over all its pages."""
        found: list[Any] = []
        status, page = self.arm("GET", path)
        while True:
            assert status == 200, page
            found += page["value"]
            following = page.get("nextLink")
            if not following:
                return found
            status, content, _ = self.raw("GET", following.partition(f":{self._port}")[2])
            page = json.loads(content)

    def blob_path(self, name: str) -> str:
        """The path of a blob in workspaceblobstore."""
        if self._container is None:
            status, store = self.arm("GET", "datastores/workspaceblobstore")
            assert status == 200, store
            host = store["properties"]["accountName"]
            self._container = (host.rpartition("/")[2], store["properties"]["containerName"])
        return f"/{'/'.join(self._container)}/{name}"

    def put_blob(self, name: str, content: bytes, **headers: str) -> tuple[int, bytes]:
        status, body, _ = self.raw(
            "PUT", self.blob_path(name), content, {"x-ms-blob-type": "BlockBlob", **headers}
        )
        return status, body

    def blobs(self, prefix: str = "") -> list[str]:
        """The names that a listing of workspaceblobstore shows, over all its pages."""
        from urllib.parse import quote
        from xml.etree import ElementTree

        names: list[str] = []
        path, marker = self.blob_path("").rstrip("/"), ""
        while True:
            query = f"restype=container&comp=list&prefix={prefix}&marker={quote(marker)}"
            status, body, _ = self.raw("GET", f"{path}?{query}")
            assert status == 200, body
            page = ElementTree.fromstring(body)
            names += [name.text or "" for name in page.iter("Name")]
            marker = page.findtext("NextMarker") or ""
            if not marker:
                return names


def data_asset(path: str, **tags: str) -> dict[str, Any]:
    """A body for data/NAME/versions/VERSION."""
    return {
        "properties": {
            "dataType": "uri_file",
            "dataUri": f"azureml://datastores/workspaceblobstore/paths/{path}",
            "tags": tags,
        }
    }


def command_job(command: str, **more: Any) -> dict[str, Any]:
    """A body for jobs/NAME."""
    return {
        "properties": {
            "jobType": "Command",
            "command": command,
            "environmentId": "azureml:host:1",
            "experimentName": "raw",
            "inputs": {},
            "outputs": {},
            **more,
        }
    }


def worker_pid(server: Any) -> int | None:
    """The process that answers now; None while none does."""
    answer = instance.health(server.port, server.folder.tls / "ca.pem", timeout=30)
    return None if answer is None else int(answer["pid"])


def supervisor_pid(server: Any) -> int:
    running = instance.read(server.folder)
    assert running is not None
    return running.pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def integrity(server: Any) -> list[str]:
    """What SQLite says of both databases."""
    found = []
    for path in (server.folder.database, server.folder.mlflow / "mlflow.db"):
        if path.exists():
            connection = sqlite3.connect(path)
            try:
                found.append(str(connection.execute("PRAGMA integrity_check").fetchone()[0]))
            finally:
                connection.close()
    return found
