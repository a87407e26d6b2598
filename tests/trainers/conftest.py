"""Tiny image sets and specs, made on the spot."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from painted import COLOURS, paint, write_manifest
from PIL import Image

from amlocal.trainers import progress

# As the command line does it, before PyTorch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


@pytest.fixture(autouse=True)
def one_thread_beside_others() -> None:
    """Several workers of pytest share the processors. For each test anew: some of them set another number."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        import torch

        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def colour_set(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """24 training and 9 validation images of three classes: {"train": manifest, "validation": manifest}."""
    folder = tmp_path_factory.mktemp("colours")

    def rows(half: str, each: int, start: int) -> list[tuple[Path, str]]:
        return [
            (paint(folder / half / f"{label}{n}.jpg", label, start + n), label)
            for n in range(each)
            for label in COLOURS
        ]

    return {
        "train": write_manifest(folder / "train.json", rows("train", 8, 0)),
        "validation": write_manifest(folder / "validation.json", rows("validation", 3, 100)),
    }


MakeSpec = Callable[..., Path]


@pytest.fixture
def make_spec(tmp_path: Path, colour_set: dict[str, Path]) -> MakeSpec:
    """make_spec(name, parameters, **fields) writes a quick trial's spec and returns its path."""

    def make(name: str = "trial", parameters: dict[str, Any] | None = None, **fields: Any) -> Path:
        quick = {
            "model_name": "resnet18",
            "number_of_epochs": 3,
            "training_batch_size": 8,
            "training_crop_size": 32,
            "validation_crop_size": 32,
            "validation_resize_size": 36,
            "warmup_cosine_lr_warmup_epochs": 1,
            "random_seed": 7,
        }
        spec = {
            "schema": 1,
            "run_id": name,
            "task": "image-classification",
            "primary_metric": "accuracy",
            "parameters": quick | (parameters or {}),
            "advanced_settings": {"pretrained": False},
            "train_manifest": str(colour_set["train"]),
            "validation_manifest": str(colour_set["validation"]),
            "validation_data_size": None,
            "data_report": None,
            "artifacts_dir": str(tmp_path / name / "artifacts"),
            "state_dir": str(tmp_path / name / "state"),
            "cache_dir": str(tmp_path / "cache"),
            "weights_dir": str(tmp_path / "weights"),
            "missing_weights": "error",
            "attempt": 1,
        }
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(spec | fields))
        return path

    return make


@pytest.fixture
def metrics_of() -> Callable[[Path], dict[str, dict[int, float]]]:
    """metrics_of(state_dir): {key: {step: value}}; fails when a (key, step) stands there twice."""

    def read(state: Path) -> dict[str, dict[int, float]]:
        found: dict[str, dict[int, float]] = {}
        for line in (state / "metrics.jsonl").read_text().splitlines():
            row = json.loads(line)
            assert row["step"] not in found.setdefault(row["key"], {}), f"twice: {row}"
            assert row["timestamp"] > 1_600_000_000_000
            found[row["key"]][row["step"]] = row["value"]
        return found

    return read


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test looks at the user's cache or at the network, and nothing is shipped."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)


class ImageDesk:
    """For tests of decoded images: rows of real files, how often they are decoded, bytes on disk."""

    def rows(self, folder: Path, number: int, size: tuple[int, int] = (64, 64)) -> list[Any]:
        """Samples of `number` different JPEG images of `size` (width, height)."""
        from amlocal.trainers.data.samples import Sample

        folder.mkdir(parents=True, exist_ok=True)
        found = []
        for n in range(number):
            noise = np.random.default_rng(n).integers(0, 256, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
            Image.fromarray(noise).resize(size).save(folder / f"{n}.jpg")
            found.append(Sample(folder / f"{n}.jpg", f"e{n}", ("a",), f"t.jsonl:{n + 1}"))
        return found

    @contextmanager
    def counted(self) -> Iterator[list[int]]:
        """A list whose one element becomes the number of images decoded inside."""
        from amlocal.trainers.data import images

        found = [0]
        before = images.DECODES.value
        yield found
        found[0] = images.DECODES.value - before

    def fresh(self, rows: Sequence[Any], geometry: Any) -> list[Any]:
        """The pixels as they are without any cache."""
        from amlocal.trainers.data import cache

        return [cache.decoded(row, geometry) for row in rows]

    def on_disk(self, folder: Path) -> int:
        """Bytes of a cache folder's files; on disk each takes a part of a block more at most."""
        found = [path.stat() for path in folder.iterdir() if path.suffix != ".lock"]
        size = sum(status.st_size for status in found)
        assert sum(status.st_blocks * 512 for status in found) <= size + 4096 * len(found)
        return size


@pytest.fixture(scope="session")
def desk() -> ImageDesk:
    return ImageDesk()


@pytest.fixture(autouse=True)
def usual_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial's log_verbosity does not outlive its test."""
    monkeypatch.setattr(progress._Level, "lowest", progress._Level.lowest)
