"""Scorers as real processes: MLflow models and scripts, bad input, crashes, restarts, stops."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from living import gone

from amlocal.emulator.endpoints.scorers import ScorerConfig, ScorerError, ScorerSupervisor

LOADER = """
import pandas as pd

class Model:
    def predict(self, frame, params=None):
        if (frame["image"] == b"boom").any():
            raise RuntimeError("the model's own fault")
        for number, value in enumerate(frame["image"]):
            if value == b"unreadable":
                raise ValueError(f"row {number}: not an image")
        return pd.DataFrame({
            "probs": [[0.25, len(value) / 100] for value in frame["image"]],
            "labels": [["a", "b"]] * len(frame),
        })

def _load_pyfunc(path):
    return Model()
"""


MLMODEL = """
flavors:
  python_function:
    loader_module: length_model
    code: code
signature:
  inputs: '[{"type": "binary", "name": "image", "required": true}]'
  outputs: '[{"type": "string", "name": "probs"}]'
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small MLflow model with a loader module, written by hand: to import MLflow here takes seconds."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "MLmodel").write_text(MLMODEL)
    (folder / "code").mkdir()
    (folder / "code" / "length_model.py").write_text(LOADER)
    return folder


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[ScorerSupervisor]:
    supervisor = ScorerSupervisor(tmp_path / "run", backoff=lambda deaths: 0.05)
    yield supervisor
    supervisor.stop_all(grace=2)


def b64(data: bytes) -> str:
    # With line ends, as base64.encodebytes in Azure's samples makes them.
    return base64.encodebytes(data).decode()


LONG = b"x" * 100


def test_mlflow_model(model: Path, tmp_path: Path, supervisor: ScorerSupervisor, desk: Any) -> None:
    config = ScorerConfig(kind="mlflow", model_dir=model, log=tmp_path / "scorer.log", max_body=2000)
    path = supervisor.start("blue", config)
    supervisor.wait_ready("blue", 60)
    assert supervisor.status("blue").state == "ready"
    assert path.stat().st_mode & 0o777 == 0o600

    def post(value: Any) -> tuple[int, Any, dict[str, str]]:
        return desk.ask(path, json.dumps(value).encode())

    expected = [{"probs": [0.25, 1.0], "labels": ["a", "b"]}, {"probs": [0.25, 0.02], "labels": ["a", "b"]}]
    rows = [b64(LONG), b64(b"ab")]
    nested = [[row] for row in rows]
    for request in (
        {"input_data": {"columns": ["image"], "index": [0, 1], "data": nested}},
        {"input_data": {"columns": ["image"], "index": [7, 3], "data": rows}},
        {"input_data": {"columns": ["image"], "data": nested}},
        {"input_data": {"data": rows}},
        {"input_data": [{"image": row} for row in rows]},
        {"input_data": rows},
        {"dataframe_split": {"columns": ["image"], "data": nested}},
        {"dataframe_records": [{"image": row} for row in rows]},
    ):
        assert post(request)[:2] == (200, expected), request

    for request, words in (
        ({"data": rows}, 'needs one key "input_data"'),
        ([1], "must be a JSON object"),
        ({"input_data": {"columns": ["picture"], "data": nested}}, "column 'image' is missing"),
        (
            {"input_data": {"columns": ["image"], "data": [[rows[0]], [rows[0], "x"]]}},
            "row 1 has 2 values for 1 columns",
        ),
        (
            {"input_data": {"columns": ["image"], "data": [rows[0], "@@@"]}},
            "row 1, column 'image': not base64",
        ),
        (
            {"input_data": {"columns": ["image"], "data": [[3]]}},
            "row 0, column 'image': base64 text expected, got int",
        ),
        (
            {"input_data": {"columns": ["image"], "index": [0], "data": rows}},
            "one entry for each of the 2 rows",
        ),
        ({"input_data": {"columns": ["image"], "data": []}}, "has no rows"),
        (
            {"input_data": {"columns": ["image"], "data": [b64(b"ab"), b64(b"unreadable")]}},
            "row 1: not an image",
        ),
        (
            {"input_data": [{"image": rows[0]}, {"image": rows[0], "x": 1}]},
            "row 1 has the columns ['image', 'x']",
        ),
    ):
        status, answer, headers = post(request)
        assert status == 400 and words in answer["error"]["message"], (request, answer)
        assert answer["error"]["code"] == "BadRequest" and "ms-azureml-model-error-reason" not in headers
    assert desk.ask(path, b'{"input_data": ')[0] == 400
    assert desk.ask(path, b"\xff\xfe")[0] == 400
    assert desk.ask(path, b"[" * 1900)[0] == 400

    status, answer, headers = post({"input_data": [b64(b"boom")]})
    assert status == 500
    assert headers["ms-azureml-model-error-statuscode"] == "500"
    assert headers["ms-azureml-model-error-reason"] == "RuntimeError: the model's own fault"
    assert [desk.ask(path, b"x" * size)[0] for size in (2001, 2_000_000)] == [413, 413]
    assert desk.ask(path, b"", "GET", "/elsewhere")[0] == 404

    log = supervisor.tail("blue", 500)
    assert "loading mlflow model" in log and "ready after" in log
    assert log.count("POST /score 200") == 8
    assert "Traceback" in log and "the model's own fault" in log


def test_script(tmp_path: Path, supervisor: ScorerSupervisor, desk: Any) -> None:
    config = desk.config(
        """
import json, os
import helper                 # beside the script
import scorer                 # called like a file of ours, and yet the user's
def init():
    global model
    model = open(os.path.join(os.environ["AZUREML_MODEL_DIR"], "weight.txt")).read()
def run(raw):
    return eval(raw)
""",
        env={"TASTE": "sweet"},
    )
    (tmp_path / "code" / "src" / "helper.py").write_text("WORD = 'helped'")
    (tmp_path / "code" / "scorer.py").write_text("WORD = 'mine'")
    (tmp_path / "model" / "weight.txt").write_text("heavy")
    path = supervisor.start("script", config)
    supervisor.wait_ready("script", 30)
    for raw, result in (
        ("model", "heavy"),
        ("{'a': [1, None, True]}", {"a": [1, None, True]}),
        ("json.dumps({'a': 1})", '{"a": 1}'),
        ("[helper.WORD, scorer.WORD, os.environ['TASTE']]", ["helped", "mine", "sweet"]),
        ("raw", "raw"),
    ):
        assert desk.ask(path, raw.encode())[:2] == (200, result)
    for raw, words in (
        ("1 / 0", "ZeroDivisionError"),
        ("int('x')", "ValueError"),
        ("{1, 2}", "not JSON serializable"),
        ("exit(3)", "SystemExit: 3"),
    ):
        status, answer, headers = desk.ask(path, raw.encode())
        assert status == 500 and words in answer["error"]["message"]
        assert words in headers["ms-azureml-model-error-reason"]
    assert desk.ask(path, b"\xff")[0] == 400
    assert supervisor.status("script").deaths == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def run(raw): return 1", "has no init()"),
        ("def init(): raise OSError('no such weights')\ndef run(raw): return 1", "OSError: no such weights"),
        ("import no_such_module_anywhere", "No module named 'no_such_module_anywhere'"),
        ("import sys; sys.exit('enough')", "SystemExit: enough"),
    ],
)
def test_script_that_cannot_load(
    tmp_path: Path, supervisor: ScorerSupervisor, text: str, words: str, desk: Any
) -> None:
    path = supervisor.start("bad", desk.config(text))
    with pytest.raises(ScorerError, match="(?s)" + words.replace("(", r"\(").replace(")", r"\)")) as caught:
        supervisor.wait_ready("bad", 30)
    assert "Traceback" in str(caught.value)
    status, answer, _ = desk.ask(path, b"", "GET", "/ready")
    assert status == 500 and words in answer["error"]["message"]
    for _ in range(20):
        assert desk.ask(path, b"{}" * 500_000)[0] == 503


def test_script_outside_the_code_folder_is_refused(
    tmp_path: Path, supervisor: ScorerSupervisor, desk: Any
) -> None:
    config = desk.config("")
    (tmp_path / "evil.py").write_text("def init(): pass\ndef run(raw): return 1")
    outside = ScorerConfig(**{**vars(config), "score_script": "../evil.py"})
    supervisor.start("evil", outside)
    with pytest.raises(ScorerError, match="outside the code folder"):
        supervisor.wait_ready("evil", 30)


SLOW = """
import os, time
def init():
    if os.path.exists("die-on-load"): os._exit(9)
def run(raw):
    if raw == "die": os._exit(3)
    with open("began", "a") as file: file.write("x")
    time.sleep(float(raw))
    return "slept"
"""


def test_scorer_that_dies_is_started_again(tmp_path: Path, supervisor: ScorerSupervisor, desk: Any) -> None:
    path = supervisor.start("blue", desk.config(SLOW))
    supervisor.wait_ready("blue", 30)
    first = supervisor.status("blue").pid
    assert first is not None
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        desk.ask(path, b"die")
    second = desk.until(lambda: (s := supervisor.status("blue")).state == "ready" and s.pid)
    assert second != first
    os.kill(second, signal.SIGKILL)
    third = desk.until(
        lambda: (s := supervisor.status("blue")).state == "ready" and s.pid != second and s.pid
    )
    assert desk.ask(path, b"0")[:2] == (200, "slept")
    assert supervisor.status("blue").deaths == 2
    supervisor.stop("blue")
    assert not Path(f"/proc/{third}").exists()
    assert not path.exists() and list((tmp_path / "run").iterdir()) == []
    with pytest.raises(KeyError):
        supervisor.status("blue")


def test_scorer_that_always_dies_is_given_up(tmp_path: Path, supervisor: ScorerSupervisor, desk: Any) -> None:
    config = desk.config(SLOW)
    (tmp_path / "code" / "src" / "die-on-load").touch()
    supervisor.start("blue", config)
    with pytest.raises(ScorerError, match="ended with exit code 9"):
        supervisor.wait_ready("blue", 30)
    status = supervisor.status("blue")
    assert (status.state, status.deaths, status.pid) == ("failed", 3, None)


def test_stop_finishes_what_was_accepted(tmp_path: Path, supervisor: ScorerSupervisor, desk: Any) -> None:
    path = supervisor.start("blue", desk.config(SLOW, max_concurrent=4))
    supervisor.wait_ready("blue", 30)
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(desk.ask(path, b"1")[:2])) for _ in range(4)]
    for thread in threads:
        thread.start()
    began = tmp_path / "code" / "src" / "began"
    desk.until(lambda: began.exists() and began.stat().st_size == 4)
    begin = time.monotonic()
    supervisor.stop("blue", grace=20)
    for thread in threads:
        thread.join()
    assert answers == [(200, "slept")] * 4
    assert time.monotonic() - begin < 15
    with pytest.raises(OSError):
        desk.ask(path, b"0")


def test_stop_kills_after_the_grace(tmp_path: Path, supervisor: ScorerSupervisor, desk: Any) -> None:
    path = supervisor.start("blue", desk.config(SLOW))
    supervisor.wait_ready("blue", 30)
    lost: list[Exception] = []

    def call() -> None:
        try:
            desk.ask(path, b"60")
        except (http.client.HTTPException, OSError) as error:
            lost.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    desk.until((tmp_path / "code" / "src" / "began").exists)
    begin = time.monotonic()
    supervisor.stop("blue", grace=0.3)
    assert time.monotonic() - begin < 25
    thread.join(60)
    assert len(lost) == 1


def test_waiting_request_whose_caller_left_is_not_run(
    tmp_path: Path, supervisor: ScorerSupervisor, desk: Any
) -> None:
    text = "import time\ndef init(): ...\ndef run(raw):\n    print('RUN', raw)\n    time.sleep(0.5)\n"
    path = supervisor.start("blue", desk.config(text))
    supervisor.wait_ready("blue", 30)
    first = threading.Thread(target=desk.ask, args=(path, b"first"))
    first.start()
    desk.until(lambda: "RUN first" in supervisor.tail("blue"))
    with socket.socket(socket.AF_UNIX) as gone:
        gone.connect(str(path))
        gone.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\ngone")
    first.join()
    desk.until(lambda: "request dropped" in supervisor.tail("blue"))
    assert "RUN gone" not in supervisor.tail("blue")


def test_scorers_do_not_outlive_the_server(tmp_path: Path, desk: Any) -> None:
    desk.config(SLOW)
    server = f"""
import time
from pathlib import Path
from amlocal.emulator.endpoints.scorers import ScorerConfig, ScorerSupervisor
root = Path({str(tmp_path)!r})
supervisor = ScorerSupervisor(root / "run")
supervisor.start("blue", ScorerConfig(kind="script", model_dir=root / "model", code_dir=root / "code",
                                      score_script="src/score.py", log=root / "scorer.log"))
supervisor.wait_ready("blue", 30)
print(supervisor.status("blue").pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", server], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        process.kill()
    desk.until(lambda: gone(pid))
