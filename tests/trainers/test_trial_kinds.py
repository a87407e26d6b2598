"""Whole trials of other kinds: many labels per image, from an earlier run, streamed, of another precision."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from painted import paint, write_manifest
from pytest_mock import MockerFixture
from safetensors.torch import load_file

from amlocal.trainers import optim, spec, trial
from amlocal.trainers.errors import TrainingError

MetricsOf = Callable[[Path], dict[str, dict[int, float]]]
PLAIN = {"pretrained": False, "apply_automl_train_augmentations": False}
ONE = {"number_of_epochs": 1}


def run(path: Path) -> tuple[Path, Path]:
    """Run a spec here; returns its artifacts and state folders."""
    found = spec.load(path)
    trial.run(found)
    return found.artifacts_dir, found.state_dir


@pytest.fixture
def many_labels(tmp_path: Path) -> dict[str, str]:
    """Blue images, and red ones that are warm too: {"train_manifest", "validation_manifest"}."""

    def half(name: str, each: int) -> str:
        rows: list[tuple[Path, Any]] = []
        for number in range(each):
            for label in ("blue", "red"):
                image = paint(tmp_path / "many" / name / f"{label}{number}.jpg", label, number)
                rows.append((image, ["red", "warm"] if label == "red" else ["blue"]))
        return str(write_manifest(tmp_path / f"{name}.jsonl", rows))

    return {"train_manifest": half("train", 8), "validation_manifest": half("validation", 3)}


def test_several_labels_per_image(make_spec: Any, metrics_of: MetricsOf, many_labels: dict[str, str]) -> None:
    task = {"task": "image-classification-multilabel", "primary_metric": "iou", **many_labels}
    given = {"number_of_epochs": 6, "learning_rate": 0.01, "weighted_loss": 1}
    artifacts, state = run(make_spec("many", given, advanced_settings=PLAIN, **task))
    metrics = metrics_of(state)
    assert {"iou", "iou_micro", "iou_macro", "iou_weighted", "accuracy", "log_loss"} <= set(metrics)
    result = json.loads((state / "result.json").read_text())
    assert result["labels"] == ["blue", "red", "warm"]
    assert result["score"] == max(metrics["iou"].values()) >= 0.6
    report = json.loads((artifacts / "classification_report").read_text())
    names = [row["class_name"] for row in report["data"]["rows"]]
    assert names[:3] == ["blue", "red", "warm"]
    assert (artifacts / "classification_report.png").read_bytes().startswith(b"\x89PNG")
    assert not (artifacts / "confusion_matrix").exists()


def test_going_on_from_an_earlier_run(
    make_spec: Any, colour_set: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier, _ = run(make_spec("earlier", ONE))
    start = {
        "run_id": "earlier",
        "model_name": "resnet18",
        "weights": str(earlier / "outputs" / "model.pt"),
        "labels": str(earlier / "train_artifacts" / "labels.json"),
    }
    still = {**ONE, "learning_rate": 0.0}
    capsys.readouterr()
    same, _ = run(make_spec("same", still, start=start))
    assert "122 of 122 tensors come from run earlier, 0 are new" in capsys.readouterr().out
    weights = load_file(earlier / "outputs/mlflow-model/artifacts/model.safetensors")
    ours = load_file(same / "outputs/mlflow-model/artifacts/model.safetensors")
    assert all(
        torch.equal(weights[name], ours[name])
        for name in weights
        if "running" not in name and "num" not in name
    )

    rows = [json.loads(line) for line in colour_set["train"].read_text().splitlines()]
    other = [(Path(row["path"]), row["label"].replace("red", "crimson")) for row in rows]
    crimson = {
        "train_manifest": str(write_manifest(tmp_path / "crimson.jsonl", other)),
        "validation_manifest": None,
    }
    changed, _ = run(make_spec("changed", still, start=start, **crimson))
    said = capsys.readouterr().out
    assert "labels differ from those of run earlier (no more: red; new: crimson)" in said
    assert "120 of 122 tensors come from run earlier, 2 are new" in said
    new = load_file(changed / "outputs/mlflow-model/artifacts/model.safetensors")
    assert torch.equal(new["conv1.weight"], weights["conv1.weight"])
    assert not torch.equal(new["fc.weight"], weights["fc.weight"])

    with pytest.raises(TrainingError, match="of model resnet18, and this job trains mobilenetv2"):
        run(make_spec("another", {**ONE, "model_name": "mobilenetv2"}, start=start))


def test_a_streamed_set_trains_without_what_cannot_be_read(
    make_spec: Any, colour_set: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in colour_set["train"].read_text().splitlines()]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    some = [(Path(row["path"]), row["label"]) for row in rows[:12]] + [(broken, "red")]
    manifest = str(write_manifest(tmp_path / "some.jsonl", some))
    advanced = {"pretrained": False, "stream_image_files": True}
    _, state = run(
        make_spec(
            "streamed",
            {"number_of_epochs": 2},
            advanced_settings=advanced,
            train_manifest=manifest,
            cache_max_gb=0.0001,
        )
    )
    assert json.loads((state / "result.json").read_text())["epochs"] == 2
    said = capsys.readouterr().out
    assert said.count("some.jsonl:13 is left out") == 1


def test_a_number_type_of_choice(make_spec: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _, state = run(make_spec("short", ONE, advanced_settings={**PLAIN, "precision": "bf16"}))
    assert json.loads((state / "layout.json").read_text())["number_type"] == "bf16"
    assert "channels_last, bf16" in capsys.readouterr().out
    with pytest.raises(TrainingError, match="precision is 'int4'; it must be auto, fp32, bf16, fp16"):
        run(make_spec("wrong", ONE, advanced_settings={**PLAIN, "precision": "int4"}))


def test_without_the_fast_path_a_step_is_a_plain_one_and_the_numbers_agree(
    make_spec: Any, metrics_of: MetricsOf, capsys: pytest.CaptureFixture[str], mocker: MockerFixture
) -> None:
    made = mocker.spy(optim, "optimizer")
    losses = []
    for name, fast in (("fast", True), ("plain", False)):
        given = {**ONE, "optimizer": "sgd", "learning_rate": 1e-4}
        _, state = run(make_spec(name, given, advanced_settings={**PLAIN, "fast_path": fast}))
        losses.append(metrics_of(state)["log_loss"])
    out = capsys.readouterr().out
    assert "channels_last, fp32" in out and "contiguous, fp32" in out
    assert [bool(found.defaults["fused"]) for found in made.spy_return_list] == [True, False]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


def test_what_is_ignored_is_said_and_the_level_is_kept(
    make_spec: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run(make_spec("quiet", ONE, ignored=["fooBar"], log_verbosity="Warning"))
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines[0] == "WARNING: fooBar is no parameter of this task; ignored"
    assert lines[-1].startswith("best epoch 1 of 1")
    assert all(line.startswith("WARNING: ") for line in lines[:-1])
