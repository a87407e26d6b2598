"""AutoMode of an AutoML image job; see `automode`.

The plan is made while the job is prepared, and kept in its folder, so that it outlives the server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlocal.compat import hub_look, names, weights
from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.jobs import cache_sizes
from amlocal.emulator.jobs.automode import facts as automode_facts
from amlocal.emulator.jobs.automode.facts import MODEL, Facts, Start
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.runners import automl_draw
from amlocal.emulator.jobs.runners.automl_checkpoint import PINNED
from amlocal.emulator.jobs.runners.automl_data import Checked
from amlocal.emulator.jobs.runners.automl_means import Means
from amlocal.emulator.jobs.runners.automl_records import sweep_of
from amlocal.emulator.jobs.runners.automl_request import ImageJob
from amlocal.emulator.jobs.runners.base import JobFailure
from amlocal.emulator.jobs.sweeps import log as sweep_log
from amlocal.emulator.jobs.sweeps.plan import Played
from amlocal.emulator.jobs.termination.policies import Policy
from amlocal.emulator.store.folder import write_atomic
from amlocal.emulator.store.workspace import Workspace

if TYPE_CHECKING:
    from amlocal.emulator.jobs.automode.plan import AutoPlan, Choice

PLAN = "automode.json"
ARTIFACT = Path("outputs") / "automode.json"


def prepare(means: Means, workspace: Workspace, root: JobRecord, job: ImageJob, data: Checked) -> None:
    """Make the plan, and tell it: among the job's artifacts and in the sweep's log. Raises JobFailure."""
    from amlocal.emulator.jobs.automode import procedure as automode

    chosen = job.parameters.get("random_seed")
    seed = automl_draw.seed(root.name) if chosen is None else int(chosen)
    try:
        made = automode.plan(facts(means, workspace, root, job, data), seed)
    except ValueError as error:
        raise JobFailure(f"AutoMode has no plan for this job: {error}.") from error
    document = json.dumps(made.as_dict(), ensure_ascii=False, indent=1).encode()
    write_atomic(means.folder.job(workspace.id, root.name) / PLAN, document)
    artifact = means.folder.artifacts(workspace.account, root.name) / ARTIFACT
    artifact.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(artifact, document, staging=means.folder.tmp)
    for line in made.lines():
        sweep_log.write(_log(means, workspace, root), "GENERATOR", line)


def facts(means: Means, workspace: Workspace, root: JobRecord, job: ImageJob, data: Checked) -> Facts:
    """What AutoMode plans by. Raises JobFailure."""
    training = data.reports["training_data"]
    images, held = len(training.rows), 0
    if "validation_data" in data.reports:
        held = len(data.reports["validation_data"].rows)
    else:
        held = round(images * (job.validation_data_size or 0.2))
        images -= held
    fixed = dict(job.parameters) | ({MODEL: job.model} if job.model_given else {})
    known = starts_of(means, job, fixed)
    try:
        _, start = means.began(workspace, root.name, job, root.properties.get(PINNED))
    except AzureError as error:
        raise JobFailure(error.message) from error
    if start is not None:
        fixed[MODEL] = start.model_name
        known = {**known, start.model_name: "pretrained"}
    capacity = means.engine.capacity()
    median, largest = automode_facts.sides([row.path for row in training.rows])
    imbalance = training.imbalance()
    memories = [one.memory for one in capacity.gpus if one.memory is not None]
    return Facts(
        task=job.task,
        metric=job.metric.logged,
        train_images=images,
        validation_images=held,
        classes=len(training.labels),
        timeout=job.timeout,
        max_trials=job.max_trials,
        max_concurrent=min(job.max_concurrent, means.slots),
        starts=known,
        imbalance=imbalance.rate if imbalance else 1.0,
        median_side=median,
        largest_side=largest,
        cores=means.cores,
        gpu=bool(capacity.gpus),
        memory=capacity.memory,
        gpu_memory=min(memories, default=None),
        fixed=fixed,
    )


def starts_of(means: Means, job: ImageJob, fixed: Mapping[str, Any]) -> dict[str, Start]:
    """The models that can be trained here, and what each starts from. The hub is asked for one of them."""
    hub = next((row.hub for row in names.models(job.task).values() if row.available and row.hub), "")
    reached = bool(hub) and job.pretrained and hub_look.look(hub, weights.HUB_FILE).there
    return automode_facts.starts(
        job.task,
        means.weights_dir,
        pretrained=job.pretrained,
        random=means.settings.missing_weights == "random",
        hub=reached,
        fixed=fixed,
    )


def search(means: Means, root: JobRecord) -> tuple[Policy, dict[str, Any]]:
    """The policy of the plan, and the generator as the sweep's tag tells it. Raises JobFailure."""
    made = _plan(means, root)
    return made.policy, {
        "name": "AutoMode",
        "parameter_space": _space(made),
        "properties": {"seed": made.seed},
    }


def shown(means: Means, root: JobRecord) -> dict[str, Any]:
    """What ARM shows of the search; it has no name for AutoMode's own. Raises JobFailure."""
    made = _plan(means, root)
    return {
        "search_space": _space(made),
        "sampling": {"samplingAlgorithmType": "Random"},
        "early_termination": {
            "policyType": "Bandit",
            "slackFactor": made.policy.slack_factor,
            "evaluationInterval": made.policy.schedule.evaluation_interval,
            "delayEvaluation": made.policy.schedule.delay_evaluation,
        },
    }


def choose(
    means: Means, workspace: Workspace, root: JobRecord, trials: Sequence[Played], index: int
) -> Choice | None:
    """The trial number `index`; None: there is no time for more, and the log says so. Raises JobFailure."""
    from amlocal.emulator.jobs.automode import procedure as automode

    made = _plan(means, root)
    choice = automode.next_sample(made, trials, index)
    if choice is None:
        sweep_log.write(_log(means, workspace, root), "GENERATOR", automode.why_none(made, trials, index))
    return choice


def starts(means: Means, root: JobRecord) -> Mapping[str, Start]:
    """What each model starts from by the plan. Raises JobFailure."""
    return _plan(means, root).facts.starts


def largest(means: Means, root: JobRecord, job: ImageJob) -> dict[str, int]:
    """The sizes that the trials' shared images have; see `cache_sizes`. Raises JobFailure."""
    made = _plan(means, root)
    kept = made.first if made.default is None else [made.default]
    samples = [choice.sample for choice in kept]
    return cache_sizes.of_samples(job, samples, means.settings.caps, means.weights_dir)


def _space(made: AutoPlan) -> dict[str, Any]:
    """The models that the plan tries, in its order."""
    tried = [str(choice.sample.get(MODEL) or made.facts.fixed.get(MODEL)) for choice in made.first]
    return {MODEL: ["choice", [list(dict.fromkeys(tried))]]}


def _log(means: Means, workspace: Workspace, root: JobRecord) -> Path:
    return means.folder.artifacts(workspace.account, sweep_of(root.name)) / sweep_log.HYPERDRIVE_LOG


def _plan(means: Means, root: JobRecord) -> AutoPlan:
    from amlocal.emulator.jobs.automode.plan import AutoPlan

    path = means.folder.job(root.workspace_id, root.name) / PLAN
    try:
        return AutoPlan.of(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JobFailure(
            f"AutoMode's plan of {root.name} in {path} is gone: {error}.", "SystemError"
        ) from error
