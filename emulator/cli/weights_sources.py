"""Where `amlocal weights pull` takes files from: the hub, another URL, a folder or a file of this machine."""

from __future__ import annotations

import hashlib
import http.client
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import quote, unquote, urlsplit

from amlocal.compat import hub
from amlocal.emulator.cli import CommandError

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""What a repository calls its weights, the wanted name first."""
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_SECONDS = 30.0
_CHUNK = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAMED_HASH = re.compile(r"https://download\.pytorch\.org/models/.*-([0-9a-f]{8,64})\.pth")
"""PyTorch's own site writes the beginning of a file's SHA-256 into its name."""


class Source(Protocol):
    """Gives files away by the names that repositories of the hub use."""

    def fetch(self, names: tuple[str, ...], target: Path) -> str | None:
        """Write the first of `names` that is there to `target`; where it came from, or None.

        Raises CommandError when there may be one and it cannot be had, OSError when it cannot be written.
        """


def source_of(given: str | None, repository: str) -> Source:
    """The source that --from means; without it the hub. Raises CommandError."""
    if given is None:
        return _hub(repository)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", given):
        if not given.startswith(("https://", "http://")):
            raise CommandError(f"{given}: only https:// and http:// addresses can be downloaded.")
        last = unquote(urlsplit(given).path)
        return _OneUrl(given) if last.endswith(_SUFFIXES) else _Urls(given.rstrip("/"))
    path = Path(given).expanduser()
    if path.is_dir():
        return _Folder(path)
    if path.is_file():
        return _OneFile(path)
    raise CommandError(f"{given} is neither a file nor a folder.")


def _hub(repository: str) -> Source:
    if not repository:
        raise CommandError("a folder of your own is on no hub; say where its files are: --from FOLDER")
    if hub.offline():
        raise CommandError("HF_HUB_OFFLINE is set, so the hub is not asked. Unset it, or use --from.")
    return _Urls(hub.url(repository, "")[:-1])


class _Folder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fetch(self, names: tuple[str, ...], target: Path) -> str | None:
        for name in names:
            path = self._folder / name
            if path.is_file():
                return _take(path, target)
        return None


class _OneFile:
    def __init__(self, path: Path) -> None:
        self._path = path

    def fetch(self, names: tuple[str, ...], target: Path) -> str | None:
        return _take(self._path, target) if names == WEIGHTS else None


class _Urls:
    def __init__(self, base: str) -> None:
        self._base = base

    def fetch(self, names: tuple[str, ...], target: Path) -> str | None:
        for name in names:
            address = f"{self._base}/{quote(name)}"
            if _download(address, target):
                return address
        return None


class _OneUrl:
    def __init__(self, address: str) -> None:
        self._address = address

    def fetch(self, names: tuple[str, ...], target: Path) -> str | None:
        return self._address if names == WEIGHTS and _download(self._address, target) else None


def _take(path: Path, target: Path) -> str:
    with path.open("rb") as source, target.open("wb") as file:
        _copy(source, file, None, path.name)
    return str(path)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to anything else; keeps the hash that the hub names."""

    def __init__(self) -> None:
        self.sha256: str | None = None

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.startswith("https://") and (
            req.full_url.startswith("https://") or not newurl.startswith("http://")
        ):
            raise CommandError(f"{req.full_url} leads to {newurl}, which is not https.")
        self.sha256 = self.sha256 or _hash_of(headers, "X-Linked-ETag")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(address: str, target: Path) -> bool:
    """Whether the address has a file; it is in `target` then, whole and with the hash that the hub names."""
    redirects = _Redirects()
    # Proxies are taken from the environment, as everywhere.
    opener = urllib.request.build_opener(redirects)
    request = urllib.request.Request(address, headers={"User-Agent": "amlocal"})  # noqa: S310 (http or https)
    try:
        with opener.open(request, timeout=_SECONDS) as answer, target.open("wb") as file:
            expected = redirects.sha256 or _hash_of(answer.headers, "X-Linked-ETag")
            found = _copy(answer, file, answer.length, address)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return False
        gated = " (private or gated, or not there: get it by hand, then use --from)"
        advice = gated if error.code in (401, 403) else ""
        raise CommandError(f"{address}: the answer was {error.code}{advice}.") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise CommandError(f"{address} cannot be downloaded: {reason}.") from error
    if expected is not None and found != expected:
        raise CommandError(f"{address}: the file that came has another SHA-256 than the hub says. Try again.")
    named = _NAMED_HASH.fullmatch(address)
    if named is not None and not found.startswith(named[1]):
        raise CommandError(
            f"{address}: the file that came has another SHA-256 than its name says. Try again."
        )
    return True


def _hash_of(headers: Message, name: str) -> str | None:
    value = (headers.get(name) or "").strip('W/"').lower()
    return value if _SHA256.fullmatch(value) else None


def _copy(source: Any, file: IO[bytes], length: int | None, name: str) -> str:
    digest = hashlib.sha256()
    report, done = _reporter(name, length), 0
    while chunk := source.read(_CHUNK):
        file.write(chunk)
        digest.update(chunk)
        done += len(chunk)
        report(done)
    if length is not None and done != length:
        raise CommandError(f"{name}: the connection ended after {done} of {length} bytes. Try again.")
    return digest.hexdigest()


def _reporter(name: str, length: int | None) -> Callable[[int], None]:
    """Tells how far a copy is, once a second, on a terminal only."""
    last = time.monotonic()
    terminal = sys.stderr.isatty()

    def report(done: int) -> None:
        nonlocal last
        if terminal and time.monotonic() - last >= 1.0:
            last = time.monotonic()
            whole = f" of {length / 1e6:.0f}" if length else ""
            print(f"  {name}: {done / 1e6:.0f}{whole} MB", file=sys.stderr)

    return report
