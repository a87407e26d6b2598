"""Scripts that hang, start threads and processes, call back, or run where nothing is installed; stopping."""

from __future__ import annotations

import ast
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

HOST = Path(__file__).resolve().parents[3] / "emulator" / "host"

HANG = """
import json, os, signal, subprocess, sys, threading, time
def init():
    threading.Thread(target=time.sleep, args=(1000,), name="user's").start()
def run(raw):
    if raw == "hang":
        open("hangs", "w").close()
        while not os.path.exists("go on"):
            time.sleep(0.01)
        return "went on"
    if raw == "child":
        return subprocess.Popen(["sleep", "1000"]).pid
    if raw == "threads":
        return sorted(thread.name for thread in threading.enumerate())
    if raw == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return raw
"""


def folder_of(scorer: Any) -> Path:
    return Path(os.readlink(f"/proc/{scorer.process.pid}/cwd"))


def test_code_that_never_returns_makes_the_liveness_probe_fail_once_its_caller_has_gone(scorers: Any) -> None:
    scorer = scorers.script(HANG, max_concurrent=1).ready()
    assert "request-" in " ".join(scorer.ask("POST", "/score", b"threads").json)
    assert {"load", "user's"} & set(scorer.ask("POST", "/score", b"threads").json) == {"user's"}
    folder = folder_of(scorer)
    held = scorer.connect()
    held.sendall(b"POST /score HTTP/1.1\r\nContent-Length: 4\r\n\r\nhang")
    scorers.until((folder / "hangs").exists)
    # Somebody waits for it: it may be slow.
    assert scorer.ask("GET", "/").status == 200
    assert scorer.ask("GET", "/ready").status == 200
    with scorer.connect() as waiting:
        waiting.sendall(b"POST /score HTTP/1.1\r\nContent-Length: 4\r\n\r\nwait")
    # Who waits for a slot and hangs up is forgotten, though no slot gets free.
    scorers.until(lambda: "request dropped" in scorer.log)
    held.close()
    scorers.until(lambda: scorer.ask("GET", "/").status == 503)
    assert "whose caller has gone" in scorer.ask("GET", "/").message
    (folder / "go on").touch()
    scorers.until(lambda: scorer.ask("GET", "/").status == 200)
    assert scorer.ask("POST", "/score", b"again").json == "again"


def test_stop_answers_what_was_accepted_and_leaves_users_threads_behind(scorers: Any) -> None:
    scorer = scorers.script(HANG, max_concurrent=1).ready()
    assert Path(f"/proc/{scorer.ask('POST', '/score', b'child').json}").exists()
    folder = folder_of(scorer)
    replies: list[Any] = []
    first = threading.Thread(target=lambda: replies.append(scorer.ask("POST", "/score", b"hang").json))
    first.start()
    scorers.until((folder / "hangs").exists)
    second = threading.Thread(target=lambda: replies.append(scorer.ask("POST", "/score", b"queued").json))
    second.start()
    scorers.until(lambda: len(os.listdir(f"/proc/{scorer.process.pid}/task")) >= 4)
    scorer.process.terminate()
    scorers.until(lambda: "no new requests" in scorer.log)
    with pytest.raises(OSError):
        scorer.ask("POST", "/score", b"late")
    (folder / "go on").touch()
    first.join()
    second.join()
    assert sorted(replies) == ["queued", "went on"]
    assert scorer.process.wait(10) == 0


def test_script_that_kills_the_process_gives_no_answer(scorers: Any) -> None:
    scorer = scorers.script(HANG).ready()
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        scorer.ask("POST", "/score", b"kill")
    assert scorer.process.wait(10) == -9


CALLS_BACK = """
import socket
def init(): pass
def run(raw):
    if raw == "inner":
        return 1
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(raw)
        connection.sendall(b"POST /score HTTP/1.1\\r\\nContent-Length: 5\\r\\n\\r\\ninner")
        return connection.recv(1000).decode().splitlines()[0]
"""


def test_script_that_calls_itself_is_answered_where_there_is_a_second_slot(scorers: Any) -> None:
    scorer = scorers.script(CALLS_BACK, max_concurrent=2).ready()
    reply = scorer.ask("POST", "/score", str(scorer.socket).encode())
    assert reply.json == "HTTP/1.1 200 OK"


BARE = """
import sys
from azureml.contrib.services.aml_request import AMLRequest, rawhttp
from azureml.contrib.services.aml_response import AMLResponse
def init(): pass
@rawhttp
def run(request):
    assert isinstance(request, AMLRequest)
    what = request.args.get("what")
    if what == "json":
        return [request.json, request.get_json(), request.is_json, request.mimetype]
    if what == "not json":
        return [request.get_json(silent=True), request.get_json(force=True)]
    if what == "form":
        files = request.files.getlist("f")
        return [request.form, request.form.getlist("a"), request.args.getlist("b"), files]
    if what == "files":
        return request.files
    if what == "modules":
        return [name for name in ("flask", "werkzeug", "yaml", "numpy") if name in sys.modules]
    if request.method == "GET":
        return AMLResponse(request.full_path, 200, response_headers=[("X-Mine", "1")])
    response = AMLResponse(request.get_data() + b"!", 200)
    response.mimetype = "image/png"
    response.headers["x-case"] = request.headers["x-CASE"]
    return response
"""


def test_raw_requests_without_any_package(scorers: Any) -> None:
    scorer = scorers.script(BARE, flags=("-I", "-S")).ready()
    assert scorer.ask("POST", "/score?what=modules", b"").json == []
    reply = scorer.ask("GET", "/score?a=1")
    assert (reply.body, reply.headers["X-Mine"]) == (b"/score?a=1", "1")
    assert reply.headers["Content-Type"] == "text/plain"
    reply = scorer.ask("POST", "/score", b"\x00\xff", X_Case="yes")
    assert (reply.body, reply.headers["Content-Type"], reply.headers["x-case"]) == (
        b"\x00\xff!",
        "image/png",
        "yes",
    )
    kind = "application/json; charset=utf-8"
    reply = scorer.ask("POST", "/score?what=json", b'{"a": 1}', Content_Type=kind)
    assert reply.json == [{"a": 1}, {"a": 1}, True, "application/json"]
    assert scorer.ask("POST", "/score?what=not%20json", b"3").json == [None, 3]
    kind = "application/x-www-form-urlencoded"
    reply = scorer.ask("POST", "/score?what=form&b=1&b=2", b"a=x&a=y", Content_Type=kind)
    assert reply.json == [{"a": "x"}, ["x", "y"], ["1", "2"], []]
    reply = scorer.ask("POST", "/score?what=files", b"", Content_Type="multipart/form-data; boundary=x")
    assert reply.status == 500 and "werkzeug" in reply.message


# Packages of the same names that are installed: one decorator leaves an attribute, the other a wrapper.
MARKS = "def rawhttp(run):\n    run.is_raw = True\n    return run\nAMLRequest = object\n"
WRAPS = (
    "def rawhttp(run):\n    def inner(request): return run(request)\n    return inner\nAMLRequest = object\n"
)


@pytest.mark.parametrize("package", [MARKS, WRAPS])
@pytest.mark.parametrize("decorated", [True, False])
def test_decorator_of_an_installed_package_is_known(scorers: Any, package: str, decorated: bool) -> None:
    text = "from azureml.contrib.services.aml_request import rawhttp\ndef init(): pass\n"
    text += (
        "@rawhttp\n" * decorated
        + "def run(given): return type(given).__name__ + str(rawhttp.__code__.co_filename)"
    )
    scorer = scorers.script(text, files={"azureml/contrib/services/aml_request.py": package}).ready()
    answer = scorer.ask("POST", "/score", b"x").json
    assert answer.startswith("Request" if decorated else "str")
    assert answer.endswith("azureml/contrib/services/aml_request.py")


def test_files_run_on_old_pythons() -> None:
    files = sorted(HOST.glob("scorer*.py"))
    assert len(files) >= 9
    for file in files:
        ast.parse(file.read_text(), feature_version=(3, 8))


def test_scorer_ends_with_the_one_that_started_it(scorers: Any) -> None:
    scorer = scorers.script(HANG)
    assert scorer.ready().stop() == 0
    read_end, write_end = os.pipe()
    os.set_inheritable(read_end, True)
    try:
        # As `spawn_leashed` does it; a scorer of the fixture has no leash.
        config = scorer.socket.parent / "config.json"
        process = subprocess.Popen(
            [sys.executable, str(HOST / "scorer.py"), str(config)],
            env={**os.environ, "AMLOCAL_LEASH_FD": str(read_end)},
            pass_fds=(read_end,),
            stdout=subprocess.DEVNULL,
        )
    finally:
        os.close(read_end)

    def listening() -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            return connection.connect_ex(str(scorer.socket)) == 0

    scorers.until(listening)
    begin = time.monotonic()
    os.close(write_end)
    assert process.wait(60) == 0
    assert time.monotonic() - begin < 30
