"""What AutoMode knows: which models have weights here, how large images are, what a trial will take."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from amlocal.compat import extras, names
from amlocal.emulator.jobs.automode import cost
from amlocal.emulator.jobs.automode import facts as automode_facts
from amlocal.emulator.jobs.automode.facts import Facts, key_of, sides, starts

TASK = "image-classification"
FACTS = Facts(
    task=TASK,
    metric="accuracy",
    train_images=1000,
    validation_images=200,
    classes=10,
    timeout=3600.0,
    max_trials=5,
    starts={"resnet18": "random"},
    cores=2,
)


def test_a_model_starts_from_the_weights_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "resnet18.safetensors").write_bytes(b"x")
    common = {"hub": False, "fixed": {}}
    found = starts(TASK, tmp_path, pretrained=True, random=True, **common)
    assert found["resnet18"] == "pretrained" and found["resnet50"] == "random"
    assert set(found) == {name for name, row in names.models(TASK).items() if not extras.missing(row.builder)}
    without = lambda name: None if name == "transformers" else object()  # noqa: E731
    monkeypatch.setattr(automode_facts, "find_spec", without)
    slim = starts(TASK, tmp_path, pretrained=True, random=True, **common)
    assert slim.keys() < found.keys() and not any("/" in name for name in slim)
    # Where missing weights are an error, only models that have them can be tried.
    assert starts(TASK, tmp_path, pretrained=True, random=False, **common) == {"resnet18": "pretrained"}
    assert set(starts(TASK, tmp_path, pretrained=False, random=False, **common).values()) == {"random"}
    # A hub that answers has them all.
    reached = starts(TASK, tmp_path, pretrained=True, random=False, hub=True, fixed={})
    assert set(reached.values()) == {"pretrained"}
    # What the user names was checked when the job was submitted.
    named = {"model_name": "resnet50"}
    fixed = starts(TASK, tmp_path, pretrained=True, random=False, hub=False, fixed=named)
    assert fixed["resnet50"] == "random"


@pytest.mark.skipif(bool(extras.missing("yolo")), reason="ultralytics is not installed")
def test_the_sizes_of_yolov5_have_weights_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "yolov5_small.safetensors").write_bytes(b"x")
    found = starts("image-object-detection", tmp_path, pretrained=True, random=True, hub=True, fixed={})
    assert (found["yolov5:small"], found["yolov5"]) == ("pretrained", "random")
    assert found["yolov5:large"] == "random"


def test_the_name_of_a_network_among_the_starts() -> None:
    boxes = "image-object-detection"
    assert key_of(boxes, "yolov5", {"model_size": "medium"}) == "yolov5"
    assert key_of(boxes, "yolov5", {"model_size": "large"}) == "yolov5:large"
    assert key_of(boxes, "fasterrcnn_resnet50_fpn", {"model_size": "large"}) == "fasterrcnn_resnet50_fpn"
    assert key_of(TASK, "resnet18", {}) == "resnet18"


def test_the_sides_of_images(tmp_path: Path) -> None:
    paths = []
    for number, size in enumerate([(20, 10), (30, 40), (64, 64), (10, 90), (5, 5)]):
        paths.append(tmp_path / f"{number}.png")
        Image.new("RGB", size).save(paths[-1])
    assert sides(paths) == (40, 90)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    assert sides([*paths, tmp_path / "broken.jpg", tmp_path / "missing.png"]) == (40, 90)
    assert sides([tmp_path / "broken.jpg"]) == (None, None) == sides([])
    # Of many images a part is read, evenly spread: the large ones at the end are seen.
    Image.new("RGB", (300, 8)).save(tmp_path / "large.png")
    assert sides([paths[0]] * 900 + [tmp_path / "large.png"] * 100) == (20, 300)


def test_facts_are_read_back_as_they_were_written() -> None:
    facts = replace(FACTS, fixed={"learning_rate": 0.1}, median_side=5, gpu=True)
    assert Facts.of(json.loads(json.dumps(facts.as_dict()))) == facts
    with pytest.raises(TypeError):
        Facts.of({"task": TASK})


def test_the_prediction_agrees_with_what_was_measured() -> None:
    """tests/bench/results: resnet18 at 224 pixels trains 12.1 images/s on two cores, mobilenetv2 13.3."""
    for model, rate in (("resnet18", 12.1), ("mobilenetv2", 13.3)):
        sample = {"model_name": model, "training_batch_size": 32, "evaluation_frequency": 1000}
        epoch = cost.seconds(FACTS, sample, epochs=2) - cost.seconds(FACTS, sample, epochs=1)
        assert 1000 / epoch == pytest.approx(rate, rel=0.15)


def test_what_makes_a_trial_longer() -> None:
    base = {"model_name": "resnet18", "number_of_epochs": 10}
    seconds = cost.seconds(FACTS, base)
    assert cost.seconds(FACTS, {**base, "number_of_epochs": 20}) > 1.9 * seconds
    assert cost.seconds(FACTS, {**base, "training_crop_size": 112}) < 0.35 * seconds
    assert cost.seconds(FACTS, {**base, "model_name": "resnet50"}) > 2 * seconds
    assert cost.seconds(replace(FACTS, cores=8), base) < 0.3 * seconds
    assert cost.seconds(replace(FACTS, gpu=True), base) < 0.1 * seconds
    assert cost.seconds(replace(FACTS, fixed={"training_crop_size": 112}), base) < 0.35 * seconds
    # seresnext takes 224 pixels whatever is asked for.
    small = {"model_name": "seresnext", "training_crop_size": 64}
    assert cost.seconds(FACTS, small) == cost.seconds(FACTS, {"model_name": "seresnext"})
    boxes = replace(FACTS, task="image-object-detection", starts={})
    whole = cost.seconds(boxes, {"model_name": "fasterrcnn_resnet50_fpn"})
    assert cost.seconds(boxes, {"model_name": "fasterrcnn_resnet50_fpn", "min_size": 300}) < 0.3 * whole


def test_the_epochs_that_fit_into_a_time() -> None:
    sample = {"model_name": "resnet18"}
    for epochs in (1, 7, 30):
        limit = cost.seconds(FACTS, sample, epochs=epochs)
        assert cost.epochs_within(FACTS, sample, limit + 1) == epochs
    assert cost.epochs_within(FACTS, sample, 5.0) == 0


def test_room_for_a_trial() -> None:
    assert cost.room(FACTS) is None
    assert cost.room(replace(FACTS, memory=10, max_concurrent=2)) == 4
    assert cost.room(replace(FACTS, gpu=True, memory=10, gpu_memory=100)) == 90
    small = cost.memory(FACTS, {"model_name": "resnet18", "training_batch_size": 2})
    large = cost.memory(FACTS, {"model_name": "resnet18", "training_batch_size": 64})
    assert 2**30 < large - small < 8 * 2**30
