"""One trial drawn from the space of an AutoML job: what is fixed wins, and what is drawn is on record."""

from __future__ import annotations

import json
from typing import Any

import pytest

from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.jobs.runners import automl_request
from amlocal.emulator.jobs.runners.automl_draw import with_sample

D = "taskDetails"
S = f"{D}.modelSettings"
SPACE = f"{D}.searchSpace"
SWEEP = f"{D}.sweepSettings"
BANDIT = {"policyType": "Bandit", "slackFactor": 0.2, "slackAmount": 0, "evaluationInterval": 2}


def drawn(desk: Any, name: str = "job1", **changes: Any) -> automl_request.ImageJob:
    return with_sample(automl_request.read(desk.body(**changes)), name)


def refused(desk: Any, **changes: Any) -> AzureError:
    with pytest.raises(AzureError) as caught:
        drawn(desk, **changes)
    assert caught.value.status == 400
    return caught.value


def test_what_is_fixed_wins_and_the_rest_is_drawn(desk: Any, helpers: Any) -> None:
    desk.data()
    desk.engine.on_submit = helpers.train
    service = desk.service()
    space = [
        {
            "modelName": "choice('resnet34','resnet50')",
            "numberOfEpochs": "choice(15,30)",
            "learningRate": "uniform(0.001,0.01)",
            "optimizer": "choice('Sgd','AdamW')",
        }
    ]
    changes = {SPACE: space, SWEEP: {"samplingAlgorithm": "Random", "earlyTermination": BANDIT}}
    service.submit(desk.workspace, "job1", desk.body(**changes))
    service.wait_idle()
    assert desk.record("job1").state == "Completed", desk.record("job1").error
    spec = json.loads((desk.job_dir("job1_HD_0") / "spec.json").read_text())
    parameters = spec["parameters"]
    assert (parameters["model_name"], parameters["number_of_epochs"]) == ("resnet18", 2)
    assert 0.001 <= parameters["learning_rate"] <= 0.01 and parameters["optimizer"] in ("sgd", "adamw")
    sample = {key: parameters[key] for key in ("learning_rate", "optimizer")}
    assert json.loads(desk.record("job1_HD_0").tags["hyperparameters"]) == sample
    tags = desk.record("job1_HD").tags
    assert json.loads(tags["_aml_system_job1_HD_0"]) == parameters
    generator = json.loads(tags["_aml_system_generator_config"])
    assert generator["name"] == "RANDOM"
    assert generator["parameter_space"] == {
        "model_name": ["choice", [["resnet34", "resnet50"]]],
        "number_of_epochs": ["choice", [[15, 30]]],
        "learning_rate": ["uniform", [0.001, 0.01]],
        "optimizer": ["choice", [["sgd", "adamw"]]],
    }
    policy = json.loads(tags["_aml_system_policy_config"])
    assert policy["name"] == "Bandit" and policy["properties"]["slack_factor"] == 0.2
    log = (desk.artifacts("job1_HD_0") / "user_logs/std_log.txt").read_text()
    assert f"drawn from the search space by random sampling: {json.dumps(sample)}" in log
    assert "model_name is not drawn: training_parameters fix it" in log
    assert "number_of_epochs is not drawn" in log and "learning_rate is not drawn" not in log
    assert "the early termination policy Bandit changes nothing" in log


def test_one_sub_space_is_drawn_with_its_own_parameters_only(desk: Any) -> None:
    space = [
        {"modelName": "choice('resnet18','resnet34')", "learningRate": "uniform(0.001,0.01)"},
        {"modelName": "vits16r224", "layersToFreeze": "choice(0,2)", "earlyStopping": "choice(True,False)"},
    ]
    models = set()
    for number in range(40):
        job = drawn(desk, f"job{number}", **{SPACE: space, f"{S}.modelName": None})
        models.add(job.model)
        assert job.model_given and job.sample is not None and job.sample["model_name"] == job.model
        if job.model == "vits16r224":
            assert job.sample.keys() == {"model_name", "layers_to_freeze", "early_stopping"}
            assert job.parameters["layers_to_freeze"] in (0, 2)
            assert isinstance(job.parameters["early_stopping"], bool)
        else:
            assert job.sample.keys() == {"model_name", "learning_rate"}
        assert job.parameters["number_of_epochs"] == 2 and "model_name" not in job.parameters
        assert drawn(desk, f"job{number}", **{SPACE: space, f"{S}.modelName": None}) == job
    assert models == {"resnet18", "resnet34", "vits16r224"}


def test_the_grid_begins_with_its_first_combination(desk: Any) -> None:
    space = [{"modelName": "choice('resnet34','resnet18')", "weightedLoss": "choice(2,1)"}]
    changes = {SPACE: space, f"{S}.modelName": None, SWEEP: {"samplingAlgorithm": "grid"}}
    assert drawn(desk, **changes).sample == {"model_name": "resnet34", "weighted_loss": 2}
    # What is fixed is no dimension of the grid.
    changes[f"{S}.weightedLoss"] = 0
    job = drawn(desk, **changes)
    assert job.sample == {"model_name": "resnet34"} and job.parameters["weighted_loss"] == 0


def test_a_space_without_a_model_takes_the_default_one(desk: Any) -> None:
    job = drawn(desk, **{SPACE: [{"learningRate": "0.02"}], f"{S}.modelName": None})
    assert (job.model, job.model_given, job.parameters["learning_rate"]) == ("vitb16r224", False, 0.02)


def test_an_empty_space_is_none(desk: Any) -> None:
    for space in ([], None):
        job = drawn(desk, **{SPACE: space, SWEEP: {"samplingAlgorithm": "Random"}})
        assert job.search.space is None and job.sample is None


def test_unknown_keys_of_the_space_are_kept_and_told(desk: Any, helpers: Any) -> None:
    desk.data()
    desk.engine.on_submit = helpers.train
    service = desk.service()
    space = [{"weightDecay": None, "learningrate": "frob(1)", "advancedSettings": "x"}]
    service.submit(desk.workspace, "job1", desk.body(**{SPACE: space, SWEEP: {"more": 1}}))
    service.wait_idle()
    spec = json.loads((desk.job_dir("job1_HD_0") / "spec.json").read_text())
    assert spec["ignored"] == [
        "'sweepSettings.more'",
        "'searchSpace[0].learningrate' (did you mean learningRate?)",
        "'searchSpace[0].advancedSettings'",
    ]
    assert spec["parameters"] == {"model_name": "resnet18", "number_of_epochs": 2}


@pytest.mark.parametrize(
    ("space", "place", "message"),
    [
        ("choice(1)", "", "must be a list of objects"),
        ([1], "", "must be a list of objects"),
        ([{}] * 1001, "", "at most 1000"),
        (
            [{}, {"learningRate": "unifrm(1,2)"}],
            "[1].learningRate",
            "search_space[1].learning_rate: 'unifrm(1,2)', at character 1: 'unifrm' is no distribution; "
            "did you mean uniform?",
        ),
        ([{"learningRate": "uniform(0.1,,1)"}], "[0].learningRate", "at character 13: a value is expected"),
        ([{"learningRate": ["uniform", [0, 1]]}], "[0].learningRate", "must be a text such as choice(1,2)"),
        ([{"learningRate": "choice(0.1,7)"}], "[0].learningRate", "learning_rate: 7 is not allowed; it must"),
        ([{"learningRate": "uniform(0,7)"}], "[0].learningRate", "learning_rate: 7 is not allowed"),
        ([{"numberOfEpochs": "uniform(1,7)"}], "[0].numberOfEpochs", "cannot be uniform"),
        ([{"modelName": "choice('resnet18','resnet81')"}], "[0].modelName", "did you mean resnet18"),
        ([{"optimizer": "choice('lion')"}], "[0].optimizer", "one of sgd, adam, adamw"),
    ],
)
def test_every_value_of_a_space_is_checked(desk: Any, space: Any, place: str, message: str) -> None:
    # Also where a fixed value wins: what can never be meant is a mistake.
    error = refused(desk, **{SPACE: space, f"{S}.learningRate": 0.5})
    assert error.target == f"{SPACE}{place}" and message in error.message, error.message


def test_values_that_exclude_each_other_are_found_when_they_are_drawn(desk: Any) -> None:
    changes = {f"{S}.momentum": 0, f"{S}.nesterov": None}
    assert (
        "nesterov: True is not allowed" in refused(desk, **changes, **{SPACE: [{"optimizer": "sgd"}]}).message
    )
    assert drawn(desk, **changes, **{SPACE: [{"nesterov": "False"}]}).parameters["nesterov"] is False
    error = refused(
        desk, **{SPACE: [{"modelName": "vits16r224", "validationCropSize": "8"}], f"{S}.modelName": None}
    )
    assert "validation_crop_size: 8 is not allowed" in error.message


def test_a_draw_outside_of_the_range_is_told(desk: Any) -> None:
    error = refused(desk, **{SPACE: [{"learningRate": "normal(0.5,100000)"}]})
    assert "a value drawn for learning_rate: " in error.message and "smaller sigma" in error.message


@pytest.mark.parametrize(
    ("sweep", "place", "message"),
    [
        (7, "", "must be an object"),
        ({"samplingAlgorithm": "lucky"}, ".samplingAlgorithm", "one of random, grid, bayesian"),
        (
            {"samplingAlgorithm": "random", "earlyTermination": {"policyType": "Bandit"}},
            ".earlyTermination.slackFactor",
            "neither given",
        ),
        (
            {"samplingAlgorithm": "random", "earlyTermination": {"policyType": "lucky"}},
            ".earlyTermination.policyType",
            "must be one of bandit",
        ),
    ],
)
def test_sweep_settings_are_checked_without_a_space_too(
    desk: Any, sweep: Any, place: str, message: str
) -> None:
    error = refused(desk, **{SWEEP: sweep})
    assert error.target == f"{SWEEP}{place}" and message in error.message


def test_an_algorithm_that_does_not_take_the_space(desk: Any) -> None:
    for algorithm, space, message in (
        ("grid", [{"learningRate": "uniform(0,1)"}], "grid sampling takes choice only"),
        ("bayesian", [{"learningRate": "0.1"}, {"learningRate": "0.2"}], "no conditional search space"),
    ):
        error = refused(desk, **{SPACE: space, SWEEP: {"samplingAlgorithm": algorithm}})
        assert error.target == SPACE and message in error.message
