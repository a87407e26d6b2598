"""The scorer in front of the engine of image models: bodies, limits, memory, concurrency. The engine is a
stand-in that answers with the length of each cell."""

from __future__ import annotations

import base64
import json
import threading
from pathlib import Path
from typing import Any

import pytest

MiB = 1024 * 1024


@pytest.fixture(scope="module")
def scorer(scorers: Any) -> Any:
    return scorers.image_model(max_concurrent=2).ready()


def test_documented_bodies_reach_the_engine(scorer: Any) -> None:
    asked = json.dumps({"image_base64": "aGk=", "model_explainability": False})
    for given in (
        {"input_data": {"columns": ["image"], "index": [0, 1], "data": [["ab"], [asked]]}},
        {"input_data": {"columns": ["image"], "index": ["x", "y"], "data": ["ab", asked]}},
        {"input_data": {"data": ["ab", asked]}, "params": {}},
        {"input_data": {"columns": ["other", "image"], "data": [[1, "ab"], [None, asked]]}},
        {"input_data": ["ab", asked]},
        {"input_data": [["ab"], [asked]]},
        {"input_data": [{"image": "ab"}, {"image": asked}]},
        {"dataframe_split": {"columns": ["image"], "data": [["ab"], [asked]]}},
        {"dataframe_records": [{"image": "ab"}, {"image": asked}]},
    ):
        reply = scorer.score(given)
        assert reply.status == 200, reply.body
        assert [row["probs"] for row in reply.json] == [[2, None], [len(asked), None]], given
    assert scorer.score(b'\xef\xbb\xbf{"input_data": ["a"]}').json[0]["labels"] == ["a", "b"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "not JSON: Expecting value: line 1 column 1"),
        (b'{"input_data": [', 400, "column 17"),
        (b"\xff\xd8\xff", 400, "not UTF-8 text: byte 0 is 0xff"),
        (b'{"input_data": ["\xe9"]}', 400, "byte 17 is 0xe9"),
        (b'{"input_data": ["a"]}'.decode().encode("utf-16"), 400, "not UTF-8"),
        (b"[1]", 400, "must be a JSON object, not list"),
        (b"[" * 100_000, 400, "nested too deeply"),
        (b'{"input_data": ' + b"[" * 100_000, 400, "nested too deeply"),
        (b'{"input_data": ["a"], "input_data": ["b"]}', 400, "the key 'input_data' twice"),
        (b'{"input_data": [{"image": "a", "image": "b"}]}', 400, "the key 'image' twice"),
        (b'{"input_data": [1e999]}', 400, "row 0, column 'image': an infinite"),
        (b'{"input_data": ["a", NaN]}', 400, "row 1, column 'image': NaN"),
        (b'{"input_data": {"data": ["a"], "index": [Infinity]}}', 400, "'index': an infinite"),
        (b'{"input_data": ["a"], "params": {"x": [NaN]}}', 400, "'params': NaN"),
        (b'{"input_data": ["a"], "params": 3}', 400, "'params' must be an object"),
        (b'{"input_data": [' + b"9" * 5000 + b"]}", 400, "too many digits"),
        (b'{"input_data": [' + b"9" * 50 + b"]}", 400, "row 0, column 'image': the number has more than 64"),
        (b'{"input_data": ["a", null]}', 400, "row 1, column 'image': base64 text expected, got NoneType"),
        (b'{"input_data": ["a", {"x": 1}]}', 400, "row 1, column 'image': base64 text expected, got dict"),
        (b'{"input_data": ["a", ["b", "c"]]}', 400, "row 1 has 2 values for 1 columns ['image']"),
        (b'{"input_data": {"columns": ["picture"], "data": ["a"]}}', 400, "column 'image' is missing"),
        (
            b'{"input_data": {"columns": ["image", "image"], "data": [["a", "b"]]}}',
            400,
            "names a column twice",
        ),
        (b'{"input_data": {"columns": "image", "data": ["a"]}}', 400, "must be a list of names"),
        (b'{"input_data": {"columns": ["image"]}}', 400, "needs 'data'"),
        (b'{"input_data": "a"}', 400, "must be a list"),
        (b'{"input_data": []}', 400, "has no rows"),
        (b'{"input_data": ["a"], "dataframe_records": []}', 400, 'needs one key "input_data"'),
        (b'{"instances": ["a"]}', 400, 'needs one key "input_data"'),
        (b'{"input_data": ["a", "bad"]}', 400, "row 1, column 'image': not an image"),
        (b'{"input_data": [' + b'"",' * 200_001 + b'""]}', 413, "more than 200000 values"),
        (b"x" * 1_000_001, 413, "the body has 1000001 bytes, the limit is 1000000"),
    ],
    ids=range(31),
)
def test_bad_bodies_are_told_what_and_where(scorer: Any, body: bytes, status: int, words: str) -> None:
    reply = scorer.score(body)
    assert (reply.status, words in reply.message) == (status, True), reply.body
    assert "ms-azureml-model-error-statuscode" not in reply.headers and len(reply.body) < 1000
    assert scorer.score({"input_data": ["abc"]}).json[0]["probs"][0] == 3


@pytest.mark.parametrize("depth", range(850, 1010, 10))
def test_any_depth_of_nesting_is_refused_in_words(scorer: Any, depth: int) -> None:
    for nested in (b"[" * depth + b"]" * depth, b'{"x":' * depth + b"1" + b"}" * depth):
        for body in (b'{"input_data": ["a", [%b]]}', b'{"input_data": ["a"], "params": {"x": %b}}'):
            reply = scorer.score(body % nested)
            # What is parsed and looked at without harm may pass, as parameters of a model that has none.
            assert reply.status == 400 or (reply.status == 200 and b"params" in body), reply.body


def test_other_requests(scorer: Any) -> None:
    reply = scorer.ask("GET", "/score")
    assert (reply.status, reply.headers["Allow"]) == (405, "POST")
    assert scorer.ask("GET", "/nowhere").status == 404
    reply = scorer.score({"input_data": ["crash"]})
    assert (reply.status, reply.headers["ms-azureml-model-error-statuscode"]) == (500, "500")
    assert reply.headers["ms-azureml-model-error-reason"] == "RuntimeError: out of memory"
    with scorer.connect() as connection:
        connection.sendall(b"POST /score HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 411 ")
    with scorer.connect() as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        assert b"400" in connection.recv(1000)
    found = scorer.ask("GET", "/swagger.json?version=3").json["components"]["schemas"]
    assert found["Table"]["properties"]["columns"]["items"]["enum"] == ["image"]
    assert found["ServiceOutput"]["items"]["properties"]["probs"] == {
        "type": "array",
        "items": {"type": "number"},
    }


def test_requests_are_scored_side_by_side_up_to_the_slots(scorer: Any) -> None:
    found: list[int] = []
    ask = [
        threading.Thread(target=lambda: found.append(scorer.score({"input_data": ["both"]}).status))
        for _ in range(2)
    ]
    for thread in ask:
        thread.start()
    for thread in ask:
        thread.join()
    assert found == [200, 200]


def test_nothing_heavy_is_imported_and_the_engine_is_closed_at_the_end(scorers: Any) -> None:
    scorer = scorers.image_model()
    scorer.ready()
    maps = Path(f"/proc/{scorer.process.pid}/maps").read_text()
    assert not [word for word in ("numpy", "pandas", "mlflow", "torch") if f"/{word}/" in maps]
    assert "engine with room for 1" in scorer.log
    assert scorer.stop() == 0
    assert scorer.log.rstrip().endswith("stopped") and "engine closed" in scorer.log


def peak(pid: int, key: str) -> int:
    """A line of the process's memory in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))


@pytest.mark.parametrize("breaks", [False, True])
def test_memory_stays_under_three_times_the_body(scorers: Any, breaks: bool) -> None:
    scorer = scorers.image_model(max_body=100 * MiB).ready()
    before = peak(scorer.process.pid, "VmRSS")
    # 76 letters and a line break, as base64.encodebytes writes them.
    line = base64.encodebytes(b"\x5a" * 57) if breaks else b"Wlpa" * 19
    cell = json.dumps((line * 60_000).decode()).encode()
    count = 90 * MiB // len(cell)
    body = b'{"input_data": {"columns": ["image"], "data": [' + b",".join([cell] * count) + b"]}}"
    reply = scorer.score(body)
    assert reply.status == 200 and len(reply.json) == count
    assert len(body) > 85 * MiB
    # Measured: 2.0 times the body.
    assert peak(scorer.process.pid, "VmHWM") - before < 3 * len(body)
    assert peak(scorer.process.pid, "VmRSS") - before < 0.5 * len(body)
