"""A model's folder becomes a model that answers concurrent calls as the MLflow model answers."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from base64 import b64encode, encodebytes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from amlocal.trainers import scoring, serving
from amlocal.trainers.checkpoints import plain
from amlocal.trainers.models.network import rebuild
from amlocal.trainers.serving import starting
from amlocal.trainers.serving.cells import image_bytes
from amlocal.trainers.serving.served import Served
from amlocal.trainers.serving.starting import picture

MULTICLASS, MULTILABEL = "image-classification", "image-classification-multilabel"
LABELS = ["can", "carton", "milk"]
SIZES = {"valid_resize_size": 36, "valid_crop_size": 32, "train_crop_size": 32}


def write_model(folder: Path, task: str, **settings: Any) -> Path:
    folder.mkdir()
    torch.manual_seed(8)
    module = rebuild(task, "resnet18", len(LABELS), 32, None).module
    with torch.no_grad():
        module.fc.weight.mul_(20)
    save_file(plain(module), folder / "model.safetensors")
    (folder / "labels.json").write_text(json.dumps(LABELS))
    (folder / "settings.json").write_text(json.dumps(SIZES | settings))
    description = {"schema": 1, "task": task, "model_name": "resnet18"}
    (folder / "model.json").write_text(json.dumps(description))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {task: write_model(root / task, task) for task in (MULTICLASS, MULTILABEL)}


def started(folder: Path, log: Callable[[str], None] = print, most: int = 4, **environment: str) -> Served:
    given = {"AMLOCAL_SCORING_ENGINE": "eager", "AMLOCAL_SCORING_THREADS": "1"} | environment
    return starting.start(folder, most=most, log=log, environment=given)


@pytest.mark.parametrize("task", [MULTICLASS, MULTILABEL])
def test_answers_are_those_of_the_mlflow_model(task: str, folders: dict[str, Path]) -> None:
    served = started(folders[task])
    cells = [b64encode(picture(n)).decode() for n in range(3)]
    found = served.score(cells)
    table = scoring._load_pyfunc(str(folders[task])).predict(pd.DataFrame({"image": cells}))
    expected = table.to_dict("records")
    assert [row["labels"] for row in found] == [LABELS] * 3
    for row, other in zip(found, expected, strict=True):
        assert row["probs"] == pytest.approx(other["probs"], abs=1e-6)
    assert found[0]["probs"] != pytest.approx(found[1]["probs"], abs=1e-3)
    assert served.columns == ("image",)
    served.close()


def test_the_probe_chooses_an_engine_that_answers_alike_and_tells_the_figures(
    folders: dict[str, Path],
) -> None:
    lines: list[str] = []
    served = started(folders[MULTICLASS], lines.append, AMLOCAL_SCORING_ENGINE="auto")
    assert len(lines) == 3
    assert lines[0].startswith("image-classification, resnet18: 3 labels, 32 x 32 pixels; CPU, 1 threads")
    assert lines[1].startswith("engines: eager ")
    assert all(name in lines[1] for name in ("onnx", "channels_last"))
    assert "answers differ from eager fp32 by" in lines[2]
    plain_answers = started(folders[MULTICLASS]).score([picture(5)])
    found = served.score([picture(5)])
    assert found[0]["probs"] == pytest.approx(plain_answers[0]["probs"], abs=1e-2)
    served.close()


def test_onnx_may_be_asked_for(folders: dict[str, Path]) -> None:
    lines: list[str] = []
    served = started(folders[MULTICLASS], lines.append, AMLOCAL_SCORING_ENGINE="onnx")
    assert lines[-1].startswith("engine onnx: ")
    expected = started(folders[MULTICLASS]).score([picture(1), picture(2)])
    for row, other in zip(served.score([picture(1), picture(2)]), expected, strict=True):
        assert row["probs"] == pytest.approx(other["probs"], abs=1e-4)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("AMLOCAL_SCORING_ENGINE", "fast", "must be one of auto, eager, channels_last"),
        ("AMLOCAL_SCORING_ENGINE", "compiled", "compiled is not possible: compiling pays on a GPU only"),
        ("AMLOCAL_SCORING_THREADS", "0", "a whole number from 1 to 1024"),
        ("AMLOCAL_SCORING_THREADS", "many", "a whole number from 1 to 1024"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU compiles")
def test_what_cannot_be_had_is_refused(folders: dict[str, Path], name: str, value: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        started(folders[MULTICLASS], **{name: value})


class Held:
    """A run that waits until it may go on; counts images of each pass."""

    def __init__(self) -> None:
        self.passes: list[int] = []
        self.begun = threading.Event()
        self.go = threading.Event()

    def __call__(self, rows: list[bytes]) -> list[dict[str, Any]]:
        self.passes.append(len(rows))
        self.begun.set()
        assert self.go.wait(20)
        return [{"size": len(row)} for row in rows]


def test_concurrent_calls_share_a_forward_pass_and_a_bad_image_fails_alone() -> None:
    held = Held()
    arrived = threading.Semaphore(0)

    def prepare(row: bytes) -> bytes:
        arrived.release()
        if row == b"bad":
            raise ValueError("no image")
        return row

    served = Served(prepare, held, limit=8, most=8)
    answers: dict[int, Any] = {}

    def call(number: int) -> None:
        try:
            answers[number] = served.score([b"x" * number] if number != 3 else [b"x", b"bad"])
        except ValueError as error:
            answers[number] = str(error)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(1, 7)]
    threads[0].start()
    assert held.begun.wait(20)
    for thread in threads[1:]:
        thread.start()
    for _ in range(7):
        assert arrived.acquire(timeout=20)
    # Rows are queued just after they are prepared.
    while sum(len(waiting.rows) for waiting in list(served.batches._waiting)) < 4:
        threads[2].join(0.01)
    held.go.set()
    for thread in threads:
        thread.join(20)
    assert held.passes == [1, 4]
    assert answers.pop(3) == "row 1: no image"
    assert answers == {n: [{"size": n}] for n in (1, 2, 4, 5, 6)}
    served.close()


def test_large_requests_are_split_and_keep_their_order() -> None:
    held = Held()
    held.go.set()
    served = Served(lambda row: row, held, limit=3, most=1)
    assert [row["size"] for row in served.score([b"x" * n for n in range(1, 9)])] == list(range(1, 9))
    assert held.passes == [3, 3, 2]
    assert served.score([]) == []
    with pytest.raises(ValueError, match=r"^row 7: expected base64 text or bytes, not int"):
        served.score([b"x"] * 7 + [7])
    served.close()


def test_a_batch_that_does_not_fit_into_memory_is_halved_and_the_next_ones_are_smaller(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def tight(plan: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        def forward(inputs: torch.Tensor) -> torch.Tensor:
            sizes.append(len(inputs))
            if len(inputs) > 2:
                raise RuntimeError("DefaultCPUAllocator: not enough memory")
            return plan.module(inputs)

        return forward

    lines: list[str] = []
    monkeypatch.setattr(starting, "_PROBE_IMAGES", 2)
    expected = started(folders[MULTICLASS]).score([picture(n) for n in range(8)])
    monkeypatch.setitem(starting.engines.ENGINES, "eager", tight)  # type: ignore[arg-type]
    served = started(folders[MULTICLASS], lines.append)
    sizes.clear()
    found = served.score([picture(n) for n in range(8)])
    assert sizes == [8, 4, 2, 2, 4, 2, 2]
    assert lines[-1] == "a batch did not fit into memory; from now on 2 images at a time"
    for row, other in zip(found, expected, strict=True):
        assert row["probs"] == pytest.approx(other["probs"], abs=1e-5)
    sizes.clear()
    served.score([picture(n) for n in range(4)])
    assert sizes == [2, 2]


BASE64 = b64encode(b"\x89PNG rest").decode()


@pytest.mark.parametrize(
    "cell",
    [
        b"\x89PNG rest",
        bytearray(b"\x89PNG rest"),
        memoryview(b"\x89PNG rest"),
        BASE64,
        encodebytes(b"\x89PNG rest").decode(),
        f" {BASE64[:5]}\r\n\t{BASE64[5:]}\n",
        json.dumps({"image_base64": BASE64}),
        json.dumps({"image_base64": BASE64, "model_explainability": False, "xai_parameters": {}}),
        b"\n " + json.dumps({"image_base64": BASE64}).encode(),
    ],
)
def test_every_form_of_a_cell_gives_the_bytes_of_the_image(cell: object) -> None:
    assert image_bytes(0, cell) == b"\x89PNG rest"


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (7, "expected base64 text or bytes, not int"),
        (None, "expected base64 text or bytes, not NoneType"),
        ("", "the text is empty"),
        ("no base64!", "not base64 text"),
        ("AAA", "not base64 text"),
        ("-_-_", "not base64 text"),
        ("äöü", "not base64 text"),
        ('{"image_base64": ', "neither base64 text nor JSON text"),
        (b'{"image_base64": "\xff"}', "neither base64 text nor JSON text"),
        ('{"a":' * 100_000, "neither base64 text nor JSON text"),
        ('{"image": "AAAA"}', 'the JSON text needs "image_base64"'),
        ('{"image_base64": 5}', 'the JSON text needs "image_base64"'),
        ('{"image_base64": "AAAA", "model_explainability": "yes"}', "it must be true or false"),
        ('{"image_base64": "AAAA", "model_explainability": true}', "explanations are not there yet"),
    ],
)
def test_a_cell_without_an_image_is_named_with_its_row(cell: object, words: str) -> None:
    with pytest.raises(ValueError, match=f"^row 4: .*{words}"):
        image_bytes(4, cell)


QUICK = """
import json, sys
from pathlib import Path
from amlocal.trainers import serving
before = sorted(name for name in ("numpy", "torch") if name in sys.modules)
served = serving.load(Path(sys.argv[1]), most=2, log=lambda line: None)
import torch
heavy = ("mlflow", "pandas", "transformers", "sklearn", "scipy", "matplotlib", "torch._dynamo",
         "torch._inductor", "sympy", "onnxscript", "onnxruntime")
found = [name for name in heavy if name in sys.modules]
cells = json.loads(sys.stdin.read())
print(json.dumps([before, found, torch.get_num_threads(), served.score(cells)]))
served.close()
"""


def test_a_start_imports_no_more_than_building_the_network_needs(folders: dict[str, Path]) -> None:
    cells = [b64encode(picture(3)).decode()]
    given = {"AMLOCAL_SCORING_ENGINE": "eager", "AMLOCAL_SCORING_THREADS": "1", "PATH": "/usr/bin"}
    found = subprocess.run(
        [sys.executable, "-c", QUICK, str(folders[MULTICLASS])],
        input=json.dumps(cells),
        capture_output=True,
        text=True,
        env=given,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    before, heavy, threads, answers = json.loads(found.stdout)
    assert (before, heavy, threads) == ([], [], 1)
    expected = started(folders[MULTICLASS]).score(cells)
    assert answers[0]["probs"] == pytest.approx(expected[0]["probs"], abs=1e-6)


def test_the_settings_of_the_folder_change_the_answers(tmp_path: Path, folders: dict[str, Path]) -> None:
    zoomed = write_model(tmp_path / "zoomed", MULTICLASS, valid_resize_size=90, of_nobody={"x": [1]})
    old = write_model(tmp_path / "old", MULTICLASS)
    (old / "settings.json").write_text(json.dumps({"resize_size": 90, "crop_size": 32}))
    usual, other, named = (started(path).score([picture(2)]) for path in (folders[MULTICLASS], zoomed, old))
    assert usual[0]["probs"] != pytest.approx(other[0]["probs"], abs=1e-4)
    assert named == other
    both = {"valid_resize_size": 90, "resize_size": 36, "valid_crop_size": 32, "crop_size": 64}
    (old / "settings.json").write_text(json.dumps(both))
    assert started(old).score([picture(2)]) == other


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "settings.json cannot be read as JSON"),
        ('{"train_crop_size": "32"}', "train_crop_size is '32'; it must be a whole number"),
        ('{"resize_size": 0}', "resize_size is 0; it must be a whole number from 1 to 8192"),
    ],
)
def test_settings_that_cannot_be_used_are_said_at_load(tmp_path: Path, text: str, words: str) -> None:
    folder = write_model(tmp_path / "model", MULTICLASS)
    (folder / "settings.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        serving.load(folder, most=1, log=print)


def test_a_task_that_nobody_scores_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text('{"task": "image-captions", "model_name": "x"}')
    with pytest.raises(ValueError, match="task is 'image-captions'; models of image-classification, "):
        serving.load(tmp_path, most=1, log=print)
