"""Data behind web addresses: from a folder that the setting `mirrors` names, or fetched once for a job.

A server can reach what its users cannot: an address that leads to this machine's own server, or to the
metadata service of a cloud (link-local addresses), is never fetched.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from amlocal.compat.azureml_uri import UriError, clean_path
from amlocal.emulator.http.errors import not_there_yet, user_error
from amlocal.emulator.jobs.fields import shown
from amlocal.emulator.jobs.runners.base import Abandoned, JobFailure
from amlocal.emulator.settings import Settings

_SCHEMES = {"https": 443, "http": 80}
_STORAGE_SCHEMES = ("wasbs", "wasb", "abfss", "abfs")
_STORAGE_HOST = re.compile(r"[a-z0-9]{3,24}\.(?:blob|dfs)\.[a-z0-9.-]{1,200}")
_USER = re.compile(r"^(https?://)[^/]*@", re.IGNORECASE)
_CONNECT_SECONDS = 10.0
_READ_SECONDS = 30.0
_TOTAL_SECONDS = 15 * 60.0
_CHUNK = 1 << 20
_MOST_REDIRECTS = 5
_LONGEST_NAME = 200
# Azure's own address inside its virtual networks, beside the link-local 169.254.169.254.
_METADATA = ipaddress.ip_address("168.63.129.16")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_web(uri: str) -> bool:
    """Whether the text is an address outside of the workspace: https, http, wasbs or abfss."""
    scheme = uri.partition("://")[0].lower()
    return "://" in uri and (scheme in _SCHEMES or scheme in _STORAGE_SCHEMES)


@dataclass(frozen=True)
class Mirrors:
    """`folders`: URL prefix to folder. `own_ports` are never fetched from, `limit` is bytes of one file."""

    folders: Mapping[str, Path]
    own_ports: frozenset[int]
    limit: int

    @classmethod
    def of(cls, settings: Settings) -> Mirrors:
        """What the settings of a server say."""
        ports = frozenset({settings.port, settings.router_port})
        return cls(settings.mirrors, ports, settings.max_body)

    def find(self, url: str, target: str) -> Path | None:
        """Where the longest mirrored prefix of `url` has it; None where it must be fetched.

        Raises AzureError: 400 for a form that cannot be used, for a mirror that lacks it or that it would
        leave, and for an address that is never fetched; 501 for a storage scheme without mirror.
        """
        scheme = url.partition(":")[0].lower()
        parts = _parts(_web_form(url, target), target)
        mirror = self._mirror(parts)
        if mirror is not None:
            return _inside(*mirror, plain(url), target)
        if scheme in _STORAGE_SCHEMES:
            raise not_there_yet(
                f"Reading {plain(url)} from Azure's storage ({target}; set a mirror for "
                f"{_prefix(parts)} to read a copy on this machine)"
            )
        reason = self._refused(_literal(parts.hostname or ""), _port(parts))
        if reason:
            raise user_error(f"{target}: {plain(url)} is not fetched: {reason}.", target=target)
        return None

    def fetch(self, url: str, folder: Path, abandoned: Callable[[], bool]) -> Path:
        """The file behind `url`, written into `folder`. Raises JobFailure, and Abandoned."""
        import httpx

        parts = urlsplit(url)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / _file_name(parts)
        deadline = time.monotonic() + _TOTAL_SECONDS
        address = url
        timeout = httpx.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS)
        try:
            with httpx.Client(timeout=timeout, follow_redirects=False) as client:
                for _ in range(_MOST_REDIRECTS + 1):
                    self._check_reachable(url, urlsplit(address))
                    with client.stream("GET", address, headers={"Accept-Encoding": "identity"}) as answer:
                        self._check_peer(url, answer)
                        if answer.next_request is not None:
                            address = str(answer.next_request.url)
                            continue
                        if answer.status_code != 200:
                            raise _failure(url, f"the answer is {answer.status_code}")
                        self._save(url, answer, path, deadline, abandoned)
                        return path
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _failure(url, f"{error or type(error).__name__}") from error
        raise _failure(url, f"it redirects more than {_MOST_REDIRECTS} times")

    def _save(
        self, url: str, answer: object, path: Path, deadline: float, abandoned: Callable[[], bool]
    ) -> None:
        import httpx

        assert isinstance(answer, httpx.Response)
        size = 0
        with path.open("wb") as file:
            for chunk in answer.iter_bytes(_CHUNK):
                size += len(chunk)
                if abandoned():
                    raise Abandoned
                if size > self.limit:
                    raise _failure(url, f"it is larger than {self.limit} bytes (the setting max_body)")
                if time.monotonic() > deadline:
                    raise _failure(url, f"it took longer than {_TOTAL_SECONDS:g} seconds")
                file.write(chunk)

    def _mirror(self, parts: SplitResult) -> tuple[Path, str] | None:
        """(folder, path below it) of the longest prefix."""
        best: tuple[int, Path, str] | None = None
        for prefix, folder in self.folders.items():
            known = urlsplit(prefix)
            if (known.scheme.lower(), known.netloc.lower()) != (parts.scheme, parts.netloc.lower()):
                continue
            root, path = known.path.rstrip("/"), parts.path
            if path.rstrip("/") != root and not path.startswith(root + "/"):
                continue
            if best is None or len(root) > best[0]:
                best = (len(root), folder, path[len(root) :].strip("/"))
        return None if best is None else best[1:]

    def _check_reachable(self, url: str, parts: SplitResult) -> None:
        if parts.scheme not in _SCHEMES or parts.hostname is None:
            raise _failure(url, "it redirects to an address that is neither https nor http")
        port = _port(parts)
        try:
            found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        except OSError:
            return  # the connection fails by itself, or a proxy knows the name
        for *_, address in found:
            self._check_address(url, str(address[0]), port)

    def _check_peer(self, url: str, answer: object) -> None:
        """The name may have meant another machine when the connection was made."""
        stream = getattr(answer, "extensions", {}).get("network_stream")
        peer = stream.get_extra_info("server_addr") if stream is not None else None
        if peer:
            self._check_address(url, str(peer[0]), int(peer[1]))

    def _check_address(self, url: str, address: str, port: int) -> None:
        reason = self._refused(_literal(address), port)
        if reason:
            raise _failure(url, reason)

    def _refused(self, address: _Address | None, port: int) -> str:
        """Why nothing is fetched from there; empty where it may be."""
        if address is None:
            return ""
        if address.is_link_local or address == _METADATA:
            return f"{address} belongs to the metadata service of a cloud"
        if address.is_multicast:
            return f"{address} is no address of one machine"
        if (address.is_loopback or address.is_unspecified) and port in self.own_ports:
            return f"{address}:{port} is this server itself"
        return ""


def plain(url: str) -> str:
    """`url` as it may be shown and kept: without what may be a secret, in its query or before its host."""
    address = url.partition("?")[0].partition("#")[0]
    return shown(_USER.sub(r"\1", address))


def _web_form(url: str, target: str) -> str:
    """https://ACCOUNT.blob.../CONTAINER/PATH for wasbs://CONTAINER@ACCOUNT.blob.../PATH, likewise abfss."""
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in _STORAGE_SCHEMES:
        return url
    place, _, path = rest.partition("/")
    container, at, host = place.partition("@")
    if not at or not container or not _STORAGE_HOST.fullmatch(host.lower()):
        raise user_error(
            f"{target}: {plain(url)} must read {scheme}://CONTAINER@ACCOUNT.blob.core.windows.net/PATH.",
            target=target,
        )
    return f"https://{host.lower()}/{container}/{path}"


def _parts(url: str, target: str) -> SplitResult:
    """The parts of an address whose form can be used. Raises AzureError 400."""
    why = ""
    parts = SplitResult("", "", "", "", "")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        why, port = str(error), None
    if why:
        pass
    elif any(ord(char) <= 32 or ord(char) == 127 for char in url) or "\\" in url:
        why = "it has a space, a backslash or a control character in it"
    elif not parts.hostname:
        why = "it names no host"
    elif parts.username is not None or parts.password is not None:
        why = "it has a user name in it"
    elif port == 0:
        why = "its port is 0"
    elif parts.path.strip("/"):
        try:
            clean_path(parts.path.lstrip("/"))
        except UriError as error:
            why = f"its path {error.reason}"
    if why:
        raise user_error(f"{target}: {plain(url)} cannot be used: {why}.", target=target)
    return parts


def _prefix(parts: SplitResult) -> str:
    container = parts.path.lstrip("/").partition("/")[0]
    return f"{parts.scheme}://{parts.netloc}/{container}"


def _port(parts: SplitResult) -> int:
    return parts.port or _SCHEMES.get(parts.scheme, 0)


def _literal(host: str) -> _Address | None:
    """The address that a host is by itself, without asking for it."""
    if host.lower().rstrip(".") == "localhost" or host.lower().endswith(".localhost"):
        return ipaddress.ip_address("127.0.0.1")
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _inside(root: Path, relative: str, url: str, target: str) -> Path:
    """The file or folder in a mirror, links resolved. Raises AzureError 400."""
    real_root = os.path.realpath(root)
    try:
        path = root / clean_path(unquote(relative)) if relative else root
    except UriError as error:
        message = f"{target}: {url} cannot be used: its path {error.reason}."
        raise user_error(message, target=target) from error
    real = os.path.realpath(path)
    if real != real_root and not real.startswith(real_root + os.sep):
        raise user_error(f"{target}: {url} leads out of the mirror {root}.", target=target)
    if not Path(real).exists():
        raise user_error(
            f"{target}: {url} is mirrored by {root}, which has no {relative or 'such folder'}. "
            "Put it there, or change the setting mirrors.",
            target=target,
        )
    return Path(real)


def _file_name(parts: SplitResult) -> str:
    name = unquote(parts.path.rstrip("/").rpartition("/")[2])
    safe = name.replace("/", "_").replace("\0", "_")[-_LONGEST_NAME:]
    return safe if safe not in ("", ".", "..") else "data"


def _failure(url: str, reason: str) -> JobFailure:
    return JobFailure(
        f"{plain(url)} could not be fetched: {reason}. Where this machine cannot reach it, put a copy into a "
        "folder and name both in the setting mirrors (URL prefix to folder)."
    )
