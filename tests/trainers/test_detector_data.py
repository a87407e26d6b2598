"""Both halves of a data set with objects: what is used, what is left out, tiles, streaming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from amlocal.compat.annotations import Annotation
from amlocal.trainers.data import annotated, images, tiling
from amlocal.trainers.data.detection_geometry import Resized
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.spec import Spec
from amlocal.trainers.tasks import detection_data
from amlocal.trainers.tasks.detection_data import Half

CAT = Annotation("cat", (0.25, 0.5, 0.5, 1.0))
DOG = Annotation("dog", (0.0, 0.0, 1.0, 0.5), True, ((0.0, 0.0, 1.0, 0.0, 1.0, 0.5),))
SMALL = Resized(20, 40)


def picture(path: Path, seed: int, size: tuple[int, int] = (40, 20)) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def manifest(path: Path, rows: list[tuple[Path, list[Annotation]]]) -> Path:
    lines = [
        {
            "path": str(image),
            "etag": "e",
            "label": [one.as_dict() for one in objects],
            "source": f"{path.stem}.jsonl:{n}",
        }
        for n, (image, objects) in enumerate(rows, 1)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def spec(folder: Path, train: Path, validation: Path | None = None, **fields: Any) -> Spec:
    facts: dict[str, Any] = {
        "run_id": "run",
        "task": "image-object-detection",
        "primary_metric": "mean_average_precision",
        "model": cast(Any, None),
        "parameters": {"random_seed": None, "tile_grid_size": None, "tile_overlap_ratio": 0.25},
        "given": frozenset(),
        "advanced": {},
        "train_manifest": train,
        "validation_manifest": validation,
        "validation_data_size": 0.2,
        "data_report": None,
        "artifacts_dir": folder / "artifacts",
        "state_dir": folder / "state",
        "cache_dir": folder / "cache",
        "weights_dir": None,
    }
    return Spec(**facts | fields)


@pytest.fixture
def halves(tmp_path: Path) -> tuple[Path, Path]:
    train = [
        (picture(tmp_path / "a.png", 1), [DOG, CAT]),
        (picture(tmp_path / "b.png", 2, (40, 80)), []),
        (picture(tmp_path / "c.png", 3, (100, 20)), [CAT]),
    ]
    held_out = [(picture(tmp_path / "d.png", 4), [CAT]), (picture(tmp_path / "e.png", 5), [])]
    return manifest(tmp_path / "train", train), manifest(tmp_path / "val", held_out)


def test_objects_are_in_pixels_of_the_image_as_it_is_kept(tmp_path: Path, halves: tuple[Path, Path]) -> None:
    found = detection_data.read(spec(tmp_path, *halves), SMALL)
    assert found.labels == ["cat", "dog"]
    assert json.loads((tmp_path / "artifacts/train_artifacts/labels.json").read_text()) == ["cat", "dog"]
    assert not (tmp_path / "artifacts/train_artifacts/train_sub.json").exists()
    half = found.train
    assert len(half) == 3 and half.images == [[0], [1], [2]] and half.regions == [None] * 3
    assert half.sources == ["train.jsonl:1", "train.jsonl:2", "train.jsonl:3"]
    assert half.sizes == [(20, 40), (40, 20), (8, 40)]
    (last, long, far), (first, pixels, objects) = half.get([2, 0])
    assert (last, first) == (2, 0)
    assert long.shape == (8, 40, 3) and far.boxes.tolist() == [[10, 4, 20, 8]]
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(tmp_path / "a.png")))
    assert objects.boxes.tolist() == [[0, 0, 40, 10], [10, 10, 20, 20]]
    assert objects.labels.tolist() == [1, 0] and objects.crowd.tolist() == [True, False]
    assert objects.polygons is None
    assert len(half.get([1])[0][2]) == 0
    assert len(found.validation) == 2


def test_segmentation_has_polygons(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 1)
    path = manifest(tmp_path / "m", [(tmp_path / "a.png", [DOG])])
    found = detection_data.read(spec(tmp_path, path, path, task="image-instance-segmentation"), SMALL)
    objects = found.train.get([0])[0][2]
    assert objects.polygons is not None
    assert objects.polygons[0][0].tolist() == [[0, 0], [40, 0], [40, 10]]


def test_the_split_is_written_and_repeats(tmp_path: Path) -> None:
    rows = [(picture(tmp_path / f"{n}.png", n), [CAT]) for n in range(10)]
    path = manifest(tmp_path / "m", rows)
    first = detection_data.read(spec(tmp_path, path), SMALL)
    assert (len(first.train), len(first.validation)) == (8, 2)
    folder = tmp_path / "artifacts" / "train_artifacts"
    names = [
        [json.loads(line)["image_url"] for line in (folder / name).read_text().splitlines()]
        for name in ("train_sub.json", "val_sub.json")
    ]
    assert [len(half) for half in names] == [8, 2]
    assert sorted(names[0] + names[1]) == sorted(str(image) for image, _ in rows)
    second = detection_data.read(spec(tmp_path, path), SMALL)
    assert second.validation.sources == first.validation.sources


def test_a_single_image_is_used_for_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = manifest(tmp_path / "m", [(picture(tmp_path / "a.png", 1), [CAT])])
    found = detection_data.read(spec(tmp_path, path), SMALL)
    assert found.train.sources == found.validation.sources == ["m.jsonl:1"]
    assert "one image only" in "".join(capsys.readouterr())


def test_unreadable_images_are_reported_once_tiles_or_not(tmp_path: Path, halves: tuple[Path, Path]) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    parameters = {"random_seed": None, "tile_grid_size": "2x1", "tile_overlap_ratio": 0.0}
    found = detection_data.read(spec(tmp_path, *halves, parameters=parameters), SMALL)
    assert set(found.train.sources) == {"train.jsonl:2", "train.jsonl:3"}
    report = json.loads((tmp_path / "artifacts/outputs/data_report.json").read_text())
    assert [(row["file"], row["line"]) for row in report["dropped"]] == [("train.jsonl", 1)]


def test_when_nothing_is_left_or_nothing_can_be_learned(tmp_path: Path, halves: tuple[Path, Path]) -> None:
    train, held_out = halves
    for name in ("d.png", "e.png"):
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(TrainingError, match=r"no validation image is left, 2 were left out; .*val\.jsonl:1"):
        detection_data.read(spec(tmp_path, train, held_out), SMALL)
    empty = manifest(tmp_path / "none", [(tmp_path / "a.png", []), (tmp_path / "b.png", [])])
    with pytest.raises(TrainingError, match="no training image has an object"):
        detection_data.read(spec(tmp_path, empty, train), SMALL)


def shapes(half: Half) -> list[tuple[int, int]]:
    return [pixels.shape[:2] for _, pixels, _ in half.get(range(len(half)))]


def test_tiles_join_training_where_they_show_objects_and_validation_all(
    tmp_path: Path, halves: tuple[Path, Path]
) -> None:
    parameters = {"random_seed": None, "tile_grid_size": "2x1", "tile_overlap_ratio": 0.0}
    found = detection_data.read(spec(tmp_path, *halves, parameters=parameters), SMALL)
    left, right = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
    # The dog is in both halves of a, the cat in the left one only.
    assert found.train.regions == [None, left, right, None, None, left]
    assert found.train.images == [[0, 1, 2], [3], [4, 5]]
    assert (
        found.train.sizes
        == shapes(found.train)
        == [(20, 40), (20, 20), (20, 20), (40, 20), (8, 40), (16, 40)]
    )
    (_, pixels, objects), (_, _, other) = found.train.get([1, 2])
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(tmp_path / "a.png"))[:, :20])
    assert objects.boxes.tolist() == [[0, 0, 20, 10], [10, 10, 20, 20]]
    assert other.boxes.tolist() == [[0, 0, 20, 10]] and other.crowd.tolist() == [True]
    assert found.validation.regions == [None, left, right] * 2
    assert found.validation.images == [[0, 1, 2], [3, 4, 5]]


def test_instance_segmentation_has_no_tiles(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 1)
    path = manifest(tmp_path / "m", [(tmp_path / "a.png", [DOG])])
    parameters = {"random_seed": None, "tile_grid_size": "2x1", "tile_overlap_ratio": 0.0}
    given = spec(tmp_path, path, path, task="image-instance-segmentation", parameters=parameters)
    assert detection_data.read(given, SMALL).validation.regions == [None]


def test_tiles_are_decoded_once(tmp_path: Path, halves: tuple[Path, Path]) -> None:
    parameters = {"random_seed": None, "tile_grid_size": "2x1", "tile_overlap_ratio": 0.0}
    given = spec(tmp_path, *halves, parameters=parameters)
    first = detection_data.read(given, SMALL)
    before = images.DECODES.value
    again = detection_data.read(given, SMALL)
    assert shapes(again.train) == shapes(first.train) and len(again.validation) == 6
    assert images.DECODES.value == before
    # Another grid is another cache.
    parameters["tile_grid_size"] = "1x2"
    assert detection_data.read(given, SMALL).train.regions[1] == (0.0, 0.0, 1.0, 0.5)
    assert images.DECODES.value > before


def test_streamed_images_are_read_when_they_are_needed(
    tmp_path: Path, halves: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.png").write_bytes(b"no image")
    before = images.DECODES.value
    found = detection_data.read(spec(tmp_path, *halves, advanced={"stream_image_files": True}), SMALL)
    assert images.DECODES.value == before and len(found.train) == 3
    assert found.train.sizes == [(1, 1)] * 3
    for _ in range(2):
        answers = found.train.get([2, 1, 0])
        assert [index for index, _, _ in answers] == [1, 0]
        assert answers[1][2].boxes.tolist() == [[0, 0, 40, 10], [10, 10, 20, 20]]
    assert images.DECODES.value == before + 2
    told = "".join(capsys.readouterr())
    assert told.count("train.jsonl:3 is left out") == 1


def test_an_image_and_its_tiles_are_decoded_together(
    tmp_path: Path, halves: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    plainly = images.PngImagePlugin.PngImageFile.load

    def load(image: images.PngImagePlugin.PngImageFile) -> Any:
        if image.tile:
            opened.append(Path(image.filename).name)
        return plainly(image)

    monkeypatch.setattr(images.PngImagePlugin.PngImageFile, "load", load)
    parameters = {"random_seed": None, "tile_grid_size": "3x2", "tile_overlap_ratio": 0.25}
    detection_data.read(spec(tmp_path, *halves, parameters=parameters), SMALL)
    # Twice, whatever the number of tiles: Pillow decodes a PNG also to know its orientation.
    assert sorted(opened) == sorted(["a.png", "b.png", "c.png", "d.png", "e.png"] * 2)


def test_scoring_sees_the_tiles_that_training_saw(tmp_path: Path, halves: tuple[Path, Path]) -> None:
    parameters = {"random_seed": None, "tile_grid_size": "2x1", "tile_overlap_ratio": 0.25}
    given = spec(tmp_path, *halves, parameters=parameters)
    found = detection_data.read(given, SMALL).validation
    views = tiling.views(images.open_image(tmp_path / "d.png"), SMALL, detection_data.grid_of(given))
    assert [region for region, _ in views] == found.regions[:3]
    for (_, ours), (_, theirs, _) in zip(views, found.get([0, 1, 2]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_rows_are_the_manifests_own(halves: tuple[Path, Path]) -> None:
    assert [len(row.annotations) for row in annotated.read_manifest(halves[0])] == [2, 0, 1]


def test_rare_classes_are_told_without_advice_that_does_not_apply(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(picture(tmp_path / f"{n}.png", n), [CAT, DOG] if n == 0 else [CAT, CAT]) for n in range(4)]
    bird = Annotation("bird", CAT.box)
    held_out = manifest(tmp_path / "v", [(picture(tmp_path / "v.png", 9), [bird])])
    detection_data.read(spec(tmp_path, manifest(tmp_path / "m", rows), held_out), SMALL)
    told = "".join(capsys.readouterr())
    assert "no training image has the class 'bird'" in told
    assert "'cat' has 4 training images, 'dog' has 1, 4.0 to 1\n" in told
    assert "weighted_loss" not in told
