"""One short look at whether the hub can be reached and has a file; for requests that must not hang."""

from __future__ import annotations

import contextlib
import http.client
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from amlocal.compat import hub

PATIENCE = 3.0
"""Seconds that one look may take in all, name resolution included."""
REMEMBERED = 60.0
"""Seconds for which an answer is taken again."""
_MOST_AT_ONCE = 8
_MOST_REMEMBERED = 512
_COMMIT = "X-Repo-Commit"
_ORIGIN = re.compile(r"(https?://)(?:[^/@]*@)?([^/]*)")

State = Literal["there", "missing", "refused", "unreachable", "offline"]


@dataclass(frozen=True)
class Answer:
    """What the hub has to say about one file; `reason` is a clause for a message, e.g. "it answered 503"."""

    state: State
    reason: str = ""

    @property
    def there(self) -> bool:
        return self.state == "there"


def look(repository: str, file: str, environ: Mapping[str, str] | None = None) -> Answer:
    """Whether the hub can be reached and has the file; takes PATIENCE seconds at most, and never raises."""
    if hub.offline(environ):
        return Answer("offline", "the hub is not asked because HF_HUB_OFFLINE is set")
    return _desk.ask(hub.endpoint(environ), hub.url(repository, file, environ))


class _Desk:
    """Remembers answers, and lets callers with the same question wait for one look."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Answer]] = {}
        self._pending: dict[str, _Look] = {}
        self._places = threading.BoundedSemaphore(_MOST_AT_ONCE)

    def ask(self, host: str, address: str) -> Answer:
        deadline = time.monotonic() + PATIENCE
        with self._lock:
            known = self._remembered(host) or self._remembered(address)
            if known is not None:
                return known
            under_way = self._pending.get(address)
            first = under_way is None
            if under_way is None:
                under_way = self._pending[address] = _Look(address)
        if first:
            try:
                return under_way.run(self._places, deadline)
            finally:
                with self._lock:
                    self._pending.pop(address, None)
                    # Who cannot be reached has no other file either.
                    key = host if under_way.answer.state == "unreachable" else address
                    self._remember(key, under_way.answer)
                under_way.over.set()
        under_way.over.wait(max(0.0, deadline - time.monotonic()))
        return under_way.answer

    def forget(self) -> None:
        """Ask anew from here on."""
        with self._lock:
            self._known.clear()

    def _remembered(self, key: str) -> Answer | None:
        until, answer = self._known.get(key, (0.0, None))
        return answer if time.monotonic() < until else None

    def _remember(self, key: str, answer: Answer) -> None:
        now = time.monotonic()
        if len(self._known) >= _MOST_REMEMBERED:
            self._known = {k: v for k, v in self._known.items() if v[0] > now}
        if len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
        self._known[key] = (now + REMEMBERED, answer)


class _Look:
    """One question under way, in a thread of its own: name resolution knows no time limit."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._connection: http.client.HTTPConnection | None = None
        self._found: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._abandoned = False
        self.over = threading.Event()
        self.answer = _silent(address)

    def run(self, places: threading.BoundedSemaphore, deadline: float) -> Answer:
        if not places.acquire(timeout=max(0.0, deadline - time.monotonic())):
            return self.answer

        def work() -> None:
            try:
                self._found.put(self._ask())
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._found.put(Answer("unreachable", _why(self._address, error)))
            finally:
                places.release()

        threading.Thread(target=work, name="hub", daemon=True).start()
        try:
            self.answer = self._found.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            self._give_up()
        return self.answer

    def _give_up(self) -> None:
        # Whoever sends a byte now and then must not hold the thread for ever.
        self._abandoned = True
        held = self._connection.sock if self._connection is not None else None
        if held is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(held, socket.SHUT_RDWR)

    def _ask(self) -> Answer:
        parts = urlsplit(self._address)
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise ValueError("HF_ENDPOINT must begin with https:// or http://")
        if parts.scheme == "https":
            self._connection = http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=PATIENCE, context=_context()
            )
        else:
            self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE)
        with contextlib.closing(self._connection) as connection:
            connection.connect()
            if self._abandoned:
                raise TimeoutError
            connection.request("HEAD", parts.path, headers={"User-Agent": "amlocal"})
            return _judge(self._address, connection.getresponse())


def _judge(address: str, answer: http.client.HTTPResponse) -> Answer:
    place, status = _place(address), answer.status
    moved = status in (301, 307, 308)
    if moved or (status < 400 and answer.headers.get(_COMMIT)):
        return Answer("there")
    if status == 404:
        return Answer("missing", f"{place} has no such file")
    if status in (401, 403):
        return Answer(
            "refused", f"{place} answered {status}: the repository is private or gated, or does not exist"
        )
    if status < 400:
        # huggingface_hub would not take it either; a page to log in to a network answers like this.
        return Answer("unreachable", f"what answers at {place} is no Hugging Face hub")
    return Answer("unreachable", f"{place} answered {status}")


def _context() -> ssl.SSLContext:
    import certifi

    context = ssl.create_default_context()
    context.load_verify_locations(cafile=certifi.where())
    return context


def _place(address: str) -> str:
    found = _ORIGIN.match(address)
    return f"{found[1]}{found[2]}" if found else "the hub"


def _silent(address: str) -> Answer:
    return Answer("unreachable", f"{_place(address)} did not answer within {PATIENCE:g} s")


def _why(address: str, error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return _silent(address).reason
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return f"{_place(address)} cannot be reached: {text}"


_desk = _Desk()
forget = _desk.forget
