"""Trials of one sweep share decoded training images, whatever sizes they have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from painted import write_manifest

from amlocal.compat.annotations import Annotation
from amlocal.trainers import spec, trial
from amlocal.trainers.data import annotated, cache
from amlocal.trainers.data.samples import read_manifest
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.tasks import detection_training
from amlocal.trainers.tasks.classification import Classification
from amlocal.trainers.tasks.detection import Detection

LARGEST = {"training_crop_size": 48}
IMAGES, HELD_OUT = 10, 4


@pytest.fixture
def large_set(tmp_path: Path, desk: Any) -> dict[str, str]:
    """Images that are larger than any trial keeps them."""
    rows = desk.rows(tmp_path / "images", IMAGES + HELD_OUT, (200, 160))
    labelled = [(row.path, "ab"[n % 2]) for n, row in enumerate(rows)]
    train = write_manifest(tmp_path / "train.json", labelled[:IMAGES])
    validation = write_manifest(tmp_path / "validation.json", labelled[IMAGES:])
    return {"train_manifest": str(train), "validation_manifest": str(validation)}


def task(make_spec: Any, large_set: dict[str, str], name: str, crop: int, **fields: Any) -> Classification:
    parameters = {"training_crop_size": crop, "validation_crop_size": crop}
    parameters |= {"validation_resize_size": crop + 8}
    parameters |= fields.pop("parameters", {})
    return Classification(spec.load(make_spec(name, parameters, **large_set, **fields)), 1)


def decoded(desk: Any, made: Any) -> tuple[Any, int]:
    with desk.counted() as count:
        found = made()
    return found, count[0]


def short_side(one: Classification) -> int:
    pixels, _ = one._train.pixels([0])
    return min(pixels[0].shape[:2])


def test_the_training_images_of_trials_of_different_sizes_are_decoded_once(
    make_spec: Any, desk: Any, large_set: dict[str, str]
) -> None:
    def made(name: str, crop: int, **fields: Any) -> Any:
        return decoded(desk, lambda: task(make_spec, large_set, name, crop, **fields))

    small, first = made("small", 32, cache_sizes=LARGEST)
    large, second = made("large", 48, cache_sizes=LARGEST)
    again, third = made("again", 32, cache_sizes=LARGEST)
    # Each size of validation image is made once, from the image itself.
    assert (first, second, third) == (IMAGES + HELD_OUT, HELD_OUT, 0)
    assert [short_side(one) for one in (small, large, again)] == [96, 96, 96]
    # Alone, each trial has images of its own.
    own, count = made("own", 32)
    assert (short_side(own), count) == (64, IMAGES)


def test_validation_images_are_those_of_the_uncached_path_at_the_trials_own_size(
    make_spec: Any, desk: Any, large_set: dict[str, str]
) -> None:
    for crop in (32, 48):
        one = task(make_spec, large_set, f"trial{crop}", crop, cache_sizes=LARGEST)
        seen, _ = one._validation.pixels(range(HELD_OUT))
        samples = read_manifest(Path(large_set["validation_manifest"]), multilabel=False)
        plain = [cache.decoded(sample, cache.Validation(crop + 8, crop)) for sample in samples]
        assert len(plain) == HELD_OUT
        assert all(np.array_equal(a, b) for a, b in zip(seen, plain, strict=True))


def test_a_trial_without_augmentation_keeps_images_of_its_own_size(
    make_spec: Any, desk: Any, large_set: dict[str, str]
) -> None:
    plain = {"pretrained": False, "apply_automl_train_augmentations": False}
    one = task(make_spec, large_set, "plain", 32, cache_sizes=LARGEST, advanced_settings=plain)
    assert short_side(one) == 32


def test_a_trial_larger_than_all_it_was_told_of_is_not_made_smaller(
    make_spec: Any, large_set: dict[str, str]
) -> None:
    assert short_side(task(make_spec, large_set, "larger", 64, cache_sizes=LARGEST)) == 128


@pytest.mark.slow
def test_both_trials_train_on_it(make_spec: Any, desk: Any, large_set: dict[str, str]) -> None:
    counts = []
    for crop in (32, 48):
        parameters = {"training_crop_size": crop, "validation_crop_size": 32, "number_of_epochs": 1}
        path = make_spec(f"run{crop}", parameters, **large_set, cache_sizes=LARGEST)
        with desk.counted() as count:
            trial.run(spec.load(path))
        counts.append(count[0])
    assert counts == [IMAGES + HELD_OUT, 0]


def detection(make_spec: Any, large_set: dict[str, str], name: str, model: str, **more: Any) -> Detection:
    manifests = {}
    for key, path in large_set.items():
        rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
        box = Annotation("thing", (0.25, 0.25, 0.75, 0.75)).as_dict()
        objects = Path(path).with_suffix(".objects")
        objects.write_text("".join(json.dumps(row | {"label": [box]}) + "\n" for row in rows))
        manifests[key] = str(objects)
    fields = {"task": "image-object-detection", "primary_metric": "mean_average_precision"} | manifests
    given = more.pop("parameters") | {"model_name": model}
    path = make_spec(name, **fields, **more)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"parameters": given}))
    return Detection(spec.load(path), 1)


@pytest.mark.parametrize(
    ("model", "sizes", "largest", "kept"),
    [
        (
            "fasterrcnn_resnet18_fpn",
            [{"min_size": 40, "max_size": 64}, {"min_size": 80, "max_size": 100}],
            1,
            80,
        ),
        ("yolov5", [{"image_size": 64}, {"image_size": 128}], 1, 102),
    ],
)
def test_detectors_share_training_images_too_and_validate_at_their_own_size(
    make_spec: Any, desk: Any, large_set: dict[str, str], model: str, sizes: Any, largest: int, kept: int
) -> None:
    def made(name: str, parameters: dict[str, int], **more: Any) -> tuple[Detection, int]:
        more.setdefault("cache_sizes", sizes[largest])
        return decoded(
            desk, lambda: detection(make_spec, large_set, name, model, parameters=parameters, **more)
        )

    (small, first), (large, second) = made("small", sizes[0]), made("large", sizes[1])
    # The largest trial's validation images have the size at which its training images are kept.
    assert (first, second) == (IMAGES + HELD_OUT, HELD_OUT)
    assert [min(one._train.get([0])[0][1].shape[:2]) for one in (small, large)] == [kept, kept]
    geometry = detection_training.geometry(small._spec.model, small._parameters)
    samples = annotated.read_manifest(small._spec.validation_manifest, polygons=False)
    seen = small._validation.get(range(HELD_OUT))
    for (_, pixels, _), sample in zip(seen, samples, strict=True):
        assert np.array_equal(pixels, cache.decoded(sample, geometry))
    # Whoever looks at its training images as they are needs them at its own size.
    looking, count = made("looking", sizes[0] | {"log_training_metrics": "Enable"})
    assert count == IMAGES
    assert looking._train.get([0])[0][1].shape == seen[0][1].shape


@pytest.mark.parametrize("sizes", [{"training_crop_size": 0}, {"image_size": "640"}, {"min_size": True}, [1]])
def test_sizes_that_are_none_are_refused(make_spec: Any, sizes: Any) -> None:
    with pytest.raises(TrainingError, match="cannot be used"):
        spec.load(make_spec("bad", cache_sizes=sizes))
