"""Tags and properties of the three runs of an AutoML image job, under the names that Azure's notebooks read.

Source: public run dumps and recordings of Azure Machine Learning. Only what is true here is written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.runners.automl_request import ImageJob
from amlocal.emulator.jobs.runners.base import JobFailure, Patch
from amlocal.emulator.jobs.sampling import command_form
from amlocal.emulator.jobs.termination.policies import described

IGNORED = "amlocal.ignored"
FALLBACK = "amlocal.model"
_LISTED = 20
_LONGEST = 100


@dataclass(frozen=True)
class Result:
    """What a trial that ended well says in result.json."""

    score: float
    model_name: str
    metric: str
    best_epoch: int | None

    @property
    def text(self) -> str:
        return str(round(self.score, 5))


def sweep_of(job: str) -> str:
    """The name of a job's sweep."""
    return f"{job}_HD"


def trial_of(job: str) -> str:
    """The name of a job's one trial."""
    return f"{job}_HD_0"


def root_properties(job: ImageJob) -> dict[str, str]:
    """Properties of the AutoML job itself."""
    data: dict[str, Any] = {"Type": "MLTable", "TrainData": {"Uri": job.training_uri}}
    if job.validation_uri is not None:
        data["ValidData"] = {"Uri": job.validation_uri}
    settings = {
        "task_type": job.task,
        "IsImageTask": True,
        "is_automode": False,
        "label_column_name": job.label_column,
        "primary_metric": job.metric.yaml,
        "experiment_timeout_minutes": math.ceil(job.timeout / 60),
        "save_mlflow": True,
    }
    return {
        "num_iterations": "1",
        "primary_metric": job.metric.yaml,
        "target": job.label_column,
        "runTemplate": "AutoML",
        "azureml.runsource": "automl",
        "Orchestrator": "AutoML",
        "mltable_data_json": json.dumps(data),
        "AMLSettingsJsonString": json.dumps(settings),
    }


def ignored(job: ImageJob) -> dict[str, str]:
    """The tag that says which keys of the job mean nothing to its task; none where all do."""
    if not job.ignored:
        return {}
    shown = [place if len(place) <= _LONGEST else f"{place[:_LONGEST]}..." for place in job.ignored[:_LISTED]]
    more = len(job.ignored) - len(shown)
    return {IGNORED: ", ".join(shown) + (f" and {more} more" if more else "")}


def fallback(job: ImageJob) -> dict[str, str]:
    """The tag that says why the default model is another one than Azure's; none where it is that one."""
    return {FALLBACK: job.fallback} if job.fallback else {}


def search_space(job: ImageJob) -> dict[str, Any]:
    """The space and the algorithm as a sweep job has them; {} for a job that names no space."""
    if job.search.space is None:
        return {}
    return {"search_space": command_form.dump(job.search.space), "sampling": job.search.sampling.algorithm}


def _generator(job: ImageJob) -> dict[str, Any]:
    """A job without a search space is a grid of one model, as Azure's own sweep of one trial is."""
    sampling = job.search.sampling
    if job.search.space is None:
        return {"name": "GRID", "parameter_space": {"model_name": ["choice", [[job.model]]]}}
    name = {"grid": "GRID", "bayesian": "BayesianOptimization"}.get(sampling.algorithm, "RANDOM")
    found = {"name": name, "parameter_space": command_form.dump(job.search.space)}
    return found | ({"properties": {"rule": sampling.rule}} if name == "RANDOM" else {})


def sweep(name: str, job: ImageJob) -> Patch:
    """The sweep: its space, its policy, its one trial."""
    metric = json.dumps({"name": job.metric.logged, "goal": "maximize"})
    return Patch(
        tags={
            "_aml_system_max_concurrent_jobs": "1",
            "_aml_system_max_total_jobs": "1",
            "_aml_system_max_duration_minutes": str(math.ceil(job.timeout / 60)),
            "_aml_system_policy_config": json.dumps(described(job.search.policy)),
            "_aml_system_generator_config": json.dumps(_generator(job)),
            "_aml_system_primary_metric_config": metric,
            "_aml_system_all_jobs_generated": "true",
            "_aml_system_samples_generated_count": "1",
            f"_aml_system_{trial_of(name)}": json.dumps({**job.parameters, "model_name": job.model}),
        },
        properties={
            "runTemplate": "HyperDrive",
            "azureml.runsource": "hyperdrive",
            "platform": "AML",
            "primary_metric_config": metric,
        },
    )


def trial(name: str, job: ImageJob) -> Patch:
    """The trial; `model_name` is the name that a registered model gets by default."""
    registered = name.replace("-", "").replace("_", "")[:15] + "0"
    return Patch(
        tags={} if job.sample is None else {"hyperparameters": json.dumps(dict(job.sample))},
        properties={
            "runTemplate": "automl_child",
            "run_algorithm": job.model,
            "model_name": registered,
        },
    )


def read_result(path: Path) -> Result:
    """A trial's result.json. Raises JobFailure when it is missing or not usable."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        score, best = raw["score"], raw.get("best_epoch")
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise ValueError(f"score is {score!r}")
        return Result(
            score=float(score),
            model_name=str(raw["model_name"]),
            metric=str(raw["primary_metric"]),
            best_epoch=best if isinstance(best, int) else None,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise JobFailure(
            f"The trial ended well but left no usable result.json: {error!r}.", "SystemError"
        ) from error


def results(root: JobRecord, leaf: JobRecord, result: Result) -> Mapping[str, Patch]:
    """What the end of the one trial adds to each run."""
    score = result.text
    outputs = f"aml://artifact/ExperimentRun/dcid.{leaf.name}/outputs"
    child = {
        "score": score,
        "run_algorithm": result.model_name,
        "model_output_path": "outputs/mlflow-model",
        "model_data_location": f"{outputs}/model.pt",
        "scoring_data_location": f"{outputs}/scoring_file_v_1_0_0.py",
        "conda_env_data_location": f"{outputs}/conda_env_v_1_0_0.yml",
    }
    if result.best_epoch is not None:
        child["best_epoch"] = str(result.best_epoch)
    return {
        leaf.name: Patch(properties=child),
        str(leaf.parent): Patch(
            properties={
                "best_child_run_id": leaf.name,
                "score": score,
                "best_metric_status": "Succeeded",
                "best_data_container_id": f"dcid.{leaf.name}",
            }
        ),
        root.name: Patch(
            tags={
                "automl_best_child_run_id": leaf.name,
                "score_000": score,
                "iteration_000": "0",
                "run_algorithm_000": result.model_name,
            }
        ),
    }
