"""Training data that cannot be used is refused at submit: which row, why, and nothing is left behind."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace
from typing import Any

import pytest

from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.jobs import records
from amlocal.emulator.jobs.runners import automl_data


def data_error(desk: Any) -> AzureError:
    service = desk.service(start=False)
    with pytest.raises(AzureError) as caught:
        service.submit(desk.workspace, "job1", desk.body())
    assert caught.value.status == 400 and caught.value.target == "taskDetails.trainingData"
    assert desk.store.read(records.roots) == []
    return caught.value


def test_a_line_that_is_not_json_is_named(desk: Any) -> None:
    desk.data(extra="{'image_url': 1}\nnot JSON either\n")
    error = data_error(desk)
    assert error.message.startswith("training_data: train.jsonl:13:")
    assert "invalid_lines: drop" in error.message
    assert [detail["target"] for detail in error.body()["error"]["details"]] == [
        "train.jsonl:13",
        "train.jsonl:14",
    ]


def test_fewer_than_ten_good_rows(desk: Any) -> None:
    desk.data("train", rows=9, extra='{"image_url": "./images/77.jpg", "label": "a"}\n' * 2)
    for image in (desk.blobs / "train/images").glob("1?.jpg"):
        image.unlink()
    error = data_error(desk)
    assert "9 of 11 rows can be used, at least 10 are needed" in error.message
    assert "train.jsonl:10: image not found: ./images/77.jpg" in error.message


def test_images_outside_the_datastore_are_dropped_not_read(desk: Any) -> None:
    row = json.dumps(
        {
            "image_url": "azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/d/paths/x",
            "label": "a",
        }
    )
    desk.data(rows=5, extra=f"{row}\n" + '{"image_url": "/etc/hostname", "label": "a"}\n')
    for image in (desk.blobs / "train/images").iterdir():
        if int(image.stem) >= 5:
            image.unlink()
    message = data_error(desk).message
    assert "names the workspace s/g/w, but the job is in sub-1/group-1/ws-1" in message
    assert "'/etc/hostname' is not an azureml reference" in message


def test_a_large_data_set_is_looked_at_for_about_a_second(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = itertools.count()
    # Each look at the clock takes ten milliseconds of it.
    monkeypatch.setattr(automl_data, "time", SimpleNamespace(monotonic=lambda: next(looks) / 100))
    row = '{"image_url": "./images/%d.jpg", "label": "a"}\n'
    desk.data(extra="".join(row % number for number in range(20, 40_000)))
    _, created = desk.service(start=False).submit(desk.workspace, "job1", desk.body())
    # As many as the second lasts, of the many more that the rows would need.
    assert created and 90 < next(looks) < 150
