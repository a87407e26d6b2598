"""AutoML image jobs of several trials, by the unmodified SDK: searches, ends, and what is recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import job_desk
import pytest
from conftest import wait_for

from amlocal.fixtures.datasets import Digits, write_digits, write_mltable

SIDE = 32
ENDS = ("Completed", "Failed", "Canceled")
# With a batch of one image of 32 pixels a batch norm has one value only, and refuses it.
FAILS_AND_WORKS = [1, 12]
SETTINGS = '{"pretrained": false}'


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    folder = tmp_path_factory.mktemp("sweeps")
    return write_digits(folder, train=24, validation=12, held_out=0, size=8, classes=(0, 1, 4))


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two MLTables of images of one colour each, which a network tells apart soon."""
    from PIL import Image

    found = []
    colours = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}
    for part, each in (("train", 6), ("validation", 3)):
        folder = tmp_path_factory.mktemp(part)
        (folder / "images").mkdir()
        rows: list[dict[str, object]] = []
        for label, colour in colours.items():
            for number in range(each):
                shade = tuple(value - 5 * number for value in colour)
                image = f"images/{label}{number}.jpg"
                Image.new("RGB", (SIDE, SIDE), shade).save(folder / image)
                rows.append({"image_url": image, "label": label})
        found.append(write_mltable(folder, rows))
    return found[0], found[1]


def job_of(name: str, train: Path, validation: Path, **parameters: Any) -> Any:
    from azure.ai.ml import Input, automl

    job = automl.image_classification(
        training_data=Input(type="mltable", path=str(train)),
        validation_data=Input(type="mltable", path=str(validation)),
        target_column_name="label",
        primary_metric="accuracy",
        compute="cpu-cluster",
        experiment_name="sweeps",
    )
    job.name = name
    given = {
        "number_of_epochs": 1,
        "training_batch_size": 12,
        "training_crop_size": SIDE,
        "validation_crop_size": SIDE,
        "validation_resize_size": SIDE,
        "random_seed": 1,
        "advanced_settings": SETTINGS,
        **parameters,
    }
    job.set_training_parameters(**{key: value for key, value in given.items() if value is not None})
    return job


def has(client: Any, name: str, status: str) -> bool:
    # The status of a command is an enumeration of the SDK's, which equals its text.
    return bool(client.jobs.get(name).status == status)


def ended(client: Any, name: str) -> Any:
    def done() -> Any:
        found = client.jobs.get(name)
        return found if found.status in ENDS else None

    return wait_for(done, 300, f"the end of {name}")


def trials_of(client: Any, name: str) -> dict[str, Any]:
    """The trials of a job by name, in order, as the SDK lists the children of its sweep."""
    children = {one.name for one in client.jobs.list(parent_job_name=name)}
    assert children == {f"{name}_HD"}
    below = [one.name for one in client.jobs.list(parent_job_name=f"{name}_HD")]
    return {one: client.jobs.get(one) for one in sorted(below, key=lambda n: int(n.rpartition("_")[2]))}


def why(server: Any, job: Any) -> str:
    paths = server.folder.blobs.glob(f"*/*/*/dcid.{job.name}_HD*/*/*.txt")
    texts = [path.read_text()[-2000:] for path in paths]
    return f"{job.status} {getattr(job, 'error', '')}" + "\n----\n".join(texts)


def finished(client: Any, name: str) -> Any:
    run = client.get_run(name)
    return run if run.info.status == "FINISHED" else None


def hyperdrive(server: Any, name: str) -> str:
    """The log of a job's sweep."""
    (path,) = server.folder.blobs.glob(f"*/*/*/dcid.{name}_HD/azureml-logs/hyperdrive.txt")
    return str(path.read_text())


def process_runs(server: Any, trial: str) -> bool:
    return bool(list(server.folder.jobs.glob(f"*/{trial}/attempt-1.started")))


@pytest.fixture(scope="module")
def searched(server: Any, ml_client: Any, data: Digits) -> Any:
    """A random search over two models, each with parameters of its own, at its end."""
    from azure.ai.ml.automl import SearchSpace
    from azure.ai.ml.sweep import Choice, Uniform

    job = job_of("sweep_random", data.train, data.validation)
    job.extend_search_space(
        [
            SearchSpace(
                model_name=Choice(["resnet18"]),
                learning_rate=Uniform(0.001, 0.01),
                number_of_epochs=Choice([15, 30]),
            ),
            SearchSpace(
                model_name="mobilenetv2", optimizer=Choice(["adam", "adamw"]), beta1=Uniform(0.8, 0.9)
            ),
        ]
    )
    job.set_limits(max_trials=3, max_concurrent_trials=2, timeout_minutes=30)
    job.set_sweep(sampling_algorithm="Random")
    ml_client.jobs.create_or_update(job)
    found = ended(ml_client, "sweep_random")
    assert found.status == "Completed", why(server, found)
    return found


def test_a_random_search_over_two_models(ml_client: Any, searched: Any) -> None:
    trials = trials_of(ml_client, "sweep_random")
    assert list(trials) == [f"sweep_random_HD_{index}" for index in range(3)]
    samples = [json.loads(trial.tags["hyperparameters"]) for trial in trials.values()]
    for sample, trial in zip(samples, trials.values(), strict=True):
        assert trial.status == "Completed"
        if sample["model_name"] == "resnet18":
            assert sample.keys() == {"model_name", "learning_rate"}
            assert 0.001 <= sample["learning_rate"] <= 0.01
        else:
            assert sample.keys() == {"model_name", "optimizer", "beta1"}
            assert sample["optimizer"] in ("adam", "adamw") and 0.8 <= sample["beta1"] <= 0.9
        assert trial.properties["run_algorithm"] == sample["model_name"]
    assert len({json.dumps(sample) for sample in samples}) == 3
    assert {sample["model_name"] for sample in samples} == {"resnet18", "mobilenetv2"}

    scores = [float(trial.properties["score"]) for trial in trials.values()]
    best = list(trials)[scores.index(max(scores))]
    assert searched.tags["automl_best_child_run_id"] == best
    assert [float(text) for text in searched.tags["score_000"].split(";")] == scores
    assert searched.tags["iteration_000"] == "0;1;2" and searched.properties["num_iterations"] == "3"
    models = [sample["model_name"] for sample in samples]
    assert searched.tags["run_algorithm_000"].split(";") == models
    settings = json.loads(searched.properties["AMLSettingsJsonString"])
    assert settings["is_automode"] is False

    sweep = ml_client.jobs.get("sweep_random_HD")
    assert sweep.status == "Completed" and sweep.properties["best_child_run_id"] == best
    assert float(sweep.properties["score"]) == max(scores)
    assert (sweep.limits.max_total_trials, sweep.limits.max_concurrent_trials) == (3, 2)
    assert sweep.sampling_algorithm.type == "random" and list(sweep.search_space) == ["model"]
    assert sweep.tags["_aml_system_max_total_jobs"] == "3"
    assert sweep.tags["_aml_system_samples_generated_count"] == "3"
    for name, sample in zip(trials, samples, strict=True):
        used = json.loads(sweep.tags[f"_aml_system_{name}"])
        assert used["number_of_epochs"] == 1 and used.items() >= sample.items()


def test_mlflow_shows_the_runs_nested_and_with_their_metrics(ml_client: Any, searched: Any) -> None:
    import mlflow

    client = mlflow.MlflowClient(
        tracking_uri=ml_client.workspaces.get(ml_client.workspace_name).mlflow_tracking_uri
    )
    above = {"sweep_random_HD": "sweep_random"}
    above |= {f"sweep_random_HD_{index}": "sweep_random_HD" for index in range(3)}
    for name, parent in above.items():
        run = wait_for(lambda name=name: finished(client, name), 30, f"the end of {name}")
        assert run.data.tags["mlflow.parentRunId"] == parent
        assert run.data.tags["mlflow.rootRunId"] == "sweep_random"
    parent = client.get_run("sweep_random")
    best = parent.data.tags["automl_best_child_run_id"]
    score = ml_client.jobs.get(best).properties["score"]
    assert client.get_run(best).data.metrics["accuracy"] == pytest.approx(float(score), abs=1e-5)
    experiment = parent.info.experiment_id
    below = client.search_runs([experiment], "tags.mlflow.parentRunId = 'sweep_random_HD'")
    assert {run.info.run_id for run in below} == set(above) - {"sweep_random_HD"}


def test_the_best_trial_becomes_a_model_and_the_sweep_leaves_its_records(
    ml_client: Any, searched: Any, tmp_path: Path
) -> None:
    from azure.ai.ml.entities import Model

    best = searched.tags["automl_best_child_run_id"]
    path = f"azureml://jobs/{best}/outputs/artifacts/outputs/mlflow-model/"
    model = ml_client.models.create_or_update(Model(name="sweep-best", path=path, type="mlflow_model"))
    assert model.version == "1"
    ml_client.jobs.download("sweep_random", download_path=str(tmp_path / "job"))
    report = json.loads((tmp_path / "job/artifacts/outputs/data_report.json").read_text())
    assert report["training_data"]["rows"] == 24
    ml_client.jobs.download(best, download_path=str(tmp_path / "best"))
    log = (tmp_path / "best/artifacts/user_logs/std_log.txt").read_text()
    assert f"amlocal: trial {best} of job sweep_random" in log
    assert "drawn from the search space by random sampling" in log
    assert "training_data: 24 images, 3 labels, 0 rows dropped" in log
    assert (tmp_path / "best/artifacts/outputs/mlflow-model/MLmodel").is_file()


def test_a_grid_ends_with_its_last_combination_and_one_trial_fails_alone(
    server: Any, ml_client: Any, data: Digits
) -> None:
    from azure.ai.ml.automl import SearchSpace
    from azure.ai.ml.sweep import Choice

    job = job_of("sweep_grid", data.train, data.validation, training_batch_size=None, model_name="resnet18")
    job.extend_search_space([SearchSpace(training_batch_size=Choice(FAILS_AND_WORKS))])
    job.set_limits(max_trials=5, max_concurrent_trials=1, timeout_minutes=30)
    job.set_sweep(sampling_algorithm="Grid")
    ml_client.jobs.create_or_update(job)
    found = ended(ml_client, "sweep_grid")
    assert found.status == "Completed", why(server, found)
    trials = trials_of(ml_client, "sweep_grid")
    assert {name: trial.status for name, trial in trials.items()} == {
        "sweep_grid_HD_0": "Failed",
        "sweep_grid_HD_1": "Completed",
    }
    assert found.tags["automl_best_child_run_id"] == "sweep_grid_HD_1"
    assert (found.tags["iteration_000"], found.properties["num_iterations"]) == ("1", "5")
    assert "score" not in trials["sweep_grid_HD_0"].properties
    assert "Expected more than 1 value per channel" in job_desk.message(server, "sweep_grid_HD_0")
    log = hyperdrive(server, "sweep_grid")
    assert "Job 'sweep_grid_HD_0' ended as Failed" in log and "1 of 2 jobs failed" in log
    assert "All jobs generated." in log and "Max number of jobs" not in log


def test_a_job_whose_trials_all_fail_fails_with_the_first_cause(
    server: Any, ml_client: Any, data: Digits
) -> None:
    from azure.ai.ml.automl import SearchSpace
    from azure.ai.ml.sweep import Choice

    job = job_of("sweep_failing", data.train, data.validation, training_batch_size=1, model_name="resnet18")
    job.extend_search_space([SearchSpace(learning_rate=Choice([0.01, 0.02]))])
    job.set_limits(max_trials=2, timeout_minutes=30)
    job.set_sweep(sampling_algorithm="Grid")
    ml_client.jobs.create_or_update(job)
    found = ended(ml_client, "sweep_failing")
    assert found.status == "Failed"
    assert [trial.status for trial in trials_of(ml_client, "sweep_failing").values()] == ["Failed"] * 2
    message = job_desk.message(server, "sweep_failing")
    assert message.startswith(
        "User errors were found in at least one of the child runs. sweep_failing_HD_0: "
    )
    assert "Expected more than 1 value per channel" in message
    assert "automl_best_child_run_id" not in found.tags


def test_the_bandit_ends_a_trial_whose_checkpoint_is_kept(
    server: Any, ml_client: Any, painted: tuple[Path, Path], tmp_path: Path
) -> None:
    from azure.ai.ml.automl import SearchSpace
    from azure.ai.ml.sweep import BanditPolicy, Choice

    job = job_of(
        "sweep_bandit",
        *painted,
        model_name="resnet18",
        number_of_epochs=12,
        training_batch_size=6,
        optimizer="adam",
        warmup_cosine_lr_warmup_epochs=1,
        early_stopping=False,
    )
    # One learns within few epochs; the other never does.
    job.extend_search_space([SearchSpace(learning_rate=Choice([0.001, 0]))])
    job.set_limits(max_trials=2, timeout_minutes=30)
    job.set_sweep(
        sampling_algorithm="Grid",
        early_termination=BanditPolicy(evaluation_interval=1, slack_factor=0.2, delay_evaluation=2),
    )
    ml_client.jobs.create_or_update(job)
    found = ended(ml_client, "sweep_bandit")
    assert found.status == "Completed", why(server, found)
    good, bad = trials_of(ml_client, "sweep_bandit").values()
    assert (good.status, bad.status) == ("Completed", "Canceled")
    reason = bad.tags["amlocal.terminated"]
    assert reason.startswith("bandit: at interval ") and "the best of all is" in reason
    assert found.tags["automl_best_child_run_id"] == good.name
    # A trial that was ended has its score, and its model, as far as it came.
    assert found.tags["iteration_000"] == "0;1"
    assert float(bad.properties["score"]) < float(good.properties["score"]) / 1.2
    ml_client.jobs.download(bad.name, download_path=str(tmp_path))
    assert (tmp_path / "artifacts/outputs/model.pt").stat().st_size > 10_000_000
    assert (tmp_path / "artifacts/outputs/mlflow-model/MLmodel").is_file()
    log = hyperdrive(server, "sweep_bandit")
    assert f"The early termination policy ends job '{bad.name}': {reason}" in log
    sweep = ml_client.jobs.get("sweep_bandit_HD")
    assert (sweep.early_termination.type, sweep.early_termination.slack_factor) == ("bandit", 0.2)


def test_a_canceled_trial_ends_alone_and_a_canceled_job_ends_all(
    server: Any, ml_client: Any, data: Digits
) -> None:
    from azure.ai.ml.automl import SearchSpace
    from azure.ai.ml.sweep import Choice

    forever = {"number_of_epochs": 5000, "early_stopping": False}
    job = job_of("sweep_canceled", data.train, data.validation, model_name="resnet18", **forever)
    job.extend_search_space([SearchSpace(learning_rate=Choice([0.01, 0.02, 0.03]))])
    job.set_limits(max_trials=3, max_concurrent_trials=2, timeout_minutes=30)
    job.set_sweep(sampling_algorithm="Grid")
    ml_client.jobs.create_or_update(job)
    first, second = "sweep_canceled_HD_0", "sweep_canceled_HD_1"
    wait_for(lambda: process_runs(server, first) and has(ml_client, first, "Running"), 240, first)
    ml_client.jobs.begin_cancel(first).result()
    wait_for(lambda: has(ml_client, first, "Canceled"), 60, f"the end of {first}")
    assert has(ml_client, "sweep_canceled", "Running")
    wait_for(lambda: process_runs(server, second) and has(ml_client, second, "Running"), 240, second)
    ml_client.jobs.begin_cancel("sweep_canceled").result()
    assert ended(ml_client, "sweep_canceled").status == "Canceled"
    assert {trial.status for trial in trials_of(ml_client, "sweep_canceled").values()} == {"Canceled"}
    assert ml_client.jobs.get("sweep_canceled_HD").status == "Canceled"
    assert not process_runs(server, "sweep_canceled_HD_2")


def test_automode_tells_its_plan_and_keeps_to_what_is_fixed(
    server: Any, ml_client: Any, data: Digits, tmp_path: Path
) -> None:
    job = job_of("sweep_auto", data.train, data.validation, model_name="resnet18")
    job.set_limits(max_trials=2, timeout_minutes=60)
    ml_client.jobs.create_or_update(job)
    found = ended(ml_client, "sweep_auto")
    assert found.status == "Completed", why(server, found)
    assert json.loads(found.properties["AMLSettingsJsonString"])["is_automode"] is True
    trials = trials_of(ml_client, "sweep_auto")
    ml_client.jobs.download("sweep_auto", download_path=str(tmp_path))
    plan = json.loads((tmp_path / "artifacts/outputs/automode.json").read_text())
    assert (plan["facts"]["train_images"], plan["facts"]["classes"]) == (24, 3)
    assert plan["facts"]["median_side"] == 8 and plan["facts"]["fixed"]["model_name"] == "resnet18"
    log = hyperdrive(server, "sweep_auto")
    assert all(line in log for line in plan["lines"])
    sweep = ml_client.jobs.get("sweep_auto_HD")
    used = [json.loads(sweep.tags[f"_aml_system_{name}"]) for name in trials]
    assert used[0] != used[1]
    for name, parameters in zip(trials, used, strict=True):
        assert (parameters["model_name"], parameters["number_of_epochs"]) == ("resnet18", 1)
        assert trials[name].tags["amlocal.automode"] in log
