"""An AutoML image job with a search space and one trial, by the SDK."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

from amlocal.fixtures.datasets import write_digits

SIDE = 32


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("space")
    return write_digits(folder, train=12, validation=6, held_out=0, size=8, classes=(0, 1))


def job_of(name: str, data: Any) -> Any:
    from azure.ai.ml import Input, automl

    job = automl.image_classification(
        training_data=Input(type="mltable", path=str(data.train)),
        validation_data=Input(type="mltable", path=str(data.validation)),
        target_column_name="label",
        compute="cpu-cluster",
        experiment_name="space",
    )
    job.name = name
    return job


def test_one_trial_is_drawn_and_what_is_fixed_wins(ml_client: Any, data: Any, tmp_path: Path) -> None:
    from azure.ai.ml.automl import SearchSpace
    from azure.ai.ml.sweep import BanditPolicy, Choice, Uniform

    job = job_of("space_one", data)
    job.set_training_parameters(
        number_of_epochs=1,
        training_batch_size=6,
        training_crop_size=SIDE,
        validation_crop_size=SIDE,
        validation_resize_size=SIDE,
        early_stopping=True,
        random_seed=1,
        advanced_settings='{"pretrained": false}',
    )
    job.extend_search_space(
        [
            SearchSpace(
                model_name=Choice(["resnet18"]),
                number_of_epochs=Choice([15, 30]),
                learning_rate=Uniform(0.001, 0.01),
                layers_to_freeze=Choice([0, 2]),
            ),
            SearchSpace(
                model_name="mobilenetv2",
                number_of_epochs=Choice([40]),
                optimizer=Choice(["adam", "adamw"]),
                early_stopping=False,
            ),
        ]
    )
    job.set_limits(timeout_minutes=10)
    job.set_sweep(
        sampling_algorithm="Random",
        early_termination=BanditPolicy(evaluation_interval=2, slack_factor=0.2, delay_evaluation=6),
    )
    ml_client.jobs.create_or_update(job)

    def done() -> Any:
        found = ml_client.jobs.get("space_one")
        return found if found.status in ("Completed", "Failed", "Canceled") else None

    found = wait_for(done, 240, "the end of the job")
    ml_client.jobs.download("space_one_HD_0", download_path=str(tmp_path))
    log = (tmp_path / "artifacts/user_logs/std_log.txt").read_text()
    assert found.status == "Completed", log[-3000:]
    assert len(found.search_space) == 2 and found.search_space[0].learning_rate == Uniform(0.001, 0.01)

    trial = ml_client.jobs.get("space_one_HD_0")
    sample = json.loads(trial.tags["hyperparameters"])
    used = json.loads(ml_client.jobs.get("space_one_HD").tags["_aml_system_space_one_HD_0"])
    assert used == {**sample, **{key: used[key] for key in used.keys() - sample.keys()}}
    assert (used["number_of_epochs"], used["early_stopping"]) == (1, True)
    assert trial.properties["run_algorithm"] == used["model_name"] == sample["model_name"]
    if used["model_name"] == "resnet18":
        assert sample.keys() == {"model_name", "learning_rate", "layers_to_freeze"}
        assert 0.001 <= used["learning_rate"] <= 0.01 and used["layers_to_freeze"] in (0, 2)
    else:
        assert used["model_name"] == "mobilenetv2" and sample.keys() == {"model_name", "optimizer"}
    assert f"drawn from the search space by random sampling: {json.dumps(sample)}" in log
    assert "number_of_epochs is not drawn: training_parameters fix it" in log
    sweep = ml_client.jobs.get("space_one_HD")
    assert sweep.sampling_algorithm.type == "random" and list(sweep.search_space) == ["model"]


def test_a_value_of_the_space_that_is_not_allowed(ml_client: Any, data: Any) -> None:
    from azure.ai.ml.automl import SearchSpace
    from azure.ai.ml.sweep import Uniform
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    job = job_of("space_bad", data)
    job.extend_search_space([SearchSpace(model_name="resnet18", learning_rate=Uniform(0.1, 3))])
    with pytest.raises(HttpResponseError) as caught:
        ml_client.jobs.create_or_update(job)
    assert caught.value.status_code == 400
    assert "search_space[0].learning_rate: 3 is not allowed" in str(caught.value)
    with pytest.raises(ResourceNotFoundError):
        ml_client.jobs.get("space_bad")
