"""Whole trials on a tiny set of three colours, which any network learns by heart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from amlocal.trainers import spec, trial
from amlocal.trainers.data import cache
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.tasks.classification import Classification

MetricsOf = Callable[[Path], dict[str, dict[int, float]]]
PLAIN = {"pretrained": False, "apply_automl_train_augmentations": False}


def run(path: Path) -> tuple[Path, Path]:
    """Run a spec here; returns its artifacts and state folders."""
    found = spec.load(path)
    trial.run(found)
    return found.artifacts_dir, found.state_dir


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(
    make_spec: Any, metrics_of: MetricsOf
) -> None:
    ends = []
    for name, seed in (("one", 7), ("two", 7), ("three", 8)):
        artifacts, state = run(make_spec(name, {"random_seed": seed, "number_of_epochs": 1}))
        ends.append(
            (metrics_of(state), load_file(artifacts / "outputs/mlflow-model/artifacts/model.safetensors"))
        )
    (first, tensors), (second, same), (third, other) = ends
    assert first == second
    assert all(torch.equal(tensors[key], same[key]) for key in tensors)
    assert first["log_loss_train"] != third["log_loss_train"]
    assert not torch.equal(tensors["conv1.weight"], other["conv1.weight"])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_attempt_after_a_checkpoint_ends_as_if_nothing_had_happened(
    make_spec: Any, metrics_of: MetricsOf, tmp_path: Path, optimizer: str
) -> None:
    given = {
        "model_name": "mobilenetv2",
        "optimizer": optimizer,
        "learning_rate": 0.01,
        "number_of_epochs": 3,
    }
    whole_artifacts, whole_state = run(make_spec("whole", given))
    half = spec.load(make_spec("half", given))
    real = trial.Loop._epoch

    def dies(self: Any, epoch: int, *rest: Any) -> Any:
        if epoch == 2:
            raise KeyboardInterrupt
        return real(self, epoch, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial.Loop, "_epoch", dies)
        with pytest.raises(KeyboardInterrupt):
            trial.run(half)
    assert set(metrics_of(half.state_dir)["accuracy"]) == {0, 1}
    # As if killed between the checkpoint of the second epoch and its metrics.
    log = half.state_dir / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(line for line in lines if json.loads(line)["step"] == 0) + '{"key": "acc')
    torch.manual_seed(12345)
    artifacts, state = run(make_spec("half", given, attempt=2))
    assert metrics_of(state) == metrics_of(whole_state)
    result = json.loads((state / "result.json").read_text())
    assert result == json.loads((whole_state / "result.json").read_text())
    ours, theirs = (
        load_file(folder / "outputs/mlflow-model/artifacts/model.safetensors")
        for folder in (artifacts, whole_artifacts)
    )
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_killed_while_writing_the_model_only_that_is_done_again(
    make_spec: Any, metrics_of: MetricsOf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "_save_state_dict", dies)
        with pytest.raises(KeyboardInterrupt):
            run(make_spec("late", {"number_of_epochs": 2}))
    before = metrics_of(tmp_path / "late" / "state")
    capsys.readouterr()
    artifacts, state = run(make_spec("late", {"number_of_epochs": 2}, attempt=2))
    assert "epoch 2/2" not in capsys.readouterr().out
    assert metrics_of(state) == before
    assert (artifacts / "outputs/mlflow-model/MLmodel").exists()
    assert json.loads((state / "result.json").read_text())["epochs"] == 2
    assert not (state / "checkpoint").exists()
    written = (artifacts / "outputs/mlflow-model/MLmodel").stat().st_mtime_ns
    run(make_spec("late", {"number_of_epochs": 2}, attempt=3))
    assert "nothing left to do" in capsys.readouterr().out
    assert (artifacts / "outputs/mlflow-model/MLmodel").stat().st_mtime_ns == written


def test_the_best_epoch_is_looked_at_again_only_by_another_process(
    make_spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Any] = []
    real = Classification.evaluate
    monkeypatch.setattr(
        Classification, "evaluate", lambda self, model: looks.append(model) or real(self, model)
    )
    given = {"number_of_epochs": 2, "model_name": "mobilenetv2"}
    whole, _ = run(make_spec("whole", given))
    assert len(looks) == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "_write_model", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(make_spec("again", given))
    looks.clear()
    again, _ = run(make_spec("again", given, attempt=2))
    assert len(looks) == 1
    for name in ("accuracy_table", "confusion_matrix", "classification_report"):
        assert json.loads((again / name).read_text()) == json.loads((whole / name).read_text())


def test_a_new_first_attempt_starts_over(make_spec: Any, metrics_of: MetricsOf) -> None:
    _, state = run(make_spec("again", {"number_of_epochs": 2}))
    run(make_spec("again", {"number_of_epochs": 1}))
    assert set(metrics_of(state)["log_loss_train"]) == {0}


def test_evaluation_frequency_skips_epochs_but_never_the_first_and_the_last(
    make_spec: Any, metrics_of: MetricsOf
) -> None:
    _, state = run(make_spec("rare", {"number_of_epochs": 4, "evaluation_frequency": 2}))
    found = metrics_of(state)
    assert set(found["accuracy"]) == {0, 2, 3}
    assert set(found["log_loss_train"]) == {0, 1, 2, 3}


def test_early_stopping_ends_the_run_and_the_best_epoch_is_kept(
    make_spec: Any, metrics_of: MetricsOf, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {
        "number_of_epochs": 9,
        "learning_rate": 0.0,
        "early_stopping_delay": 1,
        "early_stopping_patience": 2,
        "layers_to_freeze": 5,
    }
    _, state = run(make_spec("early", given, primary_metric="AUCWeighted"))
    result = json.loads((state / "result.json").read_text())
    scores = metrics_of(state)["AUC_weighted"]
    assert result["epochs"] == len(scores) < 9
    assert result["primary_metric"] == "AUC_weighted"
    best = max(scores.values())
    assert result["score"] == best
    assert result["best_epoch"] == max(step for step, value in scores.items() if value == best)
    assert "stopped early" in capsys.readouterr().out


def test_frozen_layers_stay_as_they_were_and_accumulated_steps_train_the_rest(
    make_spec: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    start = timm.create_model("resnet18", num_classes=1000).state_dict()
    (tmp_path / "weights").mkdir()
    save_file(start, tmp_path / "weights" / "resnet18.safetensors")
    given = {"layers_to_freeze": 3, "number_of_epochs": 1, "gradient_accumulation_step": 2}
    given |= {"warmup_cosine_lr_warmup_epochs": 0}
    artifacts, _ = run(make_spec("frozen", given, advanced_settings={}))
    end = torch.load(artifacts / "outputs/model.pt", weights_only=True)
    assert end["fc.weight"].shape == (3, 512)
    for key in ("conv1.weight", "layer1.0.conv1.weight", "layer2.1.bn2.weight"):
        assert torch.equal(start[key], end[key]), key
    for key in ("layer3.0.conv1.weight", "layer4.1.bn2.bias"):
        assert not torch.equal(start[key], end[key]), key


def test_missing_weights_fail_before_any_image_is_read_unless_random_is_allowed(
    make_spec: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TrainingError, match=r"weights/resnet18\.safetensors"):
        run(make_spec("none", advanced_settings={}))
    assert not (tmp_path / "cache").exists()
    run(make_spec("any", {"number_of_epochs": 1}, advanced_settings={}, missing_weights="random"))
    assert "STARTING FROM RANDOM WEIGHTS" in capsys.readouterr().out


def test_without_validation_data_a_part_is_split_off_and_written_down(make_spec: Any) -> None:
    fields = {"validation_manifest": None, "validation_data_size": 0.25}
    artifacts, state = run(make_spec("split", {"number_of_epochs": 1}, **fields))
    result = json.loads((state / "result.json").read_text())
    assert (result["train_images"], result["validation_images"]) == (18, 6)
    halves = [
        (artifacts / "train_artifacts" / name).read_text().splitlines()
        for name in ("train_df.csv", "val_df.csv")
    ]
    assert [len(half) for half in halves] == [18, 6]
    assert len({line.split("\t")[0] for half in halves for line in half}) == 24


def test_without_a_seed_one_is_drawn_kept_and_the_layout_is_measured(
    make_spec: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"random_seed": None, "number_of_epochs": 1}
    _, state = run(make_spec("unseeded", given, validation_manifest=None))
    seed = json.loads((state / "seed.json").read_text())["seed"]
    assert f"{seed}, drawn" in capsys.readouterr().out
    layout = (state / "layout.json").read_text()
    run(make_spec("unseeded", given, validation_manifest=None, attempt=2))
    assert json.loads((state / "seed.json").read_text())["seed"] == seed
    assert (state / "layout.json").read_text() == layout


def test_unreadable_images_are_left_out_and_listed(
    make_spec: Any, tmp_path: Path, colour_set: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in colour_set["train"].read_text().splitlines()]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(Path(rows[0]["path"]).read_bytes()[:300])
    rows[0] |= {"path": str(broken), "source": "data/train.jsonl:1"}
    rows[5] |= {"path": str(tmp_path / "gone.jpg"), "source": "data/train.jsonl:6"}
    manifest = tmp_path / "rows.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    earlier = tmp_path / "report.json"
    earlier.write_text(
        json.dumps({"dropped": [{"file": "data/train.jsonl", "line": 25, "reason": "no label"}]})
    )
    fields = {"train_manifest": str(manifest), "data_report": str(earlier)}
    artifacts, state = run(make_spec("mixed", {"number_of_epochs": 1}, **fields))
    assert json.loads((state / "result.json").read_text())["train_images"] == 22
    dropped = json.loads((artifacts / "outputs/data_report.json").read_text())["dropped"]
    assert [(row["file"], row["line"]) for row in dropped] == [
        ("data/train.jsonl", line) for line in (25, 1, 6)
    ]
    assert dropped[2]["reason"] == "gone.jpg: file not found"
    said = capsys.readouterr().out
    assert "data/train.jsonl:1 is left out: broken.jpg: " in said
    assert "data/train.jsonl:6 is left out: gone.jpg: file not found" in said


def test_no_readable_image_at_all_is_an_error_with_the_first_reason(make_spec: Any, tmp_path: Path) -> None:
    manifest = tmp_path / "rows.jsonl"
    row = {"path": str(tmp_path / "x.jpg"), "etag": "", "label": "red", "source": "t.jsonl:1"}
    manifest.write_text(json.dumps(row))
    with pytest.raises(
        TrainingError, match=r"no training image is left, 1 were left out.*t\.jsonl:1, x\.jpg"
    ):
        run(make_spec("gone", train_manifest=str(manifest)))


def test_a_primary_metric_that_one_class_cannot_have_is_explained(make_spec: Any, tmp_path: Path) -> None:
    fields: dict[str, Any] = json.loads(make_spec("base").read_text())
    rows = Path(fields["validation_manifest"]).read_text().splitlines()
    only = tmp_path / "only.json"
    only.write_text("\n".join(row for row in rows if json.loads(row)["label"] == "red"))
    given = {"number_of_epochs": 1}
    with pytest.raises(TrainingError, match=r"AUC_weighted is not defined.*red"):
        run(make_spec("auc", given, validation_manifest=str(only), primary_metric="auc_weighted"))
    _, state = run(make_spec("acc", given, validation_manifest=str(only)))
    assert 0.0 <= json.loads((state / "result.json").read_text())["score"] <= 1.0


def test_an_exploding_loss_names_the_learning_rate(make_spec: Any) -> None:
    given = {
        "learning_rate": 1.0,
        "warmup_cosine_lr_warmup_epochs": 0,
        "number_of_epochs": 30,
        "momentum": 1.0,
    }
    given |= {"early_stopping": False}
    with pytest.raises(TrainingError, match=r"(explodes|not finite).*learning_rate"):
        run(make_spec("boom", given))


def test_every_nth_epochs_weights_are_kept_when_asked(make_spec: Any) -> None:
    artifacts, _ = run(make_spec("kept", {"number_of_epochs": 3, "checkpoint_frequency": 2}))
    found = sorted(path.name for path in (artifacts / "train_artifacts").glob("*_model.pt"))
    assert found == ["1_model.pt"]
    assert "fc.weight" in torch.load(artifacts / "train_artifacts/1_model.pt", weights_only=True)


def test_trials_of_one_set_share_the_decoded_images(
    make_spec: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(make_spec("first", {"number_of_epochs": 1}))
    assert capsys.readouterr().out.count("images once") == 2
    run(make_spec("second", {"number_of_epochs": 1, "learning_rate": 0.02}))
    assert "images once" not in capsys.readouterr().out
    files = list((tmp_path / "cache" / "images").glob("*.u8"))
    assert len(files) == 2
    assert all(not np.asarray(cache.Cache(file, [], cache.Training(1))[0]).flags.writeable for file in files)
