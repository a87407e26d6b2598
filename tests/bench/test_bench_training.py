"""Training speed and a floor under what training reaches, on scikit-learn's handwritten digits."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.bench

_AIM = 180.0
"""CPU seconds: 90 seconds of two cores."""
_ACCURACY = 0.90


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """800 training and 200 validation JPEG files of ten classes, with manifests."""
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("digits")
    data = load_digits()
    chosen = np.random.default_rng(0).permutation(len(data.images))[:1000]
    rows = []
    for number, index in enumerate(chosen):
        path = folder / f"{number}.jpg"
        pixels = (data.images[index] * (255 / 16)).astype(np.uint8)
        Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC).convert("RGB").save(
            path, quality=90
        )
        label = str(data.target[index])
        rows.append(
            json.dumps({"path": str(path), "etag": "", "label": label, "source": f"d.jsonl:{number + 1}"})
        )
    (folder / "train.jsonl").write_text("\n".join(rows[:800]))
    (folder / "validation.jsonl").write_text("\n".join(rows[800:]))
    return folder


@pytest.mark.parametrize("model", ["resnet18", "mobilenetv2"])
def test_digits_from_scratch(
    model: str, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = {
        "schema": 1,
        "run_id": model,
        "task": "image-classification",
        "primary_metric": "accuracy",
        "parameters": {
            "model_name": model,
            "number_of_epochs": 5 if model == "resnet18" else 8,
            "training_batch_size": 32,
            "training_crop_size": 64,
            "validation_crop_size": 64,
            "validation_resize_size": 64,
            "learning_rate": 0.02 if model == "resnet18" else 0.05,
            "warmup_cosine_lr_warmup_epochs": 1,
            "random_seed": 1,
        },
        "advanced_settings": {"pretrained": False, "apply_automl_train_augmentations": False},
        "train_manifest": str(digits / "train.jsonl"),
        "validation_manifest": str(digits / "validation.jsonl"),
        "artifacts_dir": str(tmp_path / "artifacts"),
        "state_dir": str(tmp_path / "state"),
        "cache_dir": str(tmp_path / "cache"),
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    command = [sys.executable, "-m", "amlocal.trainers", "train", str(tmp_path / "spec.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "state" / "result.json").read_text())
    with capsys.disabled():
        took = f"{seconds:.0f} s, {cpu_seconds:.0f} CPU s (aim for resnet18 <= {_AIM:.0f} CPU s)"
        print(f"\n{model}: accuracy {result['score']:.4f} in {took}\n{done.stdout}")
    if model == "resnet18":
        assert result["score"] >= _ACCURACY
