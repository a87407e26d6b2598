"""The setting `caps`: read from every source, and applied to limits, parameters and data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from amlocal.compat.annotations import Annotation
from amlocal.compat.data_report import Report, Row
from amlocal.emulator import settings
from amlocal.emulator.jobs import caps
from amlocal.emulator.settings import Caps, SettingsError

SMALL = Caps(trials=2, images=4, epochs=1, image_size=64)
CLASSIFICATION, DETECTION = "image-classification", "image-object-detection"


def report(*labels: Any, detection: bool = False) -> Report:
    made = Report(detection=detection, notices=["as it was"])
    for number, label in enumerate(labels):
        row = Row(f"/data/{number}.jpg", "1-1", label, f"a.jsonl:{number + 1}")
        made.rows.append(row)
        made.count(row)
    return made


def kept(most: int, *labels: Any, detection: bool = False) -> list[str]:
    rows = caps.images(Caps(images=most), report(*labels, detection=detection)).rows
    return [row.path.removeprefix("/data/").removesuffix(".jpg") for row in rows]


def box(label: str) -> Annotation:
    return Annotation(label, (0.0, 0.0, 1.0, 1.0))


def test_the_caps_come_from_the_file_or_the_environment_and_reach_the_worker(tmp_path: Path) -> None:
    flags = {"data_dir": str(tmp_path)}
    assert settings.load(flags, {}).caps == Caps()
    (tmp_path / "config.toml").write_text("[caps]\ntrials = 2\nimage_size = 64\n")
    assert settings.load(flags, {}).caps == Caps(trials=2, image_size=64)
    loaded = settings.load(flags, {"AMLOCAL_CAPS": '{"images": 24, "epochs": 1}'})
    assert loaded.caps == Caps(images=24, epochs=1)
    assert settings.from_json(settings.to_json(loaded)) == loaded


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"trial": 2}', r"caps.trial \(from environment\) is unknown. Known: trials, images, epochs"),
        ('{"trials": 0}', r"caps.trials = 0 \(from environment\): use a whole number of at least 1"),
        ('{"epochs": true}', "caps.epochs = True"),
        ('{"images": 1.5}', "caps.images = 1.5"),
        ('{"image_size": 31}', "caps.image_size = 31 .*at least 32"),
        ('{"epochs": 2147483648}', "caps.epochs = 2147483648"),
        ("2", "caps = 2 .*must be a table"),
        ("{", "caps .*is not JSON"),
    ],
)
def test_a_cap_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings.load({"data_dir": str(tmp_path)}, {"AMLOCAL_CAPS": text})


def test_without_caps_nothing_changes_and_nothing_is_said() -> None:
    none, data = Caps(), report("a", "b")
    given = {"number_of_epochs": 500, "training_crop_size": 2000}
    assert caps.trials(none, 1000) == 1000
    assert caps.parameters(none, CLASSIFICATION, "resnet18", given) == caps.Capped(given, ())
    assert caps.images(none, data) is data
    assert (caps.tags(none), caps.lines(none)) == ({}, [])


def test_a_job_tells_of_its_caps() -> None:
    assert json.loads(caps.tags(SMALL)["amlocal.caps"]) == {
        "trials": 2, "images": 4, "epochs": 1, "image_size": 64,
    }  # fmt: skip
    assert json.loads(caps.tags(Caps(epochs=3))["amlocal.caps"]) == {"epochs": 3}
    assert caps.lines(Caps(trials=2, epochs=3)) == [
        "WARNING: this server caps AutoML jobs (setting caps): at most trials 2, epochs 3"
    ]


def test_trials() -> None:
    assert [caps.trials(SMALL, wanted) for wanted in (1, 2, 10)] == [1, 2, 2]


def test_given_values_and_defaults_are_capped_and_smaller_ones_stay() -> None:
    found = caps.parameters(SMALL, CLASSIFICATION, "resnet18", {"training_crop_size": 48, "beta1": 0.5})
    assert found.parameters == {
        "training_crop_size": 48,
        "beta1": 0.5,
        "number_of_epochs": 1,
        "validation_crop_size": 64,
        "validation_resize_size": 64,
    }
    assert found.notices == (
        "capped by this server's settings: number_of_epochs 1 (instead of 15), "
        "validation_crop_size 64 (instead of 224), validation_resize_size 64 (instead of 256)",
    )
    again = caps.parameters(SMALL, CLASSIFICATION, "resnet18", found.parameters)
    assert again == caps.Capped(found.parameters, ())


@pytest.mark.parametrize(
    ("model", "sides"),
    [
        ("fasterrcnn_resnet50_fpn", {"min_size": 64, "max_size": 64}),
        ("yolov5", {"image_size": 64}),
        ("mmd-3x-yolof_r50_c5_8x8_1x_coco", {"min_size": 64, "max_size": 64}),
    ],
)
def test_a_detector_has_the_sides_capped_that_it_uses(model: str, sides: dict[str, int]) -> None:
    found = caps.parameters(Caps(image_size=64), DETECTION, model, {"learning_rate": 0.1})
    assert found.parameters == {"learning_rate": 0.1, **sides}


def test_the_first_images_are_kept_and_one_of_each_class() -> None:
    assert kept(3, "a", "a", "b", "a", "b") == ["0", "1", "2"]
    assert kept(3, "a", "a", "a", "a", "b", "b") == ["0", "1", "4"]
    assert kept(2, "a", "b", "c", "a") == ["0", "1", "2"]
    assert kept(9, "a", "b") == ["0", "1"]
    # Several classes in one image, and images without any.
    assert kept(3, ("a",), (), ("a",), ("a", "b"), ("c",)) == ["0", "3", "4"]
    assert kept(3, (box("a"),), (), (box("a"), box("b")), (box("c"),), detection=True) == ["0", "2", "3"]


def test_a_capped_report_counts_what_is_left_of_it() -> None:
    whole = report((box("a"), box("a")), (box("b"),), (box("a"),), detection=True)
    fewer = caps.images(Caps(images=2), whole)
    assert (fewer.labels, fewer.objects) == ({"a": 1, "b": 1}, {"a": 2, "b": 1})
    assert fewer.notices == [
        "as it was",
        "capped by this server's settings: 2 of 3 images are used.",
    ]
    assert len(whole.rows) == 3 and whole.notices == ["as it was"] and whole.labels == {"a": 2, "b": 1}
