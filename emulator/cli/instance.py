"""A server seen from outside: where it is, whether it runs, and how to ask it."""

from __future__ import annotations

import http.client
import json
import secrets
import socket
import ssl
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amlocal.emulator.processes import FileLock
from amlocal.emulator.store.folder import DataFolder, write_atomic

API_VERSION = "2024-04-01"
LOCK = "server.lock"


@dataclass(frozen=True)
class Instance:
    """What `serve` writes down for the other commands (server.json)."""

    pid: int
    port: int
    router_port: int
    run_dir: str
    started_at: str

    @property
    def base_url(self) -> str:
        return f"https://localhost:{self.port}"

    def write(self, folder: DataFolder) -> None:
        write_atomic(folder.server_file, json.dumps(asdict(self)).encode())


def read(folder: DataFolder) -> Instance | None:
    """The server that was started last on this data folder, running or not."""
    try:
        return Instance(**json.loads(folder.server_file.read_text()))
    except FileNotFoundError:
        return None


def is_running(folder: DataFolder) -> bool:
    """Whether a supervisor holds the data folder."""
    if not (folder.root / LOCK).exists():
        return False
    lock = FileLock(folder.root / LOCK)
    if lock.acquire():
        lock.release()
        return False
    return True


def health(port: int, authority: Path, timeout: float = 2.0) -> dict[str, Any] | None:
    """The answer of /health; None when nobody we know answers there."""
    try:
        status, body = call(port, authority, "GET", "/health", timeout=timeout)
    except OSError:
        return None
    return body if status == 200 else None


def call(
    port: int,
    authority: Path,
    method: str,
    path: str,
    *,
    token: str | None = None,
    body: Any = None,
    timeout: float = 30.0,
) -> tuple[int, dict[str, Any]]:
    """One call over TLS, trusting only the server's own authority. Raises OSError when it fails.

    Resource Manager's paths get an api-version where `path` has none.
    """
    if path.startswith("/subscriptions/") and "api-version=" not in path:
        path += f"{'&' if '?' in path else '?'}api-version={API_VERSION}"
    context = ssl.create_default_context(cafile=str(authority))
    connection = http.client.HTTPSConnection("localhost", port, timeout=timeout, context=context)
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        content = answer.read()
    except http.client.HTTPException as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()
    try:
        return answer.status, json.loads(content)
    except ValueError:
        return answer.status, {}


def free_ports() -> tuple[int, int]:
    """Two neighbouring ports that nobody listens on now.

    Of those below the ones that systems give to connections (32768 and up on Linux): a server that is started
    again must find its ports free, and a connection of another program may have taken them meanwhile.
    """
    for _ in range(200):
        port = 15_000 + 2 * secrets.randbelow(8_000)
        if busy_port(port, port + 1) is None:
            return port, port + 1
    raise OSError("no two neighbouring free ports were found")


def busy_port(*ports: int) -> int | None:
    """The first of `ports` that somebody listens on."""
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return port
    return None
