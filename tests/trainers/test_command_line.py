"""`python -m amlocal.trainers`, from spec to predictions in another process; and killed in the middle."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TRAINERS = [sys.executable, "-m", "amlocal.trainers"]
PLAIN = {"pretrained": False, "apply_automl_train_augmentations": False}

PREDICT = """
import base64, json, sys
import mlflow.pyfunc
import pandas as pd
folder, *images = sys.argv[1:]
model = mlflow.pyfunc.load_model(folder)
raw = [open(path, "rb").read() for path in images]
text = [base64.encodebytes(data).decode() for data in raw]
found = model.predict(pd.DataFrame({"image": text})).to_dict("records")
assert model.predict(pd.DataFrame({"image": raw})).to_dict("records") == found
errors = []
for bad in ("not base64!", base64.b64encode(b"no image").decode(), base64.b64encode(raw[0][:200]).decode()):
    try:
        model.predict(pd.DataFrame({"image": [text[0], bad]}))
    except ValueError as error:
        errors.append(str(error))
settings = folder + "/artifacts/settings.json"
edited = json.load(open(settings)) | {"valid_resize_size": 64}
json.dump(edited, open(settings, "w"))
zoomed = mlflow.pyfunc.load_model(folder).predict(pd.DataFrame({"image": text})).to_dict("records")
json.dump(edited | {"valid_crop_size": "big"}, open(settings, "w"))
try:
    mlflow.pyfunc.load_model(folder)
except ValueError as error:
    errors.append(str(error))
metadata = model.metadata
facts = {"metadata": metadata.metadata, "run_id": metadata.run_id, "signature": metadata.signature.to_dict(),
         "flavors": metadata.flavors, "modules": [m for m in sys.modules if m.startswith("amlocal.emulator")]}
print(json.dumps({"found": found, "errors": errors, "zoomed": zoomed, **facts}))
"""


def test_a_trial_learns_a_set_by_heart_and_its_model_scores_in_another_process(
    make_spec: Any, tmp_path: Path, colour_set: dict[str, Path]
) -> None:
    given = {"number_of_epochs": 20, "learning_rate": 0.01, "early_stopping": False}
    path = make_spec("e2e", given, advanced_settings=PLAIN)
    done = subprocess.run([*TRAINERS, "train", str(path)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for line in ("resnet18", "24 training, 9 validation", "3: blue, green, red", "epoch 20/20", "images/s"):
        assert line in done.stdout
    state, artifacts = tmp_path / "e2e" / "state", tmp_path / "e2e" / "artifacts"
    assert json.loads((state / "result.json").read_text()) == {
        "primary_metric": "accuracy",
        "score": 1.0,
        "best_epoch": 19,
        "model_name": "resnet18",
        "epochs": 20,
        "train_images": 24,
        "validation_images": 9,
        "labels": ["blue", "green", "red"],
        "artifacts": {"mlflow_model": "outputs/mlflow-model", "onnx": "train_artifacts/model.onnx"},
    }
    assert (artifacts / "train_artifacts/model.onnx").stat().st_size > 40_000_000
    assert json.loads((artifacts / "train_artifacts/labels.json").read_text()) == ["blue", "green", "red"]
    assert json.loads((artifacts / "outputs/data_report.json").read_text()) == {"dropped": []}
    matrix = json.loads((artifacts / "confusion_matrix").read_text())
    assert matrix["data"] == {
        "class_labels": ["blue", "green", "red"],
        "matrix": [[3, 0, 0], [0, 3, 0], [0, 0, 3]],
    }
    assert json.loads((artifacts / "accuracy_table").read_text())["schema_type"] == "accuracy_table"
    model = artifacts / "outputs" / "mlflow-model"
    assert sorted(p.relative_to(model).as_posix() for p in model.rglob("*") if p.is_file()) == [
        "MLmodel",
        "artifacts/labels.json",
        "artifacts/model.json",
        "artifacts/model.safetensors",
        "artifacts/settings.json",
        "conda.yaml",
        "python_env.yaml",
        "requirements.txt",
    ]
    settings = {"valid_resize_size": 36, "valid_crop_size": 32, "train_crop_size": 32}
    assert json.loads((model / "artifacts/settings.json").read_text()) == settings
    assert [p.name for p in artifacts.rglob(".*")] == []

    rows = [json.loads(line) for line in colour_set["validation"].read_text().splitlines()]
    answer = subprocess.run(
        [sys.executable, "-c", PREDICT, str(model), *(row["path"] for row in rows)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert answer.returncode == 0, answer.stderr
    told = json.loads(answer.stdout.splitlines()[-1])
    assert len(told["found"]) == len(rows)
    for row, found in zip(rows, told["found"], strict=True):
        assert set(found) == {"probs", "labels"}
        assert found["labels"] == ["blue", "green", "red"]
        assert sum(found["probs"]) == pytest.approx(1.0, abs=1e-5)
        assert found["labels"][found["probs"].index(max(found["probs"]))] == row["label"]
    assert told["zoomed"] != told["found"]
    assert len(told["errors"]) == 4
    assert told["errors"][0].startswith("row 1: not base64 text")
    assert told["errors"][1] == "row 1: not an image in a known format"
    assert told["errors"][2].startswith("row 1: ")
    assert "settings.json: valid_crop_size is 'big'" in told["errors"][3]
    assert told["metadata"] == {
        "base_model_name": "resnet18",
        "finetuning_task": "image-classification",
        "is_automl_model": True,
        "training_run_id": "e2e",
    }
    assert told["run_id"] == "e2e"
    assert json.loads(told["signature"]["inputs"]) == [{"type": "binary", "name": "image", "required": True}]
    assert [c["name"] for c in json.loads(told["signature"]["outputs"])] == ["probs", "labels"]
    flavor = told["flavors"]["python_function"]
    assert (flavor["loader_module"], flavor["data"]) == ("amlocal.trainers.scoring", "artifacts")
    assert "python_model" not in flavor
    assert told["modules"] == []
    assert base64.b64decode(base64.b64encode(b"x")) == b"x"


def wait_for(done: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"still waiting for {what}"
        time.sleep(0.02)


def test_killed_in_the_middle_and_started_again_it_ends_with_every_epoch_once(
    make_spec: Any, metrics_of: Callable[[Path], dict[str, dict[int, float]]], tmp_path: Path
) -> None:
    given = {"number_of_epochs": 6, "early_stopping": False}
    state = tmp_path / "killed" / "state"
    log = state / "metrics.jsonl"
    process = subprocess.Popen(
        [*TRAINERS, "train", str(make_spec("killed", given))],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        wait_for(lambda: log.exists() and '"step": 2' in log.read_text(), "the third epoch")
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (state / "result.json").exists()
    before = log.read_text().splitlines()

    again = subprocess.run(
        [*TRAINERS, "train", str(make_spec("killed", given, attempt=2))], capture_output=True, text=True
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert "resuming from the checkpoint of epoch" in again.stdout
    assert "epoch 1/6" not in again.stdout
    found = metrics_of(state)
    assert {key: sorted(steps) for key, steps in found.items()} == {key: [0, 1, 2, 3, 4, 5] for key in found}
    assert {"accuracy", "log_loss", "log_loss_train", "AUC_weighted"} <= set(found)
    assert log.read_text().splitlines()[: len(before) - 1] == before[:-1]
    assert json.loads((state / "result.json").read_text())["epochs"] == 6


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "the following arguments are required: COMMAND"),
        (["fly"], 2, "invalid choice: 'fly'"),
        (["train"], 2, "the following arguments are required: SPEC"),
        (["train", "/nonexistent/spec.json"], 1, "ERROR: cannot read the spec /nonexistent/spec.json"),
    ],
)
def test_wrong_calls_are_explained(arguments: list[str], code: int, said: str) -> None:
    done = subprocess.run([*TRAINERS, *arguments], capture_output=True, text=True)
    assert done.returncode == code
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_failure_ends_with_its_reason(make_spec: Any, tmp_path: Path) -> None:
    path = make_spec("fails", advanced_settings={})
    done = subprocess.run([*TRAINERS, "train", str(path)], capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("ERROR: pretrained weights of resnet18 were not found")
    assert str(tmp_path / "weights" / "resnet18.safetensors") in last
    assert not (tmp_path / "fails" / "state" / "result.json").exists()
