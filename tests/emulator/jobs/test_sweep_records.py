"""What a sweep's run tells by its tags and properties."""

from __future__ import annotations

import json

from amlocal.emulator.jobs.runners.base import NewRun
from amlocal.emulator.jobs.states import JobState
from amlocal.emulator.jobs.sweeps import records as sweep_records
from amlocal.emulator.jobs.sweeps.plan import NewTrial, Objective, Plan, Played
from amlocal.emulator.jobs.termination.bandit import Bandit
from amlocal.emulator.jobs.termination.progress import Schedule

GENERATOR = {"name": "RANDOM", "parameter_space": {"lr": ["uniform", [0.1, 0.9]]}, "properties": {}}


def plan(**changes):
    values = {
        "sweep": "job_HD",
        "objective": Objective("loss", maximize=False),
        "policy": Bandit(Schedule(2, 6), 0.2, None),
        "max_trials": 4,
        "max_concurrent": 2,
        "timeout": 5430.0,
        "trial_timeout": None,
        "generator": GENERATOR,
    }
    return Plan(**(values | changes))


def played(index: int, score: float | None) -> Played:
    return Played(index, f"job_HD_{index}", {}, JobState.COMPLETED, (), score, 1.0)


def test_the_head_says_limits_policy_generator_and_metric():
    tags = sweep_records.head(plan()).tags
    assert {key: tags[key] for key in tags if not key.endswith("_config")} == {
        "_aml_system_max_concurrent_jobs": "2",
        "_aml_system_max_total_jobs": "4",
        "_aml_system_max_duration_minutes": "91",
        "_aml_system_resume_child_runs": "null",
        "_aml_system_cancellation_requested": "false",
        "_aml_system_all_jobs_generated": "false",
        "_aml_system_samples_generated_count": "0",
    }
    assert json.loads(tags["_aml_system_generator_config"]) == GENERATOR
    assert json.loads(tags["_aml_system_primary_metric_config"]) == {"name": "loss", "goal": "minimize"}
    policy = json.loads(tags["_aml_system_policy_config"])
    assert policy["properties"]["slack_factor"] == 0.2
    assert policy["properties"]["evaluation_interval"] == 2
    properties = sweep_records.head(plan()).properties
    assert properties["runTemplate"] == "HyperDrive"
    assert properties["primary_metric_config"] == tags["_aml_system_primary_metric_config"]


def test_no_policy_and_no_time_limit():
    tags = sweep_records.head(plan(policy=None, timeout=None)).tags
    assert json.loads(tags["_aml_system_policy_config"]) == {"name": "Default", "properties": {}}
    assert "_aml_system_max_duration_minutes" not in tags


def test_a_new_trial_adds_its_parameters_and_counts():
    run = NewRun("job_HD_3", "job_HD", "trial", "job_HD_3")
    trial = NewTrial(run, {"lr": 0.25, "model": {"name": "a"}})
    assert sweep_records.made(plan(), 4, trial, all_generated=False).tags == {
        "_aml_system_job_HD_3": '{"lr": 0.25, "model": {"name": "a"}}',
        "_aml_system_samples_generated_count": "4",
    }
    last = sweep_records.made(plan(), 4, trial, all_generated=True).tags
    assert last["_aml_system_all_jobs_generated"] == "true"


def test_the_end_names_the_best_trial():
    patch = sweep_records.ended(plan(), [played(0, 0.5), played(1, 0.25)], played(1, 0.25))
    assert patch.properties == {
        "best_child_run_id": "job_HD_1",
        "score": "0.25",
        "best_metric_status": "Succeeded",
        "best_data_container_id": "dcid.job_HD_1",
    }
    assert json.loads(patch.tags["mlflow.loggedArtifacts"]) == [
        {"path": "best_child_by_primary_metric.json", "type": "table"}
    ]
    assert patch.tags["_aml_system_samples_generated_count"] == "2"


def test_the_end_of_a_sweep_without_a_score_names_none():
    patch = sweep_records.ended(plan(), [played(0, None)], None)
    assert patch.properties == {}
    assert "mlflow.loggedArtifacts" not in patch.tags
