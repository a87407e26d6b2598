"""Which sizes the shared cache of a sweep's trials must have."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from PIL import Image

from amlocal.compat import names
from amlocal.emulator.jobs import cache_sizes
from amlocal.emulator.jobs.runners import automl_request
from amlocal.emulator.settings import Caps

LIMITS = {"maxTrials": 4, "maxConcurrentTrials": 1}


def sizes(desk: Any, space: list[dict[str, str]] | None, **more: Any) -> dict[str, int]:
    changes = {"taskDetails.searchSpace": space, "taskDetails.limitSettings": LIMITS}
    changes["taskDetails.sweepSettings"] = {"samplingAlgorithm": "Random"}
    caps = more.pop("caps", Caps())
    return cache_sizes.largest(automl_request.read(desk.body(**(changes | more))), caps)


def default(name: str, model: str, task: str = "image-classification") -> int:
    found: int = names.hyperparameters(task)[name].default_for(model)
    return found


def test_the_largest_size_that_any_trial_can_draw(desk: Any) -> None:
    space = [
        {"trainingCropSize": "choice(64, 192, 128)", "learningRate": "uniform(0.001, 0.01)"},
        {"trainingCropSize": "quniform(90, 200, 10)"},
    ]
    assert sizes(desk, space) == {"training_crop_size": 200}
    assert sizes(desk, space[:1]) == {"training_crop_size": 192}
    assert sizes(desk, space, caps=Caps(image_size=48)) == {"training_crop_size": 48}


def test_where_none_is_drawn_the_models_have_their_own(desk: Any) -> None:
    space = [{"modelName": "choice('resnet18', 'inceptionv3')"}, {"trainingCropSize": "choice(32)"}]
    free = {"taskDetails.modelSettings": {"numberOfEpochs": 1}}
    found = sizes(desk, space, **free)
    expected = max(default("training_crop_size", model) for model in ("resnet18", "inceptionv3"))
    assert found == {"training_crop_size": expected}


def test_what_is_fixed_is_not_drawn(desk: Any) -> None:
    fixed = {"modelName": "resnet18", "trainingCropSize": 40}
    space = [{"trainingCropSize": "choice(64, 192)"}]
    assert sizes(desk, space, **{"taskDetails.modelSettings": fixed}) == {"training_crop_size": 40}


def test_detectors_of_different_kinds_have_sizes_of_their_own(desk: Any) -> None:
    space = [
        {"modelName": "choice('yolov5')", "imageSize": "choice(320, 640)"},
        {"modelName": "choice('fasterrcnn_resnet18_fpn')", "minSize": "choice(300, 500)"},
    ]
    found = sizes(
        desk,
        space,
        **{
            "taskDetails.taskType": "ImageObjectDetection",
            "taskDetails.primaryMetric": "MeanAveragePrecision",
            "taskDetails.modelSettings": {"numberOfEpochs": 1},
        },
    )
    max_size = default("max_size", "fasterrcnn_resnet18_fpn", "image-object-detection")
    assert found == {"image_size": 640, "min_size": 500, "max_size": max_size}


@pytest.mark.parametrize("space", [None, []])
def test_a_job_without_a_space_shares_nothing(desk: Any, space: Any) -> None:
    assert sizes(desk, space) == {}


def test_each_trial_is_told(desk: Any, helpers: Any) -> None:
    desk.engine.on_submit = helpers.train
    space = [{"trainingCropSize": "choice(64, 96)", "learningRate": "uniform(0.001, 0.01)"}]
    body = desk.body(
        **{
            "taskDetails.searchSpace": space,
            "taskDetails.limitSettings": LIMITS,
            "taskDetails.sweepSettings": {"samplingAlgorithm": "Random"},
        }
    )
    service = desk.service()
    service.submit(desk.workspace, "job1", body)
    service.wait_idle()
    specs = [json.loads((desk.job_dir(f"job1_HD_{n}") / "spec.json").read_text()) for n in range(4)]
    assert [spec["cache_sizes"] for spec in specs] == [{"training_crop_size": 96}] * 4


def test_automodes_trials_share_what_the_default_model_needs(desk: Any, helpers: Any) -> None:
    desk.settings = dataclasses.replace(desk.settings, missing_weights="random")
    desk.engine.on_submit = helpers.train
    free = {"taskDetails.modelSettings": {"numberOfEpochs": 1}}
    body = desk.body(**{"taskDetails.limitSettings": LIMITS}, **free)
    desk.data()
    for path in (desk.blobs / "train" / "images").iterdir():
        Image.new("RGB", (40, 30)).save(path)
    service = desk.service()
    service.submit(desk.workspace, "job1", body)
    service.wait_idle()
    specs = [json.loads((desk.job_dir(f"job1_HD_{n}") / "spec.json").read_text()) for n in range(4)]
    crops = [spec["parameters"].get("training_crop_size") for spec in specs]
    # The images are small, and so is what other models see of them.
    assert crops[0] is None and 64 in crops[1:]
    crop = default("training_crop_size", "vitb16r224")
    assert [spec["cache_sizes"] for spec in specs] == [{"training_crop_size": crop}] * 4


def test_samples_whose_sizes_are_fixed_or_capped(desk: Any) -> None:
    changes = {"taskDetails.limitSettings": LIMITS, "taskDetails.modelSettings": {"numberOfEpochs": 1}}
    job = automl_request.read(desk.body(**changes))
    samples = [{"model_name": "resnet18", "training_crop_size": 96}, {"model_name": "resnet18"}]
    assert cache_sizes.of_samples(job, samples, Caps()) == {"training_crop_size": 224}
    assert cache_sizes.of_samples(job, samples[:1], Caps()) == {"training_crop_size": 96}
    assert cache_sizes.of_samples(job, samples, Caps(image_size=48)) == {"training_crop_size": 48}
    assert cache_sizes.of_samples(job, [{"model_name": "no such model"}], Caps()) == {}
