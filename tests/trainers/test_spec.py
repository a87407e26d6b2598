from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from amlocal.trainers import spec
from amlocal.trainers.errors import TrainingError


def test_defaults_are_filled_in_and_text_is_read(make_spec: Any) -> None:
    found = spec.load(make_spec(parameters={"number_of_epochs": "4.0", "number_of_workers": 2}))
    assert found.parameters["number_of_epochs"] == 4
    assert found.parameters["momentum"] == 0.9
    assert found.model.name == "resnet18"
    assert found.validation_data_size == 0.2
    assert not found.pretrained
    (notice,) = found.notices
    assert notice.startswith("number_of_workers has no effect here: images are decoded by a thread")


def test_advanced_settings_as_text_are_read_too(make_spec: Any) -> None:
    text = {"advanced_settings": '{"pretrained": false, "x": 1}'}
    found = spec.load(make_spec(parameters=text, advanced_settings={}))
    assert not found.pretrained
    broken = spec.load(make_spec(parameters={"advanced_settings": "{"}, advanced_settings={}))
    assert broken.pretrained
    assert "advanced_settings is ignored" in broken.notices[0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parameters": {"model_name": "resnet19"}}, "model_name: 'resnet19'.*did you mean"),
        ({"parameters": {"model_name": "org/none"}}, "config.json"),
        ({"log_verbosity": "Loud"}, "log_verbosity is 'Loud'; it must be one of NotSet, Debug"),
        ({"node_count": 0}, "node_count is 0; it must be a whole number of at least 1"),
        (
            {"parameters": {"learning_rate": 3}},
            "learning_rate: 3 is not allowed; it must be a number from 0 to 1",
        ),
        ({"parameters": {"momentum": 0}}, "nesterov"),
        ({"task": "image-sorting"}, "unknown image task"),
        ({"primary_metric": "f1"}, "primary_metric: 'f1'"),
        ({"missing_weights": "download"}, "missing_weights is 'download'"),
        ({"validation_data_size": 1.5}, "validation_data_size is 1.5"),
        ({"schema": 2}, "schema 1"),
    ],
)
def test_what_is_wrong_is_named(make_spec: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        spec.load(make_spec(**fields))


def test_files_that_are_no_spec(tmp_path: Path, make_spec: Any) -> None:
    with pytest.raises(TrainingError, match="cannot read the spec"):
        spec.load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(TrainingError, match="is not JSON"):
        spec.load(tmp_path / "bad.json")
    path = make_spec()
    fields = json.loads(path.read_text())
    del fields["state_dir"]
    path.write_text(json.dumps(fields))
    with pytest.raises(TrainingError, match="lacks the field state_dir"):
        spec.load(path)
