"""How a detector's answers are gathered: over tiles, over processes, in any batches."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_detector
import torch
from painted_objects import scenes, spec_file
from torch import nn

from amlocal.trainers import distributed, ranks, spec, trial
from amlocal.trainers.layouts import Layout
from amlocal.trainers.metrics import masks
from amlocal.trainers.metrics.objects import Found, Truth
from amlocal.trainers.models.detector import Detections
from amlocal.trainers.models.network import Network
from amlocal.trainers.tasks import detection_exchange
from amlocal.trainers.tasks.detection import Detection
from amlocal.trainers.tasks.detection_exchange import Compared

CPU = torch.device("cpu")


class Perfect(tiny_detector.Cells):
    """Finds nothing but what it is told: the whole of what it sees, once."""

    def detect(self, images: torch.Tensor, sizes: Any) -> list[Detections]:
        self.seen.append(len(images))
        return [
            Detections(torch.tensor([[0.0, 0.0, w, h]]), torch.tensor([0]), torch.tensor([0.9]))
            for h, w in sizes
        ]


def task_of(folder: Path, given: dict[str, Any], **fields: Any) -> tuple[Detection, Perfect]:
    sets = {
        half: scenes(folder, half, 6, start, polygons=False, background=1)
        for half, start in (("train", 0), ("validation", 50))
    }
    task = Detection(spec.load(spec_file(folder, "look", sets, given, **fields)), 7)
    model = Perfect(2, 0.3, 0.5, masks=False)
    task.place(CPU, Layout(False), Network(model, (0.0,) * 3, (1.0,) * 3, ()))
    return task, model


@pytest.mark.parametrize(("overlap", "kept"), [(0.9, 3), (0.25, 1)])
def test_tiles_of_an_image_make_one_answer(tmp_path: Path, overlap: float, kept: int) -> None:
    given = {"tile_grid_size": "2x1", "tile_overlap_ratio": 0.5, "tile_predictions_nms_threshold": overlap}
    task, model = task_of(tmp_path, given | {"validation_batch_size": 4, "min_size": 48})
    assert (task.validation_images, task.settings()["tile_grid_size"]) == (6, "2x1")
    assert task.train_images > task.train_files == 6  # tiles with objects are trained on
    seen = task._look(model, task._validation, "validation", losses=False)
    assert sum(model.seen) == 18
    assert seen.images == list(range(6))
    # Two tiles, each 2/3 of the width, and the whole.
    for truth, found in zip(seen.truths, seen.found, strict=True):
        width, height = truth.width, truth.height
        expected = [[0, 0, width, height], [0, 0, width * 2 / 3, height], [width / 3, 0, width, height]]
        assert len(found) == kept
        if kept == 3:
            assert sorted(found.boxes.round(1).tolist()) == sorted(np.round(expected, 1).tolist())
    assert [len(truth) for truth in seen.truths][-1] == 0


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_size_of_validation_batches_changes_nothing(tmp_path: Path, size: int) -> None:
    task, model = task_of(tmp_path, {"validation_batch_size": size})
    seen = task._look(model, task._validation, "validation", losses=True)
    assert len(seen.truths) == 6
    assert [len(truth) for truth in seen.truths] == [1, 2, 1, 2, 1, 0]
    assert seen.loss is not None
    values = task.evaluate(model).metrics
    assert values["log_loss"] == round(seen.loss, 5)


def test_training_batches_hold_images_of_like_shape_and_all_of_them(tmp_path: Path) -> None:
    task, _ = task_of(tmp_path, {"training_batch_size": 2})
    batches = list(task.train_batches(0))
    assert len(batches) == task.batches_per_epoch == 3
    assert sum(len(batch.images) for batch in batches) == 6
    assert sum(len(objects) for batch in batches for objects in batch.targets) == 7
    assert all(batch.images.shape[2] % 16 == batch.images.shape[3] % 16 == 0 for batch in batches)
    again, other = list(task.train_batches(0)), list(task.train_batches(1))
    assert all(torch.equal(a.images, b.images) for a, b in zip(batches, again, strict=True))
    assert not all(torch.equal(a.images, b.images) for a, b in zip(batches, other, strict=False))


def test_augmentation_can_be_turned_off(tmp_path: Path) -> None:
    plain = {"pretrained": False, "apply_automl_train_augmentations": False}
    task, _ = task_of(tmp_path, {"training_batch_size": 1}, advanced_settings=plain)
    first = {batch.targets[0].boxes.sum().item() for batch in task.train_batches(0)}
    second = {batch.targets[0].boxes.sum().item() for batch in task.train_batches(1)}
    assert first == second


def test_what_is_sent_between_processes_arrives_as_it_was() -> None:
    mask = masks.encoded(np.eye(5, 7, dtype=bool))
    rows = [
        Compared(
            3,
            Truth(np.array([[0.5, 1, 2, 3.25]]), np.array([1]), np.array([True]), [mask], height=5, width=7),
            Found(np.array([[1 / 3, 1, 2, 3]]), np.array([0]), np.array([0.1]), [mask]),
        ),
        Compared(
            0,
            Truth(np.zeros((0, 4)), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool), None, 5, 7),
            Found(np.zeros((0, 4)), np.zeros(0, dtype=np.int64), np.zeros(0), None),
        ),
    ]
    for row in rows:
        packed = json.loads(json.dumps(detection_exchange._packed(row)))
        assert repr(detection_exchange._unpacked(packed)) == repr(row)
    assert [row.image for row in detection_exchange.gathered(rows)] == [0, 3]


@pytest.mark.parametrize(
    "task",
    [pytest.param("image-object-detection", marks=pytest.mark.slow), "image-instance-segmentation"],
)
def test_two_processes_find_what_one_does(
    tmp_path: Path, metrics_of: Callable[[Path], dict[str, dict[int, float]]], task: str
) -> None:
    sets = {
        half: scenes(tmp_path, half, 7, start, polygons=True)
        for half, start in (("train", 0), ("validation", 50))
    }
    given = {"number_of_epochs": 1, "learning_rate": 0.0, "box_score_threshold": 0.05}
    found = {}
    for processes in (1, 2):
        path = spec_file(tmp_path, f"in{processes}", sets, given, node_count=processes, task=task)
        ranks.launch([__file__, str(path)], processes)
        state = Path(json.loads(path.read_text())["state_dir"])
        found[processes] = metrics_of(state)
    one, two = found[1], found[2]
    assert two["mean_average_precision"] == one["mean_average_precision"]
    assert two["recall"] == one["recall"]
    assert one["recall"][0] > 0.05
    assert two["log_loss"][0] == pytest.approx(one["log_loss"][0], abs=2e-2)


def in_a_process() -> None:
    torch.set_num_threads(1)
    tiny_detector.take_over()
    real = nn.BatchNorm2d.__init__

    def fixed(self: nn.BatchNorm2d, features: int) -> None:
        # Its statistics stay as they are, so that the network does: the learning rate is 0.
        real(self, features, momentum=0.0)

    nn.BatchNorm2d.__init__ = fixed  # type: ignore[method-assign,assignment]
    build = tiny_detector.build

    def wide(*given: Any) -> Network:
        # Boxes as large as the objects, so that some are found.
        network = build(*given)
        nn.init.constant_(network.module.sides.bias, 0.5)  # type: ignore[union-attr,arg-type]
        return network

    tiny_detector.build = wide
    Detection.write_onnx = lambda *_: None  # type: ignore[method-assign,assignment]
    ranks.take_part(Path(sys.argv[2]), lambda: trial.run(spec.load(Path(sys.argv[1]))))


if __name__ == "__main__":
    assert distributed.current().rank == 0
    in_a_process()
