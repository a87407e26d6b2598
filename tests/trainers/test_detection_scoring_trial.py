"""A trial's model, loaded from its folder, scores the validation images as its last evaluation did."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny_detector
import torch
from painted_detector import as_mask
from painted_objects import scenes, spec_file
from PIL import Image

from amlocal.trainers import charts, scoring, spec, trial
from amlocal.trainers.charts import predictions
from amlocal.trainers.metrics.detection import evaluate
from amlocal.trainers.metrics.masks import encoded
from amlocal.trainers.metrics.objects import Found, Truth
from amlocal.trainers.tasks.detection import Detection

DETECTION, SEGMENTATION = "image-object-detection", "image-instance-segmentation"
LABELS = ["disc", "square"]
# Finer than any image is seen, so that little is lost where polygons are drawn again.
HEIGHT, WIDTH = 192, 256


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    tiny_detector.take_over(monkeypatch.setitem)
    monkeypatch.setattr(Detection, "write_onnx", lambda *_: None)
    monkeypatch.setattr(charts, "draw", lambda *_: [])
    monkeypatch.setattr(predictions, "draw", lambda *_: [])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def boxes_of(rows: list[Any]) -> Any:
    return np.array(rows, dtype=float).reshape(-1, 4) * [WIDTH, HEIGHT, WIDTH, HEIGHT]


def mask(polygon: Any) -> dict[str, Any]:
    return encoded(as_mask(polygon, WIDTH, HEIGHT))


def numbers(labels: list[str]) -> Any:
    return np.array([LABELS.index(label) for label in labels], dtype=np.int64)


def truth(label: list[dict[str, Any]], masked: bool) -> Truth:
    boxes, crowd = boxes_of([one["box"] for one in label]), np.zeros(len(label), dtype=bool)
    masks = [mask(one["polygon"]) for one in label] if masked else None
    return Truth(boxes, numbers([one["label"] for one in label]), crowd, masks, HEIGHT, WIDTH)


def found(answer: dict[str, Any], masked: bool) -> Found:
    rows = answer["boxes"]
    boxes = boxes_of([list(one["box"].values()) for one in rows])
    masks = [mask(one["polygon"]) for one in rows] if masked else None
    scores = np.array([one["score"] for one in rows], dtype=float)
    return Found(boxes, numbers([one["label"] for one in rows]), scores, masks)


@pytest.mark.parametrize(
    ("task", "given"),
    [(DETECTION, {}), (DETECTION, {"tile_grid_size": "2x1"}), (SEGMENTATION, {})],
    ids=["detection", "tiles", "segmentation"],
)
def test_scoring_repeats_the_trials_numbers(tmp_path: Path, task: str, given: dict[str, Any]) -> None:
    masked = task == SEGMENTATION
    sets = {
        "train": scenes(tmp_path, "train", 12, 0, polygons=masked),
        "validation": scenes(tmp_path, "validation", 8, 50, polygons=masked, background=1),
    }
    given = {"number_of_epochs": 8, "learning_rate": 0.1, "box_score_threshold": 0.1, **given}
    loaded = spec.load(spec_file(tmp_path, "trial", sets, given, task=task))
    trial.run(loaded)
    score = json.loads((loaded.state_dir / "result.json").read_text())["score"]
    rows = [json.loads(line) for line in sets["validation"].read_text().splitlines()]
    cells = [base64.b64encode(Path(row["path"]).read_bytes()).decode() for row in rows]
    model = scoring._load_pyfunc(str(loaded.artifacts_dir / "outputs/mlflow-model/artifacts"))
    answers = model.predict(pd.DataFrame({"image": cells})).to_dict("records")
    result = evaluate(
        [truth(row["label"], masked) for row in rows],
        [found(answer, masked) for answer in answers],
        LABELS,
        kind="segm" if masked else "bbox",
        metric_type="voc",
    )
    assert Image.open(rows[0]["path"]).size == (64, 48)
    assert score > 0.1
    # Polygons are drawn at another size than masks were compared at.
    assert result.scalars["mean_average_precision"] == pytest.approx(score, abs=0.05 if masked else 1e-4)
