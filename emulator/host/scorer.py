"""Serves one model instance of a deployment over a unix socket: `python scorer.py CONFIG.json`.

Runs by path in the deployment's interpreter; imports only the standard library until the model is loaded.

CONFIG: socket, model_dir, kind ("mlflow" or "script"), max_body (bytes); for scripts score_script and
code_dir. Optional: azureml_model_dir (AZUREML_MODEL_DIR; else model_dir), deployment ({"endpoint", "name"}),
trust_pickle ("never" refuses MLflow models that are pickles), env (set before loading), log (file that takes
over the output), max_concurrent (default 1). Unknown keys are ignored.

- GET /: 200 while the process works; 503 when every slot is held by code whose callers have all hung up.
- GET /ready: 200 when the model is loaded and warm, 503 while it loads, 500 with the reason when that failed.
- GET /swagger.json: the OpenAPI document; `?version=` 2, 3 or 3.1. The header `x-forwarded-prefix` is the
  path of the endpoint's address in it.
- POST (for scripts also GET) /score: 200; 400 for input that the model cannot take. When model or script code
  fails, or a script itself answers with another status than 200, the answer has the headers
  `ms-azureml-model-error-statuscode` and `ms-azureml-model-error-reason`.

Each connection carries one request, so a scorer that stops can serve all that was accepted and lose none.
SIGTERM: no new connections, what was accepted is answered, exit 0.
"""

from __future__ import annotations

import itertools
import json
import os
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
import urllib.parse
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

HERE = os.path.dirname(os.path.abspath(__file__))
if TYPE_CHECKING:
    from amlocal.emulator.host.scorer_answers import JSON, failure_headers
    from amlocal.emulator.host.scorer_models import Model, load_model
    from amlocal.emulator.host.scorer_requests import Answer, BadInput, Request
    from amlocal.emulator.host.scorer_slots import Slots
    from amlocal.emulator.host.scorer_swagger import VERSIONS
else:
    # Only here is the folder on the path, and its files are forgotten again: a user's module may be called
    # like one of them.
    before = set(sys.modules)
    sys.path.insert(0, HERE)
    from scorer_answers import JSON, failure_headers
    from scorer_models import load_model
    from scorer_requests import Answer, BadInput, Request
    from scorer_slots import Slots
    from scorer_swagger import VERSIONS

    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != HERE]
    for name in set(sys.modules) - before:
        if name.startswith("scorer_"):
            del sys.modules[name]

READ_TIMEOUT = 60.0
BACKLOG = 128
DRAIN_BODY = 256 * 1024 * 1024
LINGER = 0.05
KNOWN_PATHS = ("/", "/ready", "/score", "/swagger.json")


def log(text: str) -> None:
    print(time.strftime("%Y-%m-%dT%H:%M:%S ") + text, flush=True)


class Scorer:
    """The model, loaded in a thread of its own, and what became of the loading."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.max_body = int(config["max_body"])
        self.slots = Slots(int(config.get("max_concurrent", 1)))
        self.failure: str | None = None
        self.model: Model | None = None

    @property
    def title(self) -> str:
        names = self.config.get("deployment") or {}
        return "/".join(str(names[key]) for key in ("endpoint", "name") if names.get(key)) or "ML service"

    def load(self) -> None:
        begin = time.monotonic()
        log(f"loading {self.config['kind']} model from {self.config['model_dir']}")
        try:
            model_dir = self.config.get("azureml_model_dir") or self.config["model_dir"]
            os.environ["AZUREML_MODEL_DIR"] = str(model_dir)
            self.model = load_model(self.config, log)
        except BaseException as error:  # sys.exit() in a user's script must not look like loading for ever
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
        self.received = 0
        super().__init__(connection, ("local", 0), None)  # type: ignore[arg-type]

    def log_message(self, format: str, *args: Any) -> None:
        """`send` writes the line, with the time that the request took."""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/":
            if self.scorer.slots.stuck():
                self.fail(
                    503, "Stuck", "every slot is held by code that does not return and whose caller has gone"
                )
            else:
                self.reply(200, "Healthy")
        elif path == "/ready":
            self.ready()
        elif path == "/swagger.json":
            self.swagger(query)
        else:
            self.take(path, query)

    def do_POST(self) -> None:
        path, _, query = self.path.partition("?")
        self.take(path, query)

    do_OPTIONS = do_PUT = do_PATCH = do_DELETE = do_POST

    def ready(self) -> None:
        if self.scorer.failure is not None:
            self.fail(500, "ModelLoadFailed", self.scorer.failure)
        elif self.scorer.model is None:
            self.fail(503, "ModelLoading", "the model is being loaded")
        else:
            self.reply(200, {"status": "ready"})

    def swagger(self, query: str) -> None:
        model = self.scorer.model
        version = urllib.parse.parse_qs(query).get("version", [VERSIONS[0]])[-1]
        base = self.headers.get("x-forwarded-prefix", "")
        if model is None:
            self.fail(503, "ModelNotReady", self.scorer.failure or "the model is being loaded")
        elif version not in VERSIONS:
            self.fail(
                404, "NotFound", f"there is no swagger.json of this version; there is {', '.join(VERSIONS)}"
            )
        else:
            base = base if base.startswith("/") and base.isprintable() and len(base) < 500 else ""
            self.reply(200, model.swagger(version, title=self.scorer.title, base=base))

    def take(self, path: str, query: str) -> None:
        """A request to /score: read the body and score it."""
        model = self.scorer.model
        given = self.headers.get("Content-Length", "0" if self.command in ("GET", "OPTIONS") else "")
        length = int(given) if given.isascii() and given.isdigit() else 0
        limit = self.scorer.max_body
        if path != "/score":
            self.fail(404, "NotFound", "there are only /score, /swagger.json, /ready and /")
        elif self.command not in ("GET", "POST", "OPTIONS"):
            self.fail(405, "MethodNotAllowed", f"{self.command} is not taken here", {"Allow": "GET, POST"})
        elif not (given.isascii() and given.isdigit()) or "Transfer-Encoding" in self.headers:
            self.fail(411, "LengthRequired", "the request needs a Content-Length")
        elif length > limit:
            self.fail(413, "PayloadTooLarge", f"the body has {length} bytes, the limit is {limit}")
        elif model is None:
            self.fail(503, "ModelNotReady", self.scorer.failure or "the model is being loaded")
        else:
            body = self.rfile.read(length)
            self.received = len(body)
            if len(body) == length:
                request = Request(self.command, path, query, self.headers, body)  # type: ignore[arg-type]
                del body
                self.score(model, request)
            return
        self.drain(length)

    def drain(self, length: int) -> None:
        """Throw away a refused body: to close a socket with unread data would take the answer back."""
        left = min(length, DRAIN_BODY)
        while left > 0 and (chunk := self.rfile.read(min(left, 1 << 16))):
            left -= len(chunk)

    def score(self, model: Model, request: Request) -> None:
        answer = None
        with self.scorer.slots.turn(self.connection) as mine:
            if not mine:
                log("the caller has gone: request dropped")
                return
            try:
                answer = model.score(request)
            except BadInput as error:
                code = {405: "MethodNotAllowed", 413: "PayloadTooLarge"}.get(error.status, "BadRequest")
                self.fail(error.status, code, str(error), error.headers)
            except BaseException as error:  # sys.exit() in a user's code is an error of that code
                traceback.print_exc(file=sys.stdout)
                reason = f"{type(error).__name__}: {error}"
                self.fail(500, "ModelError", reason, failure_headers(reason))
        if answer is not None:
            self.send(answer)

    def fail(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        self.reply(status, {"error": {"code": code, "message": message}}, headers)

    def reply(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self.send(Answer(status, json.dumps(value).encode(), [JSON, *(headers or {}).items()]))

    def send(self, answer: Answer) -> None:
        self.close_connection = True
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Connection", "close")
        try:
            self.end_headers()
            self.wfile.write(answer.body)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            log("the caller has gone before the answer")
        path = self.path.partition("?")[0]
        if path not in ("/", "/ready"):
            path = path if path in KNOWN_PATHS else "(unknown path)"
            request = self.headers.get("x-request-id", "-")[:200]
            took = (time.monotonic() - self.begin) * 1000
            size = f"{self.received} bytes in, {len(answer.body)} bytes out"
            log(f"{self.command} {path} {answer.status} {size}, {took:.1f} ms {request!r}")


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
    if scorer.model is not None:
        scorer.model.close()
    log("stopped")


numbers = itertools.count(1)


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
        name = f"request-{next(numbers)}"
        thread = threading.Thread(target=answer, args=(connection,), name=name, daemon=True)
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
