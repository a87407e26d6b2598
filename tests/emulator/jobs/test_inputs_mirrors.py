"""Web addresses: mirrors, what is refused by form, and what a fetch gives up on."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.jobs.mirrors import Mirrors, is_web, plain
from amlocal.emulator.jobs.runners.base import Abandoned, JobFailure

BASE = "https://data.example.com"
OWN_PORT = 4265


@pytest.fixture
def mirrors(tmp_path: Path) -> Mirrors:
    for name in (
        "all/sets/a.txt",
        "all/b c.txt",
        "all/setsmore.txt",
        "sets/a.txt",
        "sets/dir/c.txt",
        "secret",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "sets" / "leak").symlink_to(tmp_path / "secret")
    (tmp_path / "sets" / "dir" / "up").symlink_to(tmp_path)
    (tmp_path / "sets" / "alias.txt").symlink_to("a.txt")
    folders = {BASE: tmp_path / "all", f"{BASE}/sets/": tmp_path / "sets"}
    return Mirrors(folders, frozenset({OWN_PORT}), 1000)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        (f"{BASE}/sets/a.txt", "sets/a.txt"),
        (f"{BASE}/sets/a.txt?sig=x#y", "sets/a.txt"),
        (f"{BASE.upper().replace('HTTPS', 'https')}/sets/a.txt", "sets/a.txt"),
        (f"{BASE}/sets/alias.txt", "sets/a.txt"),
        (f"{BASE}/sets", "sets"),
        (f"{BASE}/sets/dir/", "sets/dir"),
        (f"{BASE}/b%20c.txt", "all/b c.txt"),
        (f"{BASE}/setsmore.txt", "all/setsmore.txt"),
        ("wasbs://sets@data.example.com/a.txt", None),
        ("http://data.example.com/sets/a.txt", None),
        ("https://data.example.com.evil.org/sets/a.txt", None),
        ("https://data.example.com:8443/sets/a.txt", None),
    ],
)
def test_the_longest_prefix_wins(mirrors: Mirrors, tmp_path: Path, url: str, found: str | None) -> None:
    if url.startswith("wasbs"):
        with pytest.raises(AzureError, match="must read wasbs://CONTAINER@ACCOUNT"):
            mirrors.find(url, "inputs.x")
        return
    assert mirrors.find(url, "inputs.x") == (None if found is None else tmp_path / found)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        (f"{BASE}/sets/absent.txt", "which has no absent.txt"),
        (f"{BASE}/sets/leak", "leads out of the mirror"),
        (f"{BASE}/sets/dir/up/secret", "leads out of the mirror"),
        (f"{BASE}/sets/../secret", "has '..' in it"),
        (f"{BASE}/sets/%2e%2e/secret", "has '..' in it"),
        (f"{BASE}/sets/%252e%252e/secret", "has '..' in it"),
        (f"{BASE}/sets%2f..%2fsecret", "has an encoded slash"),
        (f"{BASE}/sets/C%3A/x", "is absolute"),
        (f"{BASE}/sets/%00", "control character"),
        (f"{BASE}\\@evil.org/x", "backslash"),
        ("https://", "it names no host"),
        ("https://[::1/x", "cannot be used"),
        ("https://host:99999/x", "cannot be used"),
        ("https://user:pw@host/x", "has a user name"),
        ("http://169.254.169.254/metadata/instance", "metadata service"),
        ("http://[fe80::1]/x", "metadata service"),
        ("http://[::ffff:169.254.169.254]/x", "metadata service"),
        ("http://168.63.129.16/x", "metadata service"),
        (f"https://localhost:{OWN_PORT}/x", "this server itself"),
        (f"https://[::1]:{OWN_PORT}/x", "this server itself"),
        (f"http://0.0.0.0:{OWN_PORT}/x", "this server itself"),
    ],
)
def test_what_is_refused_at_submit(mirrors: Mirrors, url: str, text: str) -> None:
    with pytest.raises(AzureError) as caught:
        mirrors.find(url, "inputs.x")
    assert caught.value.status == 400
    assert text in caught.value.message and "pw" not in caught.value.message


def test_what_is_shown_of_an_address_has_no_secret() -> None:
    assert plain("https://host/a?sig=abc#def") == "'https://host/a'"
    assert is_web("WASBS://c@h/p") and is_web("http://h") and not is_web("azureml://datastores/d/paths/p")


class _Web(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        loops = self.path == "/loop"
        self.send_response(302 if loops else 200)
        if loops:
            self.send_header("Location", "/loop")
        self.end_headers()
        if not loops:
            self.wfile.write(b"x" * int(self.path.strip("/").partition(".")[0]))

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Web)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()


def test_a_fetch_stops_at_its_limits(mirrors: Mirrors, web: str, tmp_path: Path) -> None:
    path = mirrors.fetch(f"{web}/1000.bin", tmp_path / "in", lambda: False)
    assert (path.name, path.stat().st_size) == ("1000.bin", 1000)
    with pytest.raises(JobFailure, match=r"larger than 1000 bytes .*setting mirrors"):
        mirrors.fetch(f"{web}/1001.bin", tmp_path / "in", lambda: False)
    with pytest.raises(JobFailure, match="redirects more than 5 times"):
        mirrors.fetch(f"{web}/loop", tmp_path / "in", lambda: False)
    with pytest.raises(Abandoned):
        mirrors.fetch(f"{web}/10.bin", tmp_path / "in", lambda: True)


def test_a_name_that_leads_to_this_server_is_not_fetched(web: str, tmp_path: Path) -> None:
    port = int(web.rpartition(":")[2])
    own = Mirrors({}, frozenset({port}), 1000)
    with pytest.raises(JobFailure, match="this server itself"):
        own.fetch(f"{web}/10.bin", tmp_path, lambda: False)
