"""AutoML jobs of several trials on an engine in memory: what is drawn, what is shared, what the end tells."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.settings import Caps

D = "taskDetails"
S = f"{D}.modelSettings"
L = f"{D}.limitSettings"
SPACE = f"{D}.searchSpace"
SWEEP = f"{D}.sweepSettings"
TAG = "amlocal.weights"
BANDIT = {"policyType": "Bandit", "slackFactor": 0.2, "slackAmount": 0, "evaluationInterval": 1}
TWO_MODELS = [
    {"modelName": "choice('resnet18','resnet34')", "learningRate": "uniform(0.001,0.01)"},
    {"modelName": "mobilenetv2", "optimizer": "choice('Sgd','AdamW')", "numberOfEpochs": "choice(15,30)"},
]


def wanted(trials: int, space: Any = None, **more: Any) -> dict[str, Any]:
    """Changes of a body that ask for so many trials; the model is free with a space."""
    changes = {f"{L}.maxTrials": trials, **({SPACE: space, f"{S}.modelName": None} if space else {})}
    return {**changes, **more}


def scored(helpers: Any, scores: Mapping[int, float | None]) -> Callable[[Any, Any], None]:
    """Trials that end with the score of their number; without one they fail."""

    def run(engine: Any, job: Any) -> None:
        number = int(job.job_dir.name.rpartition("_")[2])
        score = scores.get(number, 0.5)
        if score is None:
            with job.stdout.open("a") as log:
                log.write("ValueError: nothing can be learned\n")
            engine.end(job, 1)
            return
        model = json.loads((job.job_dir / "spec.json").read_text())["parameters"]["model_name"]
        helpers.write_result(job.job_dir, score=score, model_name=model)
        engine.end(job)

    return run


def ran(desk: Any, run: Callable[[Any, Any], None], **changes: Any) -> Any:
    """The job at its end."""
    desk.engine.on_submit = run
    service = desk.service()
    service.submit(desk.workspace, "job1", desk.body(**changes))
    service.wait_idle()
    return desk.record("job1")


def spec(desk: Any, index: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((desk.job_dir(f"job1_HD_{index}") / "spec.json").read_text())
    return found


def user_log(desk: Any, index: int) -> str:
    return str((desk.artifacts(f"job1_HD_{index}") / "user_logs/std_log.txt").read_text())


def test_every_trial_has_its_own_sample_and_the_best_one_wins(desk: Any, helpers: Any) -> None:
    scores = {0: 0.5, 1: 0.75, 2: 0.75, 3: 0.25}
    root = ran(desk, scored(helpers, scores), **wanted(4, TWO_MODELS, **{f"{L}.maxConcurrentTrials": 9}))
    assert root.state == "Completed", root.error
    assert desk.engine.started == [(f"job1_HD_{index}", 1) for index in range(4)]
    models = []
    for index in range(4):
        trial, parameters = desk.record(f"job1_HD_{index}"), spec(desk, index)["parameters"]
        sample = json.loads(trial.tags["hyperparameters"])
        models.append(sample["model_name"])
        # The number of epochs is fixed, and is no part of the sample.
        second = (
            {"model_name", "optimizer"} if models[-1] == "mobilenetv2" else {"model_name", "learning_rate"}
        )
        assert sample.keys() == second and parameters == {**sample, "number_of_epochs": 2}
        assert json.loads(desk.record("job1_HD").tags[f"_aml_system_job1_HD_{index}"]) == parameters
        assert trial.properties["run_algorithm"] == models[-1]
        assert trial.properties["model_name"] == f"job1{index}"
        assert f"drawn from the search space by random sampling: {json.dumps(sample)}" in user_log(
            desk, index
        )
        assert "training_data: 12 images, 2 labels, 0 rows dropped" in user_log(desk, index)
    # Of equal ones the earlier.
    assert root.tags["automl_best_child_run_id"] == "job1_HD_1"
    assert root.tags["score_000"] == "0.5;0.75;0.75;0.25" and root.tags["iteration_000"] == "0;1;2;3"
    assert root.tags["run_algorithm_000"] == ";".join(models)
    assert root.properties["num_iterations"] == "4"
    sweep = desk.record("job1_HD")
    assert (sweep.properties["best_child_run_id"], sweep.properties["score"]) == ("job1_HD_1", "0.75")
    assert sweep.tags["_aml_system_max_concurrent_jobs"] == "4"


def test_trials_share_the_data_of_their_job(desk: Any, helpers: Any) -> None:
    ran(desk, scored(helpers, {}), **wanted(2, TWO_MODELS))
    specs = [spec(desk, index) for index in range(2)]
    shared = desk.job_dir("job1") / "train_manifest.jsonl"
    assert {one["train_manifest"] for one in specs} == {str(shared)} and shared.is_file()
    assert {one["data_report"] for one in specs} == {str(desk.artifacts("job1") / "outputs/data_report.json")}
    assert not (desk.job_dir("job1_HD_0") / "train_manifest.jsonl").exists()


def test_the_same_name_draws_the_same_trials(make_desk: Callable[[], Any], helpers: Any) -> None:
    found = []
    for _ in range(2):
        desk = make_desk()
        desk.data()
        ran(desk, scored(helpers, {}), **wanted(3, TWO_MODELS))
        found.append([spec(desk, index)["parameters"] for index in range(3)])
    assert found[0] == found[1] and len({json.dumps(one) for one in found[0]}) > 1


def test_a_grid_ends_with_its_last_combination(desk: Any, helpers: Any) -> None:
    space = [{"modelName": "resnet18", "weightedLoss": "choice(0,1)"}, {"modelName": "resnet34"}]
    changes = wanted(9, space, **{SWEEP: {"samplingAlgorithm": "Grid"}})
    root = ran(desk, scored(helpers, {}), **changes)
    samples = [json.loads(desk.record(f"job1_HD_{index}").tags["hyperparameters"]) for index in range(3)]
    assert samples == [
        {"model_name": "resnet18", "weighted_loss": 0},
        {"model_name": "resnet18", "weighted_loss": 1},
        {"model_name": "resnet34"},
    ]
    assert len(desk.engine.started) == 3 and root.state == "Completed"
    assert root.tags["iteration_000"] == "0;1;2" and root.properties["num_iterations"] == "9"


@pytest.mark.parametrize(
    "changes",
    [
        {SWEEP: {"samplingAlgorithm": "Random"}},
        {SWEEP: {"samplingAlgorithm": "Grid", "earlyTermination": BANDIT}},
        {SPACE: [{"numberOfEpochs": "choice(3,4)"}]},
        {SPACE: [{"numberOfEpochs": "choice(3,4)"}], SWEEP: {"samplingAlgorithm": "Bayesian"}},
    ],
)
def test_where_nothing_is_free_there_is_one_trial(desk: Any, helpers: Any, changes: dict[str, Any]) -> None:
    root = ran(desk, scored(helpers, {}), **{f"{L}.maxTrials": 4, **changes})
    assert root.state == "Completed" and desk.engine.started == [("job1_HD_0", 1)]
    assert json.loads(root.properties["AMLSettingsJsonString"])["is_automode"] is False


def test_a_trial_that_fails_leaves_the_others_alone(desk: Any, helpers: Any) -> None:
    root = ran(desk, scored(helpers, {0: None, 1: 0.5, 2: 0.75}), **wanted(3, TWO_MODELS))
    assert root.state == "Completed" and root.error is None
    states = [desk.record(f"job1_HD_{index}").state for index in range(3)]
    assert states == ["Failed", "Completed", "Completed"]
    assert root.tags["automl_best_child_run_id"] == "job1_HD_2" and root.tags["iteration_000"] == "1;2"
    assert "nothing can be learned" in desk.record("job1_HD_0").error["message"]
    assert "1 of 3 jobs failed" in desk.hyperdrive()


def test_a_job_whose_trials_all_fail_has_the_first_cause(desk: Any, helpers: Any) -> None:
    root = ran(desk, scored(helpers, {0: None, 1: None}), **wanted(2, TWO_MODELS))
    assert root.state == desk.record("job1_HD").state == "Failed" and root.error["code"] == "UserError"
    assert root.error["message"].startswith(
        "User errors were found in at least one of the child runs. job1_HD_0: "
    )
    assert "automl_best_child_run_id" not in root.tags and "score_000" not in root.tags


def test_a_sample_that_cannot_be_trained_fails_alone(desk: Any, helpers: Any) -> None:
    space = [{"modelName": "choice('vits16r224','resnet18')", "validationCropSize": "8"}]
    changes = wanted(2, space, **{SWEEP: {"samplingAlgorithm": "Grid"}})
    root = ran(desk, scored(helpers, {}), **changes)
    assert root.state == "Completed" and desk.engine.started == [("job1_HD_1", 1)]
    error = desk.record("job1_HD_0").error
    assert error["code"] == "UserError" and "validation_crop_size: 8 is not allowed" in error["message"]
    assert json.loads(desk.record("job1_HD").tags["_aml_system_job1_HD_0"])["model_name"] == "vits16r224"


def test_a_job_of_which_no_sample_can_be_trained_is_refused(desk: Any) -> None:
    space = [{"modelName": "choice('vits16r224','vitb16r224')", "validationCropSize": "8"}]
    with pytest.raises(AzureError, match="validation_crop_size: 8 is not allowed") as caught:
        desk.service(start=False).submit(desk.workspace, "job1", desk.body(**wanted(2, space)))
    assert (caught.value.status, caught.value.target) == (400, SPACE)


def test_a_trial_ended_by_the_policy_counts_with_what_it_kept(desk: Any, helpers: Any) -> None:
    def metrics(folder: Path, *values: float) -> None:
        (folder / "metrics.jsonl").unlink(missing_ok=True)
        helpers.log_values(folder, *values)

    def run(engine: Any, job: Any) -> None:
        number = int(job.job_dir.name.rpartition("_")[2])
        if number == 0:
            helpers.write_result(job.job_dir, score=0.9)
            metrics(job.job_dir, 0.8, 0.9)
            engine.end(job)
            return
        if number == 1:
            helpers.write_result(job.job_dir, score=0.5, terminated="the policy")
        metrics(job.job_dir, 0.5)

    changes = {SPACE: [{"learningRate": "choice(0.1,0.2,0.3)"}], f"{L}.maxTrials": 3}
    root = ran(desk, run, **changes, **{SWEEP: {"samplingAlgorithm": "Grid", "earlyTermination": BANDIT}})
    assert root.state == "Completed"
    kept, nothing = desk.record("job1_HD_1"), desk.record("job1_HD_2")
    assert kept.state == nothing.state == "Canceled" and kept.error is None
    assert kept.tags["amlocal.terminated"].startswith("bandit: at interval 1 its best is 0.5")
    assert (
        kept.properties["score"] == "0.5" and kept.properties["model_output_path"] == "outputs/mlflow-model"
    )
    assert "score" not in nothing.properties
    assert root.tags["iteration_000"] == "0;1" and root.tags["automl_best_child_run_id"] == "job1_HD_0"
    # What it kept can be gone on from; a trial that kept nothing cannot.
    outputs = desk.artifacts("job1_HD_1") / "outputs"
    outputs.mkdir(parents=True, exist_ok=True)
    (outputs / "model.pt").write_bytes(b"weights")
    service = desk.services[0]
    service.submit(desk.workspace, "next", desk.body(**{f"{S}.checkpointRunId": "job1_HD_1"}))
    with pytest.raises(AzureError, match="job1_HD_2 is Canceled"):
        service.submit(desk.workspace, "none", desk.body(**{f"{S}.checkpointRunId": "job1_HD_2"}))


def test_values_are_those_of_the_primary_metric(desk: Any, helpers: Any) -> None:
    ran(desk, scored(helpers, {}))
    trial = desk.record("job1_HD_0")
    sweeper = desk.services[0]._runners["automl"].sweeper
    rows = [
        {"key": "accuracy_train", "value": 0.9, "step": 0, "timestamp": 1},
        {"key": "accuracy", "value": 0.1, "step": 0, "timestamp": 1},
        {"key": "accuracy", "value": 0.3, "step": 2, "timestamp": 3},
        {"key": "accuracy", "value": 0.2, "step": 1, "timestamp": 2},
    ]
    file = desk.job_dir("job1_HD_0") / "metrics.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"key": "accuracy", "val')
    assert sweeper.values(desk.workspace, trial) == (0.1, 0.2, 0.3)
    file.unlink()
    assert sweeper.values(desk.workspace, trial) == ()


def test_a_trial_is_the_same_when_it_is_asked_for_again(desk: Any, helpers: Any) -> None:
    ran(desk, scored(helpers, {}), **wanted(2, TWO_MODELS))
    sweeper, root = desk.services[0]._runners["automl"].sweeper, desk.record("job1")
    first, again = (sweeper.next_trial(desk.workspace, root, ()) for _ in range(2))
    assert first == again
    assert first.run.name == "job1_HD_0" and first.run.parent == "job1_HD"
    assert first.sample == spec(desk, 0)["parameters"]


def test_random_weights_are_told_of_the_models_that_have_none(desk: Any, helpers: Any) -> None:
    desk.settings = dataclasses.replace(desk.settings, missing_weights="random")
    (desk.root / "weights").mkdir(mode=0o700)
    (desk.root / "weights/resnet18.safetensors").write_bytes(b"weights")
    space = [{"modelName": "choice('resnet18','resnet34','mobilenetv2')"}]
    changes = {f"{S}.advancedSettings": None, SWEEP: {"samplingAlgorithm": "Grid"}}
    root = ran(desk, scored(helpers, {}), **wanted(3, space, **changes))
    tags = [desk.record(f"job1_HD_{index}").tags.get(TAG) for index in range(3)]
    assert tags[0] is None
    assert tags[1].startswith("random: no pretrained weights of resnet34 on this machine, and the hub")
    assert tags[2].startswith("random: no pretrained weights of mobilenetv2 on this machine")
    assert root.tags[TAG] == f"{tags[1]} | {tags[2]}" == desk.record("job1_HD").tags[TAG]
    assert "NO PRETRAINED WEIGHTS" in user_log(desk, 1) and "NO PRETRAINED" not in user_log(desk, 0)


def test_every_model_of_the_space_needs_its_weights(desk: Any) -> None:
    (desk.root / "weights").mkdir(mode=0o700)
    (desk.root / "weights/resnet18.safetensors").write_bytes(b"weights")
    space = [{"modelName": "resnet18"}, {"modelName": "resnet34"}]
    body = desk.body(**wanted(2, space, **{f"{S}.advancedSettings": None}))
    with pytest.raises(AzureError, match="Pretrained weights of resnet34 were not found"):
        desk.service(start=False).submit(desk.workspace, "job1", body)


def test_a_checkpoint_is_where_every_trial_goes_on_from(desk: Any, helpers: Any) -> None:
    desk.engine.on_submit = helpers.train
    service = desk.service()
    service.submit(desk.workspace, "first", desk.body())
    service.wait_idle()
    outputs = desk.artifacts("first_HD_0") / "outputs"
    outputs.mkdir(parents=True, exist_ok=True)
    (outputs / "model.pt").write_bytes(b"weights")
    desk.engine.on_submit = scored(helpers, {})
    space = [{"learningRate": "choice(0.1,0.2)"}, {"modelName": "mobilenetv2"}]
    changes = wanted(9, space, **{f"{S}.checkpointRunId": "first", f"{S}.modelName": None})
    service.submit(desk.workspace, "job1", desk.body(**changes, **{SWEEP: {"samplingAlgorithm": "Grid"}}))
    service.wait_idle()
    root = desk.record("job1")
    assert root.state == "Completed" and root.properties["amlocal.checkpoint"] == "first_HD_0"
    for index in range(2):
        assert spec(desk, index)["start"]["run_id"] == "first_HD_0"
        assert spec(desk, index)["parameters"]["model_name"] == "resnet18"
    # A model of another kind cannot go on from it, and fails by itself.
    assert "holds a resnet18" in desk.record("job1_HD_2").error["message"]


def test_the_servers_caps_hold_for_every_trial_and_are_told(desk: Any, helpers: Any) -> None:
    desk.settings = dataclasses.replace(desk.settings, caps=Caps(trials=2, images=6, epochs=1, image_size=64))
    root = ran(desk, scored(helpers, {}), **wanted(10, TWO_MODELS, **{f"{L}.maxConcurrentTrials": 4}))
    assert root.state == "Completed" and len(desk.engine.started) == 2
    assert root.properties["num_iterations"] == "2"
    told = {"trials": 2, "images": 6, "epochs": 1, "image_size": 64}
    for name in ("job1", "job1_HD", "job1_HD_0", "job1_HD_1"):
        assert json.loads(desk.record(name).tags["amlocal.caps"]) == told
    for index in range(2):
        parameters = spec(desk, index)["parameters"]
        assert (parameters["number_of_epochs"], parameters["training_crop_size"]) == (1, 64)
        assert "WARNING: this server caps AutoML jobs" in user_log(desk, index)
    rows = (desk.job_dir("job1") / "train_manifest.jsonl").read_text().splitlines()
    assert len(rows) == 6 and "6 of 12 images are used" in user_log(desk, 0)


def test_names_of_all_trials_are_kept_free(desk: Any) -> None:
    service = desk.service(start=False)
    service.submit(desk.workspace, "other_HD_7", desk.body())
    with pytest.raises(AzureError, match="'other_HD_7'") as caught:
        service.submit(desk.workspace, "other", desk.body(**wanted(9, TWO_MODELS)))
    assert caught.value.status == 409


def test_automode_plans_several_trials_without_a_space(desk: Any, helpers: Any) -> None:
    desk.settings = dataclasses.replace(desk.settings, missing_weights="random")
    scores = {0: 0.5, 1: 0.25, 2: 0.75, 3: 0.5}
    changes = wanted(4, **{f"{S}.modelName": None, f"{L}.timeout": "P1D"})
    root = ran(desk, scored(helpers, scores), **changes)
    assert root.state == "Completed", root.error
    settings = json.loads(root.properties["AMLSettingsJsonString"])
    assert settings["is_automode"] is True
    names = [spec(desk, index)["parameters"]["model_name"] for index in range(4)]
    # The default model comes first, as a job of one trial would train it.
    assert names[0] == "vitb16r224" and len(set(names)) > 1
    assert spec(desk, 0)["parameters"] == {"model_name": "vitb16r224", "number_of_epochs": 2}
    assert all(spec(desk, index)["parameters"]["number_of_epochs"] == 2 for index in range(4))
    plan = json.loads((desk.artifacts("job1") / "outputs/automode.json").read_text())
    assert plan["facts"]["train_images"] == 10 and plan["facts"]["validation_images"] == 2
    assert plan["facts"]["fixed"] == {"number_of_epochs": 2}
    log = desk.hyperdrive()
    for line in plan["lines"]:
        assert line in log
    assert log.index(plan["lines"][0]) < log.index("Scheduling job, id='job1_HD_0'")
    for index in range(4):
        reason = desk.record(f"job1_HD_{index}").tags["amlocal.automode"]
        assert f"job1_HD_{index}: {reason}" in log and f"({reason})" in user_log(desk, index)
    sweep = desk.record("job1_HD")
    generator = json.loads(sweep.tags["_aml_system_generator_config"])
    assert generator["name"] == "AutoMode" and generator["properties"]["seed"] == plan["seed"]
    assert sweep.body["search_space"] == generator["parameter_space"]
    assert sweep.body["early_termination"]["policyType"] == "Bandit"
    assert json.loads(sweep.tags["_aml_system_policy_config"])["name"] == "Bandit"
    assert root.tags["automl_best_child_run_id"] == "job1_HD_2"


def test_automode_keeps_to_a_model_that_is_named(desk: Any, helpers: Any) -> None:
    root = ran(desk, scored(helpers, {}), **wanted(3, **{f"{L}.timeout": "P1D"}))
    assert root.state == "Completed" and len(desk.engine.started) == 3
    parameters = [spec(desk, index)["parameters"] for index in range(3)]
    assert {one["model_name"] for one in parameters} == {"resnet18"}
    assert len({json.dumps(one, sort_keys=True) for one in parameters}) == 3


def test_one_trial_without_a_model_is_no_automode(desk: Any, helpers: Any) -> None:
    root = ran(desk, scored(helpers, {}), **{f"{S}.modelName": None})
    assert json.loads(root.properties["AMLSettingsJsonString"])["is_automode"] is False
    assert not (desk.artifacts("job1") / "outputs/automode.json").exists()


def test_bayesian_sampling_learns_from_the_trials_before(desk: Any, helpers: Any) -> None:
    def run(engine: Any, job: Any) -> None:
        rate = json.loads((job.job_dir / "spec.json").read_text())["parameters"]["learning_rate"]
        helpers.write_result(job.job_dir, score=1 - abs(rate - 0.8))
        engine.end(job)

    changes = wanted(16, [{"learningRate": "uniform(0,1)"}], **{SWEEP: {"samplingAlgorithm": "Bayesian"}})
    root = ran(desk, run, **{**changes, f"{S}.modelName": "resnet18"})
    assert root.state == "Completed" and len(desk.engine.started) == 16
    rates = [spec(desk, index)["parameters"]["learning_rate"] for index in range(16)]
    assert len(set(rates)) == 16
    # Half of what is drawn blindly is below 0.5; what is drawn from what was learned is nearly all above.
    assert sum(rate > 0.5 for rate in rates[10:]) >= 4
    generator = json.loads(desk.record("job1_HD").tags["_aml_system_generator_config"])
    assert generator["name"] == "BayesianOptimization"


def test_automode_does_without_models_that_have_no_weights(desk: Any, helpers: Any) -> None:
    body = desk.body(**wanted(3, **{f"{S}.modelName": None, f"{S}.advancedSettings": None}))
    service = desk.service(start=False)
    with pytest.raises(AzureError, match="Pretrained weights of vitb16r224 were not found"):
        service.submit(desk.workspace, "job1", body)
    (desk.root / "weights").mkdir(mode=0o700)
    (desk.root / "weights/resnet18.safetensors").write_bytes(b"weights")
    desk.engine.on_submit = scored(helpers, {})
    service = desk.service()
    service.submit(desk.workspace, "job1", body)
    service.wait_idle()
    assert desk.record("job1").state == "Completed", desk.record("job1").error
    models = {spec(desk, index)["parameters"]["model_name"] for index in range(3)}
    assert models == {"resnet18"} and TAG not in desk.record("job1").tags
    left_out = json.loads((desk.artifacts("job1") / "outputs/automode.json").read_text())["left_out"]
    assert left_out[0]["model"] == "vitb16r224" and "no pretrained weights" in left_out[0]["reason"]
