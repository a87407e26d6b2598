"""Serves one model instance of a deployment over a unix socket: `python scorer.py CONFIG.json`.

Runs by path in the deployment's interpreter; imports only the standard library until the model is loaded.

CONFIG: socket, model_dir, kind ("mlflow" or "script"), max_body (bytes); for scripts score_script and
code_dir; optional env (set before loading), log (file that takes over the output),
max_concurrent (default 1).

- GET /ready: 200 when the model is loaded, 503 while it loads, 500 with the reason when loading failed.
- POST /score: 200 with JSON; 400 for input that the model cannot take; 500 with the header
  `ms-azureml-model-error-reason` when model or script code fails.

Each connection carries one request, so a scorer that stops can serve all that was accepted and lose none.
SIGTERM: no new connections, what was accepted is answered, exit 0.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

HERE = os.path.dirname(os.path.abspath(__file__))
if TYPE_CHECKING:
    from amlocal.emulator.host.scorer_models import KINDS, BadInput, Model
else:
    # Only here is the folder on the path: a user's module may be called like one of the files in it.
    sys.path.insert(0, HERE)
    from scorer_models import KINDS, BadInput

    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != HERE]

REASON_HEADER = "ms-azureml-model-error-reason"
STATUS_HEADER = "ms-azureml-model-error-statuscode"
READ_TIMEOUT = 60.0
BACKLOG = 128
DRAIN_BODY = 256 * 1024 * 1024
LINGER = 0.05


def log(text: str) -> None:
    print(time.strftime("%Y-%m-%dT%H:%M:%S ") + text, flush=True)


class Scorer:
    """The model, loaded in a thread of its own, and what became of the loading."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.max_body = int(config["max_body"])
        self.slots = threading.BoundedSemaphore(int(config.get("max_concurrent", 1)))
        self.failure: str | None = None
        self.model: Model | None = None

    def load(self) -> None:
        begin = time.monotonic()
        log(f"loading {self.config['kind']} model from {self.config['model_dir']}")
        try:
            os.environ["AZUREML_MODEL_DIR"] = str(self.config["model_dir"])
            if self.config["kind"] not in KINDS:
                raise ValueError(f"unknown kind of model {self.config['kind']!r}")
            self.model = KINDS[self.config["kind"]](self.config)
        except (
            BaseException
        ) as error:  # sys.exit() in a user's script too must not look like loading for ever
            traceback.print_exc(file=sys.stdout)
            self.failure = f"{type(error).__name__}: {error}"
            log(f"loading failed after {time.monotonic() - begin:.1f} s: {self.failure}")
            return
        log(f"ready after {time.monotonic() - begin:.1f} s")


class Handler(BaseHTTPRequestHandler):
    """One connection, one request."""

    protocol_version = "HTTP/1.1"
    server_version = "amlocal-scorer"
    sys_version = ""
    timeout = READ_TIMEOUT

    def __init__(self, connection: socket.socket, scorer: Scorer) -> None:
        self.scorer = scorer
        self.begin = time.monotonic()
        super().__init__(connection, ("local", 0), None)  # type: ignore[arg-type]

    def log_message(self, format: str, *args: Any) -> None:
        log(format % args)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """`reply` writes the line, with the time that the request took."""

    def do_GET(self) -> None:
        scorer = self.scorer
        if self.path != "/ready":
            self.fail(404, "NotFound", f"no such path: {self.path}")
        elif scorer.failure is not None:
            self.fail(500, "ModelLoadFailed", scorer.failure)
        elif scorer.model is None:
            self.fail(503, "ModelLoading", "the model is being loaded")
        else:
            self.reply(200, {"status": "ready"})

    def do_POST(self) -> None:
        model = self.scorer.model
        given = self.headers.get("Content-Length", "")
        length = int(given) if given.isdigit() else 0
        limit = self.scorer.max_body
        if self.path != "/score":
            self.fail(404, "NotFound", f"no such path: {self.path}")
        elif not given.isdigit():
            self.fail(411, "LengthRequired", "the request needs a Content-Length")
        elif length > limit:
            self.fail(413, "PayloadTooLarge", f"the body has {length} bytes, the limit is {limit}")
        elif model is None:
            self.fail(503, "ModelNotReady", self.scorer.failure or "the model is being loaded")
        else:
            body = self.rfile.read(length)
            if len(body) == length:
                self.score(model, body)
            return
        self.drain(length)

    def drain(self, length: int) -> None:
        """Throw away a refused body: to close a socket with unread data would take the answer back."""
        left = min(length, DRAIN_BODY)
        while left > 0 and (chunk := self.rfile.read(min(left, 1 << 16))):
            left -= len(chunk)

    def score(self, model: Model, body: bytes) -> None:
        with self.scorer.slots:
            if self.abandoned():
                log("the caller has gone: request dropped")
                return
            try:
                result = model.score(body)
                answer = json.dumps(result).encode()
            except BadInput as error:
                self.fail(400, "BadRequest", str(error))
                return
            except BaseException as error:  # sys.exit() in a user's code is an error of that code
                traceback.print_exc(file=sys.stdout)
                reason = f"{type(error).__name__}: {error}"
                headers = {STATUS_HEADER: "500", REASON_HEADER: header_text(reason)}
                self.fail(500, "ModelError", reason, headers)
                return
        self.send(200, answer, {})

    def abandoned(self) -> bool:
        """Whether the caller hung up while this request waited for its turn."""
        self.connection.setblocking(False)
        try:
            return bool(self.connection.recv(1, socket.MSG_PEEK) == b"")
        except BlockingIOError:
            return False
        finally:
            self.connection.settimeout(READ_TIMEOUT)

    def fail(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        self.reply(status, {"error": {"code": code, "message": message}}, headers)

    def reply(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self.send(status, json.dumps(value).encode(), headers or {})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.close_connection = True
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            log("the caller has gone before the answer")
        if self.path != "/ready":
            request = self.headers.get("x-request-id", "-")[:200]
            took = (time.monotonic() - self.begin) * 1000
            log(f"{self.command} {self.path} {status} {len(body)} bytes {took:.1f} ms {request!r}")


def header_text(text: str) -> str:
    return " ".join(text.split()).encode("ascii", "replace").decode()[:300]


def watch_leash() -> None:
    """End this process at once when the one that started it is gone."""
    value = os.environ.pop("AMLOCAL_LEASH_FD", None)
    if value is None:
        return
    descriptor = int(value)

    def wait() -> None:
        while os.read(descriptor, 1):
            pass
        os._exit(0)

    threading.Thread(target=wait, name="leash", daemon=True).start()


def listen(path: str) -> socket.socket:
    if os.path.exists(path):
        # Left by a scorer that was killed.
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(mask)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def serve(listener: socket.socket, path: str, scorer: Scorer) -> None:
    """Answer until SIGTERM; then answer what has been accepted, or waits to be, and return."""
    stop_read, stop_write = os.pipe()
    os.set_blocking(stop_write, False)
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.set_wakeup_fd(stop_write, warn_on_full_buffer=False)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(stop_read, selectors.EVENT_READ)
    threads: set[threading.Thread] = set()
    threading.Thread(target=scorer.load, name="load", daemon=True).start()
    while not stopping:
        selector.select()
        accept(listener, scorer, threads)
    log("stopping: no new requests")
    os.unlink(path)
    # Who found the path just before may still be connecting.
    signal.set_wakeup_fd(-1)
    selector.unregister(stop_read)
    while selector.select(LINGER):
        accept(listener, scorer, threads)
    for thread in threads:
        thread.join()
    log("stopped")


def accept(listener: socket.socket, scorer: Scorer, threads: set[threading.Thread]) -> None:
    """A thread for each connection that waits."""

    def answer(connection: socket.socket) -> None:
        try:
            with connection:
                Handler(connection, scorer)
        except (OSError, ValueError):
            log("connection lost")

    while True:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            break
        thread = threading.Thread(target=answer, args=(connection,), daemon=True)
        thread.start()
        threads.add(thread)
    for thread in [thread for thread in threads if not thread.is_alive()]:
        threads.discard(thread)


def main(config_path: str) -> int:
    with open(config_path) as file:
        config = json.load(file)
    if config.get("log"):
        descriptor = os.open(config["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)
    watch_leash()
    os.environ.update(config.get("env") or {})
    serve(listen(config["socket"]), config["socket"], Scorer(config))
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1])
    sys.stdout.flush()
    # Threads of a user's model must not keep a stopped scorer alive.
    os._exit(status)
