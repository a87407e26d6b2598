"""Tags and properties of an AutoML image job and its trials, under the names that Azure's notebooks read.

Source: public run dumps and recordings of Azure Machine Learning. Only what is true here is written. Those of
the sweep between them: sweep_records.py.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.runners.automl_request import ImageJob
from amlocal.emulator.jobs.runners.base import JobFailure, Patch
from amlocal.emulator.jobs.sampling import command_form

BEST_TRIAL = "automl_best_child_run_id"
IGNORED = "amlocal.ignored"
FALLBACK = "amlocal.model"
_LISTED = 20
_LONGEST = 100
# So many trials stand in one tag; the next ones in the tag of the next number.
_LIST = 100
# What only the server says of a job. A job that was read back and is submitted again brings it along.
_OURS = re.compile(
    rf"amlocal\..*|{BEST_TRIAL}|(score|iteration|run_algorithm)_\d{{3}}|mlflow\.loggedArtifacts"
)


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


def trial_of(job: str, index: int = 0) -> str:
    """The name of a job's trial."""
    return f"{job}_HD_{index}"


def root_properties(job: ImageJob) -> dict[str, str]:
    """Properties of the AutoML job itself."""
    data: dict[str, Any] = {"Type": "MLTable", "TrainData": {"Uri": job.training_uri}}
    if job.validation_uri is not None:
        data["ValidData"] = {"Uri": job.validation_uri}
    settings = {
        "task_type": job.task,
        "IsImageTask": True,
        "is_automode": job.automode,
        "label_column_name": job.label_column,
        "primary_metric": job.metric.yaml,
        "experiment_timeout_minutes": math.ceil(job.timeout / 60),
        "save_mlflow": True,
    }
    return {
        "num_iterations": str(job.max_trials),
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


def shown(job: ImageJob, policy: Mapping[str, Any]) -> dict[str, Any]:
    """What ARM shows of the sweep: its limits, its space, its algorithm, and its policy as it was given."""
    body: dict[str, Any] = {"max_trials": job.max_trials, "max_concurrent": job.max_concurrent}
    if policy:
        body["early_termination"] = dict(policy)
    if job.search.space is None:
        return body
    sampling = job.search.sampling
    algorithm: dict[str, Any] = {"samplingAlgorithmType": sampling.algorithm.capitalize()}
    if sampling.algorithm == "random":
        algorithm |= {"rule": sampling.rule.capitalize()}
        algorithm |= {} if sampling.seed is None else {"seed": sampling.seed}
    return body | {"search_space": command_form.dump(job.search.space), "sampling": algorithm}


def generator(job: ImageJob) -> dict[str, Any]:
    """A job without a search space is a grid of one model, as Azure's own sweep of one trial is."""
    sampling = job.search.sampling
    if job.search.space is None:
        return {"name": "GRID", "parameter_space": {"model_name": ["choice", [[job.model]]]}}
    name = {"grid": "GRID", "bayesian": "BayesianOptimization"}.get(sampling.algorithm, "RANDOM")
    found = {"name": name, "parameter_space": command_form.dump(job.search.space)}
    if name != "RANDOM":
        return found
    properties: dict[str, Any] = {"rule": sampling.rule}
    return found | {"properties": properties | ({} if sampling.seed is None else {"seed": sampling.seed})}


def generator_tag(job: ImageJob) -> dict[str, str]:
    """The sweep's tag that tells the generator."""
    return {"_aml_system_generator_config": json.dumps(generator(job))}


def trial(name: str, index: int, model: str, sample: Mapping[str, Any] | None) -> Patch:
    """A trial of the job `name`; `model_name` is the name that a registered model gets by default."""
    registered = name.replace("-", "").replace("_", "")[:15] + str(index)
    return Patch(
        tags={} if sample is None else {"hyperparameters": json.dumps(dict(sample))},
        properties={
            "runTemplate": "automl_child",
            "run_algorithm": model,
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


def ended(leaf: JobRecord, result: Result) -> dict[str, str]:
    """The properties of a trial that left a model."""
    outputs = f"aml://artifact/ExperimentRun/dcid.{leaf.name}/outputs"
    found = {
        "score": result.text,
        "run_algorithm": result.model_name,
        "model_output_path": "outputs/mlflow-model",
        "model_data_location": f"{outputs}/model.pt",
        "scoring_data_location": f"{outputs}/scoring_file_v_1_0_0.py",
        "conda_env_data_location": f"{outputs}/conda_env_v_1_0_0.yml",
    }
    if result.best_epoch is not None:
        found["best_epoch"] = str(result.best_epoch)
    return found


def results(trials: Sequence[JobRecord], best: str | None) -> dict[str, str]:
    """The tags of the job at its end: its best trial, and lists of the trials that have a score.

    The lists are separated by `;`, a hundred trials in each tag.
    """
    scored = [(number_of(trial), trial) for trial in trials if "score" in trial.properties]
    scored.sort(key=lambda pair: pair[0])
    tags = {} if best is None else {BEST_TRIAL: best}
    for number, start in enumerate(range(0, len(scored), _LIST)):
        part = scored[start : start + _LIST]
        tags[f"score_{number:03}"] = ";".join(trial.properties["score"] for _, trial in part)
        tags[f"iteration_{number:03}"] = ";".join(str(index) for index, _ in part)
        tags[f"run_algorithm_{number:03}"] = ";".join(
            trial.properties.get("run_algorithm", "") for _, trial in part
        )
    return tags


def given(tags: Mapping[str, str]) -> dict[str, str]:
    """A client's tags without what became of another job, from which it has them."""
    return {name: text for name, text in tags.items() if not _OURS.fullmatch(name)}


def number_of(trial: JobRecord) -> int:
    """The number of a trial, from 0."""
    return int(trial.name.rpartition("_")[2])
