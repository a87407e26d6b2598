"""Scoring scripts in real scorers: how run() is called, what it may return, what goes wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

RAW = """
import json, logging, os, sys
from azureml.contrib.services.aml_request import AMLRequest, rawhttp
from azureml.contrib.services.aml_response import AMLResponse
from azureml_inference_server_http.api.aml_request import rawhttp as newer
from azureml_inference_server_http.api.aml_response import AMLResponse as NewerResponse

def init():
    print("This is init()")
    logging.getLogger("mine").info("a line of logging")

@rawhttp
def run(request: AMLRequest):
    assert isinstance(request, AMLRequest)
    what = request.args.get("what")
    if request.method == "GET":
        response = AMLResponse(str.encode(request.full_path), 200)
        response.headers["Access-Control-Allow-Origin"] = "http://www.example.com"
        return response
    if request.method == "OPTIONS":
        return AMLResponse("", 200, response_headers={"Allow": "OPTIONS, GET, POST"})
    if what == "reverse":
        return AMLResponse(request.get_data(False)[::-1], 200)
    if what == "files":
        return {"response": [[f.filename, len(f.stream.read())] for f in request.files.getlist("file[]")]}
    if what == "form":
        return dict(request.form)
    if what == "headers":
        return [request.headers.get("X-Mine"), request.method, request.path, request.data.decode()]
    if what == "picture":
        response = AMLResponse(message=b"\\xff\\xd8", status_code=200)
        response.mimetype = "image/jpg"
        return response
    if what == "no file":
        return AMLResponse("No file uploaded", status_code=422)
    if what == "created":
        return NewerResponse({"id": 7}, 201, json_str=True)
    if what == "bytes":
        return b"\\x00\\x01"
    if what == "nan":
        return {"x": [1.5, float("nan"), -float("inf")]}
    if what == "bad status":
        return AMLResponse("x", 99)
    if what == "bad header":
        return AMLResponse("x", 200, response_headers={"naïve name": "x"})
    if what == "smuggle":
        return AMLResponse("x", 200, response_headers={
            "Transfer-Encoding": "chunked", "ms-azureml-model-error-statuscode": "1", "Server": "me"})
    if what == "stream":
        import flask
        return flask.Response(flask.stream_with_context(c for c in "abc"), mimetype="text/event-stream")
    if what == "abort":
        import flask
        flask.abort(403)
    raise KeyError(what)
"""
BOUNDARY = b"----x"


def part(name: str, file: str, data: bytes) -> bytes:
    head = f'Content-Disposition: form-data; name="{name}"; filename="{file}"\r\n\r\n'.encode()
    return b"--" + BOUNDARY + b"\r\n" + head + data + b"\r\n"


@pytest.fixture(scope="module")
def raw(scorers: Any) -> Any:
    return scorers.script(RAW).ready()


def test_raw_requests_reach_run_as_they_are(raw: Any) -> None:
    reply = raw.ask("GET", "/score?a=1&b=%20")
    assert (reply.status, reply.body) == (200, b"/score?a=1&b=%20")
    assert reply.headers["Access-Control-Allow-Origin"] == "http://www.example.com"
    reply = raw.ask("OPTIONS", "/score")
    assert (reply.status, reply.headers["Allow"], reply.body) == (200, "OPTIONS, GET, POST", b"")
    binary = bytes(range(256)) * 10
    reply = raw.ask("POST", "/score?what=reverse", binary, Content_Type="image/png")
    assert reply.body == binary[::-1] and reply.headers["Content-Type"] == "application/octet-stream"
    reply = raw.ask("POST", "/score?what=headers", b"hi", X_Mine="yes", Content_Type="text/plain")
    assert reply.json == ["yes", "POST", "/score", "hi"]
    kind = "multipart/form-data; boundary=" + BOUNDARY.decode()
    body = part("file[]", "a.png", binary) + part("file[]", "b.png", b"\r\n--") + b"--" + BOUNDARY + b"--\r\n"
    reply = raw.ask("POST", "/score?what=files", body, Content_Type=kind)
    assert reply.json == {"response": [["a.png", 2560], ["b.png", 4]]}
    reply = raw.ask("POST", "/score?what=form", b"a=1&b=x", Content_Type="application/x-www-form-urlencoded")
    assert reply.json == {"a": "1", "b": "x"}


def test_what_a_raw_run_may_return(raw: Any) -> None:
    def post(what: str) -> Any:
        return raw.ask("POST", f"/score?what={what.replace(' ', '%20')}", b"{}")

    reply = post("picture")
    assert (reply.status, reply.headers["Content-Type"], reply.body) == (200, "image/jpg", b"\xff\xd8")
    reply = post("bytes")
    assert (reply.headers["Content-Type"], reply.body) == ("application/octet-stream", b"\x00\x01")
    assert post("nan").json == {"x": [1.5, None, None]}
    reply = post("no file")
    assert (reply.status, reply.body) == (422, b"No file uploaded")
    assert reply.headers["ms-azureml-model-error-statuscode"] == "422"
    assert "422" in reply.headers["ms-azureml-model-error-reason"]
    reply = post("created")
    assert (reply.status, reply.json, reply.headers["Content-Type"]) == (201, {"id": 7}, "application/json")
    assert reply.headers["ms-azureml-model-error-statuscode"] == "201"
    reply = post("stream")
    assert (reply.body, reply.headers["Content-Type"]) == (b"abc", "text/event-stream; charset=utf-8")
    reply = post("abort")
    assert (reply.status, reply.headers["ms-azureml-model-error-statuscode"]) == (403, "403")
    reply = post("smuggle")
    assert reply.headers.get_all("Server") is None and reply.headers["Content-Length"] == "1"
    assert "Transfer-Encoding" not in reply.headers and reply.status == 200
    assert "ms-azureml-model-error-statuscode" not in reply.headers
    for what, words in (("bad status", "99"), ("bad header", "header"), ("what?", "KeyError")):
        reply = post(what)
        assert reply.status == 500 and words in reply.message, reply.body
        assert reply.headers["ms-azureml-model-error-statuscode"] == "500"


def test_log_has_output_and_one_line_per_request_but_no_bodies(raw: Any) -> None:
    raw.ask("POST", "/score?what=reverse&key=s3cret", b"private body", x_request_id="id-77")
    raw.ask("GET", "/secret-path")
    log = raw.log
    assert (
        "This is init()" in log and " - a line of logging" in log and "run() takes raw HTTP requests" in log
    )
    line = next(line for line in log.splitlines() if "id-77" in line)
    assert "POST /score 200 12 bytes in, 12 bytes out, " in line and " ms 'id-77'" in line
    assert not any(word in log for word in ("private", "s3cret", "secret-path"))


PLAIN = """
import os, sys
def init():
    global env
    names = ("AZUREML_MODEL_DIR", "AML_APP_ROOT", "AZUREML_ENTRY_SCRIPT")
    env = {name: os.environ[name] for name in names}
def run(raw_data):
    if raw_data == "loop":
        value = []
        value.append(value)
        return value
    if raw_data == "bytes":
        return b"\\x00"
    if raw_data == "numpy":
        import numpy
        return numpy.zeros(2)
    if raw_data == "exit":
        sys.exit(3)
    if raw_data == "print":
        print("x" * 3_000_000)
        return "printed"
    return {"type": type(raw_data).__name__, "raw": raw_data, "cwd": os.getcwd(), "argv": sys.argv, **env}
"""


def test_plain_run_gets_text_and_the_documented_variables(scorers: Any) -> None:
    files = {"src/score.py": PLAIN, "src/logging.json": '{"version": 1, "root": {"level": "ERROR"}}'}
    scorer = scorers.script("", files=files, score_script="src/score.py", azureml_model_dir="/models/m/1")
    scorer.ready()
    answer = scorer.ask("POST", "/score", "é".encode()).json
    folder = answer["cwd"]
    assert folder.endswith("/src")
    assert answer == {
        "type": "str", "raw": "é", "cwd": folder, "argv": [f"{folder}/score.py"], "AML_APP_ROOT": folder,
        "AZUREML_ENTRY_SCRIPT": "score.py", "AZUREML_MODEL_DIR": "/models/m/1",
    }  # fmt: skip
    assert scorer.ask("GET", "/score").json["raw"] == ""
    assert scorer.ask("POST", "/score", b"\xef\xbb\xbfx").json["raw"] == "x"
    reply = scorer.ask("OPTIONS", "/score")
    assert (reply.status, reply.headers["Allow"]) == (405, "GET, POST")
    assert scorer.ask("PUT", "/score", b"x").status == 405
    assert scorer.ask("POST", "/score", b"bytes").body == b"\x00"
    for body, words in ((b"loop", "not JSON serializable"), (b"numpy", "ndarray"), (b"exit", "SystemExit")):
        reply = scorer.ask("POST", "/score", body)
        assert reply.status == 500 and words in reply.message
    reply = scorer.ask("POST", "/score", b"a\xff")
    assert reply.status == 400 and "byte 1 is 0xff" in reply.message
    assert scorer.ask("POST", "/score", b"print").json == "printed"
    assert len(scorer.log) > 3_000_000
    assert scorer.ask("GET", "/").json == "Healthy"
    assert scorer.stop() == 0


# The interface of the package inference-schema, as far as its users and we see it.
SCHEMA = """
import functools
decorated = {}
def input_schema(param_name, param_type):
    def wrap(run):
        @functools.wraps(run)
        def inner(*args, **values):
            values[param_name] = param_type(values[param_name])
            return run(*args, **values)
        decorated[inner.__name__] = {"type": "object", "properties": {param_name: {"type": "array"}}}
        return inner
    return wrap
"""
UTIL = """
from inference_schema.schema_decorators import decorated
def is_schema_decorated(run): return run.__name__ in decorated
def get_input_schema(run): return decorated[run.__name__]
def get_output_schema(run): return {"type": "integer"}
"""
DECORATED = """
import inference_schema.schema_util
from inference_schema.schema_decorators import input_schema
def init(): pass
@input_schema(param_name="data", param_type=tuple)
def run(data):
    assert isinstance(data, tuple)
    return len(data)
"""


def test_schema_decorated_run_gets_values_by_name(scorers: Any) -> None:
    files = {
        "inference_schema/__init__.py": "",
        "inference_schema/schema_decorators.py": SCHEMA,
        "inference_schema/schema_util.py": UTIL,
    }
    scorer = scorers.script(DECORATED, files=files).ready()
    assert scorer.score({"data": [1, 2, 3]}).json == 3
    for body, words in (({"dat": [1]}, "does not fit run()"), ([1], "must be a JSON object")):
        reply = scorer.score(body)
        assert reply.status == 400 and words in reply.message
        assert "ms-azureml-model-error-statuscode" not in reply.headers
    schemas = scorer.ask("GET", "/swagger.json?version=3").json["components"]["schemas"]
    assert schemas["ServiceInput"]["properties"] == {"data": {"type": "array"}}
    assert schemas["ServiceOutput"] == {"type": "integer"}


def test_swagger_of_a_user_is_served_for_its_version(scorers: Any) -> None:
    mine = {"swagger": "2.0", "info": {"title": "ML service"}}
    text = "def init(): pass\ndef run(raw): return 1"
    files = {"swagger2.json": json.dumps(mine)}
    scorer = scorers.script(text, files=files, deployment={"endpoint": "e", "name": "blue"}).ready()
    assert scorer.ask("GET", "/swagger.json").json == mine
    assert scorer.ask("GET", "/swagger.json?version=2").json == mine
    found = scorer.ask("GET", "/swagger.json?version=3", x_forwarded_prefix="/w/e").json
    assert (found["openapi"], found["info"]["title"], found["servers"]) == (
        "3.0.3",
        "e/blue",
        [{"url": "/w/e"}],
    )
    assert scorer.ask("GET", "/swagger.json?version=4").status == 404


@pytest.mark.parametrize(
    ("text", "files", "words"),
    [
        ("import inference_schema", {}, "No module named 'inference_schema'"),
        ("from azureml.contrib.nothing import x", {}, "No module named 'azureml.contrib.nothing'"),
        ("def init(): pass\nrun = 3", {}, "has no run()"),
        ("x", {"logging.json": "["}, "logging.json cannot be used"),
        ("x", {"swagger3.json": "[]"}, "swagger3.json must hold a JSON object"),
    ],
)
def test_script_that_cannot_load_says_why(scorers: Any, text: str, files: Any, words: str) -> None:
    scorer = scorers.script(text, files=files)
    assert words in scorer.failure()
    assert words in scorer.log and "Traceback" in scorer.log
    assert scorer.ask("GET", "/").status == 200
    reply = scorer.score({})
    assert reply.status == 503 and "ms-azureml-model-error-statuscode" not in reply.headers
