"""`amlocal lint` on jobs: what it finds, on which line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lint_desk import job, write_data

from amlocal.compat import extras

SWEEP = """\
limits:
  timeout_minutes: 60
  max_trials: 10
  max_concurrent_trials: 2
training_parameters:
  early_stopping: True
  evaluation_frequency: 1
sweep:
  sampling_algorithm: random
  early_termination:
    type: bandit
    evaluation_interval: 2
    slack_factor: 0.2
    delay_evaluation: 6
"""
MULTICLASS = """\
search_space:
  - model_name:
      type: choice
      values: [vitb16r224, vits16r224]
    learning_rate: {type: uniform, min_value: 0.001, max_value: 0.01}
    number_of_epochs: {type: choice, values: [15, 30]}
  - model_name:
      type: choice
      values: [seresnext, resnet50]
    learning_rate: {type: uniform, min_value: 0.001, max_value: 0.01}
    layers_to_freeze: {type: choice, values: [0, 2]}
"""
MULTILABEL = """\
search_space:
  - model_name: {type: choice, values: [vitb16r224]}
    learning_rate: {type: uniform, min_value: 0.005, max_value: 0.05}
    gradient_accumulation_step: {type: choice, values: [1, 2]}
  - model_name: {type: choice, values: [seresnext]}
    validation_resize_size: {type: choice, values: [288, 320, 352]}
    validation_crop_size: {type: choice, values: [224, 256]}
    training_crop_size: {type: choice, values: [224, 256]}
"""
DETECTION = """\
search_space:
  - model_name: {type: choice, values: [yolov5]}
    learning_rate: {type: uniform, min_value: 0.0001, max_value: 0.01}
    model_size: {type: choice, values: [small, medium]}
  - model_name: {type: choice, values: [fasterrcnn_resnet50_fpn]}
    optimizer: {type: choice, values: [sgd, adam, adamw]}
    min_size: {type: choice, values: [600, 800]}
"""
PARTS = [{"label": name, "polygon": [[0.1, 0.2, 0.6, 0.2, 0.3, 0.9]]} for name in ("can", "milk")]
LABELS: dict[str, list[Any]] = {
    "image_classification_multilabel": [["can"], ["can", "milk"]],
    "image_object_detection": [PARTS, PARTS[:1]],
    "image_instance_segmentation": [PARTS, PARTS[:1]],
}
AUTOMODE = "limits: {max_trials: 10, max_concurrent_trials: 2}\n"


@pytest.mark.parametrize(
    ("task", "more"),
    [
        ("image_classification", SWEEP + MULTICLASS),
        ("image_classification", AUTOMODE),
        ("image_classification_multilabel", SWEEP + MULTILABEL),
        ("image_classification_multilabel", AUTOMODE),
        ("image_object_detection", SWEEP + DETECTION),
        ("image_object_detection", AUTOMODE),
        ("image_instance_segmentation", AUTOMODE),
    ],
)
def test_azures_samples_have_no_fault(
    lint: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, more: str
) -> None:
    monkeypatch.setattr(extras, "missing", lambda builder: "")
    labels = LABELS.get(task, ["can", "milk"])
    write_data(tmp_path / "data/train", labels=labels)
    (tmp_path / "job.yml").write_text(job(task, more=more))
    assert lint("job.yml") == []


def test_a_job_without_a_fault(lint: Callable[..., list[str]], tmp_path: Path) -> None:
    write_data(tmp_path / "data/train")
    write_data(tmp_path / "data/valid", 2)
    held_out = "validation_data: {path: data/valid, type: mltable}\nlimits: {max_trials: 1}\n"
    settings = "training_parameters: {model_name: resnet18, advanced_settings: '{\"pretrained\": false}'}\n"
    (tmp_path / "job.yml").write_text(job(held_out=held_out, settings=settings, space=MULTICLASS))
    # The few validation images are odd, and no error.
    lines = lint("job.yml")
    assert [line.partition(": ")[0] for line in lines] == ["data/valid/MLTable:1"]
    assert "with fewer than 10 images" in lines[0]
    assert lint("--strict", "job.yml", code=1) == lines


BAD = """\
limits:
  max_trials: 1001
  max_trial: 3
training_parameters:
  early_stopping: maybe
  learningrate: 0.1
  learning_rate: 7
  model_name: resnet81
  optimizer: sgd
  optimizer: adam
  advanced_settings: '{"stream_image_file": true}'
sweep:
  sampling_algorithm: random
  early_termination: {type: bandit, evaluation_interval: 2}
search_space:
  - model_name:
      type: choice
      values: [vitb16r224, vits16r225]
    momentum:
      type: uniform
      min_value: 0.001
      max_value: 3
    freeze: 3
"""
EXPECTED = {
    9: ["error: training_data: 'data/train' does not exist. It is looked for beside the YAML file."],
    12: ["error: limits.max_trials is 1001; it must be a whole number from 1 to 1000."],
    13: ["error: limits.max_trial is not a known key", "did you mean max_trials"],
    15: ["error: training_parameters.early_stopping: 'maybe' is not allowed; it must be true or false."],
    16: ["error: training_parameters.learningrate is not a known key", "did you mean learning_rate"],
    17: ["error: training_parameters.learning_rate: 7.0 is not allowed; it must be a number from 0 to 1."],
    18: ["error: training_parameters.model_name: 'resnet81' is not allowed", "did you mean resnet18"],
    20: ["warning: optimizer stands there twice; the last one counts"],
    21: ["warning: 'modelSettings.advancedSettings.stream_image_file' (did you mean stream_image_files?)"],
    24: ["error: sweep.early_termination: slack_factor and slack_amount are neither given"],
    26: ["error: search_space[0].model_name: 'vits16r225' is not allowed", "did you mean vits16r224"],
    29: ["error: search_space[0].momentum: 3 is not allowed; it must be a number from 0 to 1"],
    33: ["error: search_space[0].freeze is not a known key, and azure-ai-ml refuses the file"],
}


def test_every_fault_is_told_with_its_line(lint: Callable[..., list[str]], tmp_path: Path) -> None:
    (tmp_path / "bad.yml").write_text(job(more=BAD))
    found = {}
    for line in lint("bad.yml", code=1):
        _, number, text = line.split(":", 2)
        assert int(number) not in found, line
        found[int(number)] = text.strip()
    assert found.keys() == EXPECTED.keys()
    for number, parts in EXPECTED.items():
        assert found[number].startswith(parts[0]) and all(part in found[number] for part in parts), number


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("task: image_classification", "task: image_clasification", 1, "image_clasification"),
        ("log_verbosity: debug", "primary_metric: acuracy", 6, "'acuracy' passed is not in set"),
        ("target_column_name: label\n", "", 1, "target_column_name: Missing data"),
        ("  type: mltable", "  type: uri_folder", 10, "mltable"),
        (
            "  path: data/train",
            "  path: https://host/x",
            9,
            "neither a local folder nor an azureml reference",
        ),
        ("  path: data/train", "  path: job.yml", 9, "is a file; name the folder that holds MLTable"),
        ("type: mltable", "type: mltable\nvalidation_data_size: 1.5", 11, "a number between 0 and 1"),
        ("type: mltable", "type: mltable\nlimits: {timeout_minutes: 90000}", 11, "at most 60 days"),
        (
            "type: mltable",
            "type: mltable\nproperties:\n  node_count_per_trial: 'two'",
            12,
            "properties.node_count_per_trial is 'two'",
        ),
        (
            "type: mltable",
            "type: mltable\ntraining_parameters:\n  momentum: 0",
            11,
            "nesterov: True is not allowed",
        ),
        (
            "type: mltable",
            "type: mltable\ntraining_parameters: {momentum: 0}\nsearch_space:\n  - optimizer: sgd",
            12,
            "is drawn from it, and then nesterov",
        ),
    ],
)
def test_single_faults(
    lint: Callable[..., list[str]], tmp_path: Path, old: str, new: str, line: int, message: str
) -> None:
    write_data(tmp_path / "data/train")
    text = job()
    assert old in text
    (tmp_path / "job.yml").write_text(text.replace(old, new, 1))
    lines = lint("job.yml", code=1)
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"job.yml:{line}: error: ") and message in lines[0], lines


def test_the_messages_are_the_servers(lint: Callable[..., list[str]], tmp_path: Path) -> None:
    from amlocal.emulator.http.errors import AzureError
    from amlocal.emulator.jobs.runners import automl_request

    details = {
        "taskType": "ImageClassification",
        "targetColumnName": "label",
        "trainingData": {"jobInputType": "mltable", "uri": "azureml:x:1"},
        "modelSettings": {"weightedLoss": 3},
    }
    with pytest.raises(AzureError) as caught:
        automl_request.read({"taskDetails": details})
    text = job().replace("data/train", "azureml:x:1") + "training_parameters:\n  weighted_loss: 3\n"
    (tmp_path / "job.yml").write_text(text)
    assert lint("job.yml", code=1) == [f"job.yml:12: error: {caught.value.message}"]


COMMAND = """\
type: command
command: python train.py --lr ${{inputs.lr}} --data ${{inputs.data}}
code: src
environment: {image: "mcr.microsoft.com/x:1"}
compute: azureml:cpu-cluster
inputs:
  lr: 0.1
  data:
    type: uri_folder
    path: ./data
"""


def test_a_command_job(lint: Callable[..., list[str]], tmp_path: Path) -> None:
    (tmp_path / "job.yml").write_text(COMMAND)
    lines = lint("job.yml", code=1)
    assert len(lines) == 2 and lines[0].startswith("job.yml:3: error: ") and "/src" in lines[0], lines
    assert lines[1] == "job.yml:10: error: inputs.data: './data' does not exist beside the YAML file."
    (tmp_path / "src").mkdir()
    (tmp_path / "data").mkdir()
    assert lint("job.yml") == []
    (tmp_path / "job.yml").write_text(COMMAND.replace("{inputs.lr}", "{inputs.rate}"))
    lines = lint("job.yml", code=1)
    assert len(lines) == 1 and "rate" in lines[0]
    (tmp_path / "job.yml").write_text(COMMAND + "limits:\n  timeout: 99999999\n")
    lines = lint("job.yml", code=1)
    assert len(lines) == 1 and lines[0].startswith("job.yml:12: error: limits.timeout is 'P1157DT9H46M39S'")


SWEEP_JOB = """\
type: sweep
trial:
  command: python train.py --lr ${{search_space.lr}}
  environment: azureml:host:1
compute: azureml:cpu-cluster
sampling_algorithm: grid
search_space:
  lr: {type: choice, values: [0.1, 0.2]}
  size: {type: choice, values: [1, 2]}
objective: {goal: minimize, primary_metric: loss}
limits: {max_total_trials: 4}
early_termination:
  type: truncation_selection
  truncation_percentage: 20
"""


def test_a_sweep_job(lint: Callable[..., list[str]], tmp_path: Path) -> None:
    (tmp_path / "sweep.yml").write_text(SWEEP_JOB)
    assert lint("sweep.yml") == []
    wrong = (
        SWEEP_JOB.replace("type: choice, values: [0.1, 0.2]", "type: uniform, min_value: 0.9, max_value: 0.1")
        .replace("percentage: 20", "percentage: 100")
        .replace("trials: 4", "trials: 4000")
    )
    (tmp_path / "sweep.yml").write_text(wrong)
    assert lint("sweep.yml", code=1) == [
        "sweep.yml:7: error: search_space.lr: uniform: min_value is 0.9 and max_value is 0.1; min_value must "
        "be the smaller one.",
        "sweep.yml:11: error: limits.max_total_trials is 4000; it must be a whole number from 1 to 1000.",
        "sweep.yml:14: error: early_termination: truncation_percentage is 100; it must be a whole number "
        "from 1 to 99.",
    ]
    (tmp_path / "sweep.yml").write_text(SWEEP_JOB.replace("search_space.lr}", "search_space.rate}"))
    lines = lint("sweep.yml", code=1)
    assert len(lines) == 1 and lines[0].startswith("sweep.yml:3: error: command: ${{search_space.rate}}")


def test_jobs_that_are_not_there_yet(lint: Callable[..., list[str]], tmp_path: Path) -> None:
    (tmp_path / "pipeline.yml").write_text(
        "type: pipeline\njobs:\n  a: {type: command, command: echo 1, environment: azureml:host:1}\n"
    )
    assert lint("pipeline.yml", code=1) == [
        "pipeline.yml:1: error: Running Pipeline jobs is not there yet in amlocal."
    ]
