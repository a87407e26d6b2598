"""Tags and properties of a sweep's run, under the names by which clients of Azure Machine Learning read them.

Source: public run dumps and recordings of the service's sweeps (HyperDrive). Only what is true here is
written, so the tags that describe the service's own machines (_aml_system_platform_config) are absent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from amlocal.emulator.jobs.runners.base import Patch
from amlocal.emulator.jobs.sweeps.plan import NewTrial, Plan, Played
from amlocal.emulator.jobs.termination.policies import described

BEST = "best_child_run_id"
SCORE = "score"
SAMPLE = "_aml_system_{}"
TABLE = "best_child_by_primary_metric.json"
MOST_TRIALS = "_aml_system_max_total_jobs"
_GENERATED = "_aml_system_all_jobs_generated"
_COUNT = "_aml_system_samples_generated_count"
# MLflow's own tag: what its load_table looks for.
_TABLES = "mlflow.loggedArtifacts"

CANCELED = Patch(tags={"_aml_system_cancellation_requested": "true"})
"""What a request to cancel the whole sweep adds."""


def head(plan: Plan) -> Patch:
    """What is known before the first trial: limits, policy, generator and primary metric."""
    metric = json.dumps(
        {"name": plan.objective.metric, "goal": "maximize" if plan.objective.maximize else "minimize"}
    )
    tags = {
        "_aml_system_max_concurrent_jobs": str(plan.max_concurrent),
        MOST_TRIALS: str(plan.max_trials),
        "_aml_system_policy_config": json.dumps(described(plan.policy)),
        "_aml_system_generator_config": json.dumps(plan.generator),
        "_aml_system_primary_metric_config": metric,
        "_aml_system_resume_child_runs": "null",
        "_aml_system_cancellation_requested": "false",
        _GENERATED: "false",
        _COUNT: "0",
    }
    if plan.timeout is not None:
        tags["_aml_system_max_duration_minutes"] = str(math.ceil(plan.timeout / 60))
    return Patch(
        tags=tags,
        properties={
            "runTemplate": "HyperDrive",
            "azureml.runsource": "hyperdrive",
            "platform": "AML",
            "primary_metric_config": metric,
            "resume_from": "null",
        },
    )


def made(plan: Plan, count: int, new_trial: NewTrial, all_generated: bool) -> Patch:
    """What a new trial adds: its parameters; `count` are the trials made so far, this one among them.

    To be stored in the write that makes the trial.
    """
    return Patch(
        tags={
            SAMPLE.format(new_trial.run.name): json.dumps(dict(new_trial.sample)),
            _COUNT: str(count),
            **({_GENERATED: "true"} if all_generated else {}),
        }
    )


def ended(plan: Plan, trials: Sequence[Played], best: Played | None) -> Patch:
    """What the end adds: the best trial, where there is one, and where its table is (see best_child.py)."""
    tags = {_GENERATED: "true", _COUNT: str(len(trials))}
    if best is None or best.score is None:
        return Patch(tags=tags)
    return Patch(
        tags={**tags, _TABLES: json.dumps([{"path": TABLE, "type": "table"}])},
        properties={
            BEST: best.name,
            SCORE: str(best.score),
            "best_metric_status": "Succeeded",
            "best_data_container_id": f"dcid.{best.name}",
        },
    )
