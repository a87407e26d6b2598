"""Trials of object detection and instance segmentation with a tiny network; all around it is real."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_detector
import torch
from painted_objects import scenes, spec_file
from safetensors.torch import load_file

from amlocal.compat import names
from amlocal.trainers import beginning, charts, registry, spec, trial
from amlocal.trainers.charts import predictions
from amlocal.trainers.checkpoints import Checkpoints
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.metrics.detection import Result
from amlocal.trainers.models.network import rebuild
from amlocal.trainers.tasks.detection import Detection
from amlocal.trainers.tasks.detection_training import manner

MetricsOf = Callable[[Path], dict[str, dict[int, float]]]
Run = Callable[..., tuple[Path, Path]]
SEGMENTATION = "image-instance-segmentation"
MAP = "mean_average_precision"
PICTURES = "test_it_learns_and_leaves_everything_behind"


@pytest.fixture(scope="session")
def painted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """16 training images, two of them background, and 6 validation images, with polygons."""
    folder = tmp_path_factory.mktemp("scenes")
    return {
        "train": scenes(folder, "train", 16, 0, polygons=True, background=2),
        "validation": scenes(folder, "validation", 6, 100, polygons=True),
    }


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The network is a tiny one, and only the test PICTURES spends time on pictures and ONNX."""
    tiny_detector.take_over(monkeypatch.setitem)
    if request.node.originalname != PICTURES:
        monkeypatch.setattr(Detection, "write_onnx", lambda *_: None)
        monkeypatch.setattr(charts, "draw", lambda *_: [])
        monkeypatch.setattr(predictions, "draw", lambda *_: [])


@pytest.fixture
def run(tmp_path: Path, painted: dict[str, Path]) -> Run:
    """run(name, parameters, **fields) trains; returns its artifacts and state folders."""

    def train(name: str, parameters: dict[str, Any] | None = None, **fields: Any) -> tuple[Path, Path]:
        found = spec.load(spec_file(tmp_path, name, painted, parameters or {}, **fields))
        trial.run(found)
        return found.artifacts_dir, found.state_dir

    return train


def tensors_of(artifacts: Path) -> dict[str, torch.Tensor]:
    return load_file(artifacts / "outputs/mlflow-model/artifacts/model.safetensors")


@pytest.mark.parametrize("task", ["image-object-detection", SEGMENTATION])
def test_it_learns_and_leaves_everything_behind(
    run: Run, metrics_of: MetricsOf, capsys: pytest.CaptureFixture[str], task: str
) -> None:
    given = {"number_of_epochs": 40, "learning_rate": 0.1, "early_stopping": False}
    artifacts, state = run("whole", given, task=task, advanced_settings={"pretrained": False})
    said = capsys.readouterr().out
    found = metrics_of(state)
    assert found[MAP][39] > 0.5 > found[MAP][0]
    assert found["log_loss_train"][39] < found["log_loss_train"][0]
    assert found["log_loss"][39] < found["log_loss"][0]
    assert {"precision", "recall"} <= set(found)
    assert "epoch 40/40  loss" in said
    assert "    label 0." in said
    assert "  box 0." in said
    result = json.loads((state / "result.json").read_text())
    assert (result["train_images"], result["validation_images"]) == (16, 6)
    assert result["score"] == max(found[MAP].values())
    assert result["labels"] == ["disc", "square"]
    assert json.loads((artifacts / "train_artifacts/labels.json").read_text()) == ["disc", "square"]
    rows = json.loads((artifacts / "train_artifacts/per_label_metrics.json").read_text())
    assert [row["class_name"] for row in rows] == ["disc", "square"]
    assert (artifacts / "pr_curve_disc").exists()
    assert (artifacts / "precision_recall_curve.png").stat().st_size > 1000
    assert len(list((artifacts / "validation_predictions").glob("*.png"))) == 6
    state_dict = torch.load(artifacts / "outputs/model.pt", weights_only=True)
    assert set(state_dict) == set(tensors_of(artifacts))
    model = artifacts / "outputs/mlflow-model"
    settings = json.loads((model / "artifacts/settings.json").read_text())
    assert settings == {
        "min_size": 48,
        "max_size": 96,
        "box_score_thresh": 0.3,
        "nms_iou_thresh": 0.5,
        "box_detections_per_img": 100,
    }
    description = json.loads((model / "artifacts/model.json").read_text())
    assert description["options"]["min_size"] == 48
    assert description["options"]["trained"] is False
    network = rebuild(task, description["model_name"], 2, description["options"], description["facts"])
    network.module.load_state_dict(tensors_of(artifacts), strict=True)
    assert '"name": "boxes"' in (model / "MLmodel").read_text()
    assert "pycocotools==" in (model / "requirements.txt").read_text()


def test_a_killed_trial_resumes_to_the_same_numbers_each_epoch_once(run: Run, metrics_of: MetricsOf) -> None:
    given = {"number_of_epochs": 4, "evaluation_frequency": 2}
    whole_artifacts, whole_state = run("whole", given)
    real = trial.Loop._epoch

    def dies(self: Any, epoch: int, *rest: Any) -> Any:
        if epoch == 3:
            raise KeyboardInterrupt
        return real(self, epoch, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial.Loop, "_epoch", dies)
        with pytest.raises(KeyboardInterrupt):
            run("half", given)
    torch.manual_seed(12345)
    artifacts, state = run("half", given, attempt=2)
    found = metrics_of(state)
    assert found == metrics_of(whole_state)
    assert set(found[MAP]) == set(found["log_loss_train"]) == {0, 1, 2, 3}
    ours, theirs = tensors_of(artifacts), tensors_of(whole_artifacts)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_an_epoch_without_evaluation_repeats_the_last_metrics(run: Run, metrics_of: MetricsOf) -> None:
    given = {"number_of_epochs": 7, "evaluation_frequency": 3, "learning_rate": 0.1}
    real = Detection.evaluate
    asked: list[float] = []

    def counted(self: Detection, model: Any) -> Any:
        found = real(self, model)
        asked.append(found.metrics["log_loss"])
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Detection, "evaluate", counted)
        _, state = run("rare", given)
    losses = metrics_of(state)["log_loss"]
    assert len(asked) == 3
    assert [losses[epoch] for epoch in range(7)] == [*[asked[0]] * 3, *[asked[1]] * 3, asked[2]]
    assert len(set(asked)) == 3


def test_documents_are_made_once_for_each_half(run: Run) -> None:
    real = Result.documents
    made: list[int] = []

    def counted(self: Result) -> Any:
        made.append(len(self.scalars))
        return real(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Result, "documents", counted)
        artifacts, _ = run("documents", {"number_of_epochs": 4, "log_training_metrics": "Enable"})
    assert len(made) == 2
    assert (artifacts / "pr_curve").exists() and (artifacts / "pr_curve_train").exists()


def test_tiles_are_no_images_of_the_result(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"number_of_epochs": 1, "tile_grid_size": "2x1", "tile_overlap_ratio": 0.25}
    _, state = run("tiles", given)
    result = json.loads((state / "result.json").read_text())
    assert (result["train_images"], result["validation_images"]) == (16, 6)
    said = re.search(r"16 training \((\d+) with tiles\), 6 validation", capsys.readouterr().out)
    # Those of the two images that show nothing are not trained on.
    assert said is not None and 16 < int(said[1]) <= 16 + 14 * 2


def test_without_metrics_the_last_epoch_is_the_best(run: Run, metrics_of: MetricsOf) -> None:
    given = {"validation_metric_type": "none", "number_of_epochs": 8, "early_stopping_patience": 1}
    given |= {"early_stopping_delay": 1, "learning_rate": 0.0}
    artifacts, state = run("none", given)
    assert set(metrics_of(state)) == {"log_loss", "log_loss_train"}
    result = json.loads((state / "result.json").read_text())
    assert (result["score"], result["best_epoch"], result["epochs"]) == (0.0, 7, 8)
    assert not (artifacts / "pr_curve").exists()


@pytest.mark.parametrize(
    ("given", "there", "absent"),
    [
        (
            {"log_training_metrics": "Enable", "log_validation_loss": "Disable"},
            {MAP, "precision", "recall", f"{MAP}_train", "precision_train", "recall_train"},
            {"log_loss"},
        ),
        ({"validation_metric_type": "coco"}, {MAP, "log_loss"}, {"precision", f"{MAP}_train"}),
        ({"validation_metric_type": "coco_voc"}, {MAP, "precision", "recall"}, set()),
        ({"tile_grid_size": "2x1", "log_training_metrics": "Enable"}, {MAP}, {f"{MAP}_train"}),
    ],
)
def test_which_metrics_are_logged(
    run: Run, metrics_of: MetricsOf, given: dict[str, Any], there: set[str], absent: set[str]
) -> None:
    artifacts, state = run("kinds", {"number_of_epochs": 1, **given})
    found = set(metrics_of(state))
    assert there <= found
    assert not absent & found
    assert (artifacts / "coco_metrics").exists() == ("coco" in given.get("validation_metric_type", ""))
    assert (artifacts / "pr_curve_train").exists() == (f"{MAP}_train" in found)


def test_early_stopping_waits_until_the_patience_is_exceeded(run: Run, metrics_of: MetricsOf) -> None:
    given = {"number_of_epochs": 9, "learning_rate": 0.0, "layers_to_freeze": 4}
    given |= {"early_stopping_delay": 1, "early_stopping_patience": 2}
    with pytest.MonkeyPatch.context() as patch:
        real = Detection.evaluate

        def flat(self: Detection, model: Any) -> Any:
            found = real(self, model)
            found.metrics[MAP] = 0.5
            return found

        patch.setattr(Detection, "evaluate", flat)
        _, state = run("early", given)
    # Epochs 1, 2 and 3 are no progress: the third exceeds the patience of 2.
    assert set(metrics_of(state)[MAP]) == {0, 1, 2, 3}
    assert json.loads((state / "result.json").read_text())["best_epoch"] == 3


def test_frozen_layers_stay_as_they_were(run: Run) -> None:
    tensors = {}
    for frozen in (0, 2):
        given = {"number_of_epochs": 1, "layers_to_freeze": frozen, "learning_rate": 0.1, "weight_decay": 0.1}
        tensors[frozen] = tensors_of(run(f"frozen{frozen}", given)[0])
    start = tensors_of(run("start", {"number_of_epochs": 1, "learning_rate": 0.0})[0])
    assert torch.equal(tensors[2]["body.0.weight"], start["body.0.weight"])
    assert torch.equal(tensors[2]["body.3.weight"], start["body.3.weight"])
    assert not torch.equal(tensors[2]["body.6.weight"], start["body.6.weight"])
    assert not torch.equal(tensors[0]["body.0.weight"], start["body.0.weight"])


@pytest.mark.parametrize("earlier", [["disc", "square"], ["apple", "pear"]])
def test_other_labels_make_the_heads_start_anew(run: Run, tmp_path: Path, earlier: list[str]) -> None:
    first, _ = run("first", {"number_of_epochs": 1, "learning_rate": 0.1})
    (tmp_path / "earlier.json").write_text(json.dumps(earlier))
    start = {
        "run_id": "first",
        "model_name": "fasterrcnn_resnet18_fpn",
        "weights": str(first / "outputs/model.pt"),
        "labels": str(tmp_path / "earlier.json"),
    }
    second, _ = run("second", {"number_of_epochs": 1, "learning_rate": 0.0}, start=start)
    ours, theirs = tensors_of(second), tensors_of(first)
    assert torch.equal(ours["body.0.weight"], theirs["body.0.weight"])
    assert torch.equal(ours["sides.weight"], theirs["sides.weight"])
    same = torch.equal(ours["labels.weight"], theirs["labels.weight"])
    assert same == (earlier == ["disc", "square"])
    options = json.loads((second / "outputs/mlflow-model/artifacts/model.json").read_text())["options"]
    assert options["trained"] is True


def test_a_resumed_trial_is_built_as_the_first_attempt_was(run: Run, tmp_path: Path) -> None:
    _, state = run("built", {"number_of_epochs": 1})
    (state / "weights.json").write_text(json.dumps({"file": "/somewhere/x.safetensors", "random": None}))
    again = spec.load(tmp_path / "built.json")
    assert beginning.building(again, None)["trained"] is False  # type: ignore[index]
    fields = json.loads((tmp_path / "built.json").read_text())
    (tmp_path / "built.json").write_text(json.dumps(fields | {"attempt": 2}))
    assert beginning.building(spec.load(tmp_path / "built.json"), None)["trained"] is True  # type: ignore[index]


def test_a_batch_that_does_not_fit_is_halved_in_training_and_in_validation(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tiny_detector.build

    def small(*given: Any) -> Any:
        network = real(*given)
        network.module.most = 2  # type: ignore[assignment]
        return network

    monkeypatch.setattr(tiny_detector, "build", small)
    given = {"number_of_epochs": 1, "validation_batch_size": 5}
    run("short", given)
    said = capsys.readouterr().out
    assert "a batch of 4 does not fit into memory" in said
    assert "a validation batch of 6 does not fit into memory" in said
    assert "best epoch 1 of 1" in said
    monkeypatch.setattr(tiny_detector, "build", lambda *g: _none(real(*g)))
    with pytest.raises(TrainingError, match="single image; reduce min_size and max_size"):
        run("none", given)


def _none(network: Any) -> Any:
    network.module.most = 0
    return network


def test_averaged_weights_are_kept_and_resumed(
    run: Run, metrics_of: MetricsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"number_of_epochs": 3, "learning_rate": 0.1, "checkpoint_frequency": 3}
    plain, _ = run("plain", given)
    monkeypatch.setattr(tiny_detector.Cells, "averaged", True)
    artifacts, state = run("averaged", given)
    averaged = tensors_of(artifacts)
    assert not torch.equal(averaged["labels.weight"], tensors_of(plain)["labels.weight"])
    real = trial.Loop._epoch

    def dies(self: Any, epoch: int, *rest: Any) -> Any:
        if epoch == 2:
            raise KeyboardInterrupt
        return real(self, epoch, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial.Loop, "_epoch", dies)
        with pytest.raises(KeyboardInterrupt):
            run("half", given)
    checkpoint = Checkpoints(state.parents[1] / "half/state/checkpoint").latest()
    assert checkpoint is not None
    assert checkpoint.state["averaged"] == 8  # 4 steps in each of 2 epochs
    again, state_again = run("half", given, attempt=2)
    assert metrics_of(state_again) == metrics_of(state)
    ours = tensors_of(again)
    assert all(torch.equal(ours[key], averaged[key]) for key in averaged)
    kept = torch.load(artifacts / "train_artifacts/2_model.pt", weights_only=True)
    result = json.loads((state / "result.json").read_text())
    assert (result["best_epoch"] == 2) == all(torch.equal(kept[key], averaged[key]) for key in averaged)


def test_random_seed_repeats_a_trial_and_another_one_does_not(run: Run, metrics_of: MetricsOf) -> None:
    ends = [
        metrics_of(run(name, {"random_seed": seed, "number_of_epochs": 2})[1])
        for name, seed in (("one", 7), ("two", 7), ("three", 8))
    ]
    assert ends[0] == ends[1]
    assert ends[0]["log_loss_train"] != ends[2]["log_loss_train"]


def test_every_detector_has_a_manner() -> None:
    row = names.models("image-object-detection")["fasterrcnn_resnet18_fpn"]
    assert manner(row, scored=False).scored is False
    assert manner(row, scored=True).sizes == "min_size and max_size"
    assert manner(replace(row, builder="yolo"), scored=True).sizes == "image_size"
    other = manner(replace(row, builder="mmdet"), scored=True)
    assert (other.mixed, other.exploded > manner(row, scored=True).exploded) == (False, True)
    assert registry.task("image-object-detection") is registry.task(SEGMENTATION)
