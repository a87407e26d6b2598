"""The bench of detectors: its scenes, the loops it compares with, and the whole command on a few images."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_detector
import torch
from PIL import Image
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from amlocal.trainers.__main__ import main
from amlocal.trainers.bench import arguments, pictures, plain, reference, results, scenes, ultralytics_loop
from amlocal.trainers.bench.measuring import WARM_UP

DETECTION, SEGMENTATION = "image-object-detection", "image-instance-segmentation"
SIDE = 64


class Stem(nn.Sequential):
    out_channels = 8


def small(name: str, classes: int, sides: tuple[int, int]) -> nn.Module:
    """A Faster R-CNN of torchvision with a few thousand weights."""
    return FasterRCNN(
        Stem(nn.Conv2d(3, 8, 3, 8, 1), nn.BatchNorm2d(8)),
        min_size=sides[0],
        max_size=sides[1],
        rpn_anchor_generator=AnchorGenerator(((16,),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 3, 2),
        box_head=TwoMLPHead(8 * 9, 16),
        box_predictor=FastRCNNPredictor(16, classes + 1),
    )


def test_the_command_measures_a_detector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_detector.take_over(monkeypatch.setitem)
    monkeypatch.setattr(reference, "network", small)
    monkeypatch.setattr(plain, "worker_counts", lambda threads: (0,))
    out = tmp_path / "here.csv"
    argv = ["bench", "--models", "fasterrcnn_resnet18_fpn", "--image-size", str(SIDE), "--images", "4"]
    argv += ["--batch", "2", "--rounds", "1", "--seconds", "0.001", "--no-second-trial", "--out", str(out)]
    assert main(argv) == 0
    (row,) = csv.DictReader(out.open())
    assert tuple(row) == results.COLUMNS
    assert (row["model"], row["task"], row["plain"]) == ("fasterrcnn_resnet18_fpn", DETECTION, "torchvision")
    assert (row["batch"], row["image_size"], row["images"]) == ("2", "64", "4 made JPEG files")
    end_to_end = float(row["end_to_end_per_s"])
    for ratio, part in (
        ("end_to_end_by_model_only", "model_only_per_s"),
        ("end_to_end_by_plain_fp32", "plain_fp32_per_s"),
        ("end_to_end_by_plain_same_dtype", "plain_same_dtype_per_s"),
    ):
        assert float(row[ratio]) == pytest.approx(end_to_end / float(row[part]), rel=1e-3)
    assert float(row["spread_by_model_only"]) == 0
    assert row["second_trial_first_batch_s"] == ""
    said = capsys.readouterr()
    assert "torchvision's own network and the loop of its documentation" in said.out
    assert "round 1 of 1: plain fp32, 0 workers" in said.err


@pytest.mark.slow
def test_the_command_measures_every_kind_of_detector(tmp_path: Path) -> None:
    names = "fasterrcnn_resnet18_fpn,maskrcnn_resnet18_fpn,yolov5"
    out = tmp_path / "here.csv"
    argv = [sys.executable, "-m", "amlocal.trainers", "bench", "--models", names, "--model-size", "small"]
    argv += ["--image-size", "96", "--images", "4", "--batch", "2", "--rounds", "1", "--seconds", "0.01"]
    done = subprocess.run([*argv, "--threads", "1", "--out", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = list(csv.DictReader(out.open()))
    assert [(row["model"], row["task"], row["plain"]) for row in rows] == [
        ("fasterrcnn_resnet18_fpn", DETECTION, "torchvision"),
        ("maskrcnn_resnet18_fpn", SEGMENTATION, "torchvision"),
        ("yolov5 small", DETECTION, "yolo"),
    ]
    for row in rows:
        assert all(
            float(row[name]) > 0 for name in ("end_to_end_per_s", "model_only_per_s", "plain_fp32_per_s")
        )
        assert float(row["second_trial_first_step_s"]) > float(row["second_trial_first_batch_s"])
    # ultralytics computes in fp32 as ours do; there it is measured once.
    assert rows[2]["plain_fp32_per_s"] == rows[2]["plain_same_dtype_per_s"]
    assert "ultralytics' own trainer" in done.stdout


def test_each_kind_of_network_has_sizes_of_its_own() -> None:
    def subjects(**given: Any) -> list[arguments.Subject]:
        usual = dict.fromkeys(arguments.Order.__dataclass_fields__) | {"models": ["resnet18", "yolov5"]}
        return arguments.Order(**(usual | given)).subjects()

    assert [(one.task, one.batch, one.image_size) for one in subjects()] == [
        ("image-classification", 32, 224),
        (DETECTION, 16, 640),
    ]
    found = subjects(models=["maskrcnn_resnet50_fpn"], batch=[1, 4], image_size=100)
    assert [(one.task, one.builder, one.batch, one.image_size) for one in found] == [
        (SEGMENTATION, "torchvision", 1, 100),
        (SEGMENTATION, "torchvision", 4, 100),
    ]


def test_the_objects_are_where_the_picture_shows_them() -> None:
    for number in range(6):
        (width, height), shapes = pictures.shapes(number)
        with Image.open(io.BytesIO(pictures.jpeg(number))) as image:
            assert image.size == (width, height)
            inside = [one for one in shapes if one.box[2] < width and one.box[3] < height]
            # What was drawn last hides the others.
            if (last := shapes[-1]) in inside:
                left, top, right, bottom = last.box
                pixel = image.getpixel(((left + right) // 2, (top + bottom) // 2))
                # There is grain on it.
                assert all(abs(a - b) < 60 for a, b in zip(pixel, last.colour, strict=True))
        found = scenes.things(number)
        for one, shape in zip(found, inside[-6:], strict=True):
            box = (one.box[0] * width, one.box[1] * height, one.box[2] * width, one.box[3] * height)
            assert box == pytest.approx(shape.box, abs=1e-6)
            assert scenes.LABELS[one.label] == ("ellipse" if shape.round else "rectangle")


def test_the_same_objects_are_written_as_ultralytics_reads_them(tmp_path: Path) -> None:
    made = pictures.make(tmp_path / "made", 2)
    description = json.loads(scenes.write_yolo(made.paths, tmp_path / "yolo").read_text())
    assert description["names"] == list(scenes.LABELS)
    for number in range(2):
        assert (tmp_path / "yolo/images" / f"{number:05d}.jpg").read_bytes() == made.paths[
            number
        ].read_bytes()
        lines = (tmp_path / "yolo/labels" / f"{number:05d}.txt").read_text().splitlines()
        for line, one in zip(lines, scenes.things(number), strict=True):
            label, x, y, width, height = (float(part) for part in line.split())
            left, top, right, bottom = one.box
            assert (label, x, width) == pytest.approx((one.label, (left + right) / 2, right - left), abs=1e-5)
            assert (y, height) == pytest.approx(((top + bottom) / 2, bottom - top), abs=1e-5)


def test_the_documented_loop_gets_objects_in_pixels_and_their_masks(tmp_path: Path) -> None:
    made = pictures.make(tmp_path, 3)
    files = reference.Files(made.paths, first=1, masks=True)
    assert files.shapes == [(500, 375), (375, 500), (500, 333)]
    torch.manual_seed(0)
    for number in range(3):
        image, target = files[number]
        assert image.shape == (3, files.shapes[number][1], files.shapes[number][0])
        assert image.min() >= 0 and 0.5 < image.max() <= 1
        assert set(target["labels"].tolist()) <= {1, 2}
        for box, mask in zip(target["boxes"], target["masks"], strict=True):
            rows, columns = mask.nonzero(as_tuple=True)
            drawn = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert torch.tensor(drawn) == pytest.approx(box.numpy(), abs=1.5)


def test_batches_have_one_shape_and_no_image_twice() -> None:
    shapes = [(200, 100), (100, 200)] * 5
    found = list(reference.Grouped(shapes, 2))
    assert sorted(len(batch) for batch in found) == [2] * 5
    assert sorted(index for batch in found for index in batch) == list(range(10))
    mixed = [batch for batch in found if len({shapes[index] for index in batch}) > 1]
    # Five of each shape: one of each is left over.
    assert len(mixed) == 1
    assert next(iter(reference.Grouped([(1, 1), (9, 1)], 2))) in ([0, 1], [1, 0])


def test_images_are_counted_after_the_warm_up_and_only_while_somebody_asks() -> None:
    answers = io.StringIO()
    orders = ultralytics_loop.Orders("set.yaml", "s", 64, 4, torch.get_num_threads(), "cpu", "fp32")
    windows = ultralytics_loop._Windows(io.StringIO("1e-9\n1e-9\n"), answers, orders)
    trainer = SimpleNamespace(device=torch.device("cpu"))
    windows.begins(trainer)
    sizes = [4] * WARM_UP + [3] + [4] * WARM_UP
    for windows.batch in sizes:
        windows.step_ends(trainer)
    windows.batch = 2
    with pytest.raises(ultralytics_loop._Over):
        windows.step_ends(trainer)
    images = [json.loads(line)[0] for line in answers.getvalue().splitlines()]
    assert images == [3, 2]


def test_its_process_looks_nothing_up_and_logs_to_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://localhost:1")
    found = ultralytics_loop.environment(tmp_path)
    assert not [name for name in found if name.startswith("MLFLOW_")]
    assert (found["YOLO_OFFLINE"], found["YOLO_AUTOINSTALL"]) == ("true", "false")
    assert found["YOLO_CONFIG_DIR"] == str(tmp_path)
    assert found["PATH"]
