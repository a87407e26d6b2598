"""What MLflow is told of a sweep: every run and every change once, whatever the number of trials."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from amlocal.emulator.store import removal
from amlocal.emulator.store.workspaces import Workspaces

NAMES = [f"job1_HD_{number}" for number in range(6)]


class Told:
    """Passes calls on and counts them."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.calls: Counter[tuple[str, str]] = Counter()
        self.tags: list[tuple[str, dict[str, str]]] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            run = args[2] if name == "ensure_run" else args[1]
            self.calls[name, run] += 1
            if name == "set_tags":
                self.tags.append((run, dict(args[2])))
            return found(*args, **kwargs)

        return call


def test_a_sweep_is_not_told_again_with_every_trial(desk: Any, helpers: Any) -> None:
    told = Told(desk.mlflow)
    desk.engine.on_submit = helpers.train
    service = desk.service(mlflow=told)
    service.submit(desk.workspace, "job1", desk.sweep(trials=6))
    service.wait_idle()
    helpers.until(lambda: (desk.job_dir("job1") / "tracking.done").exists())
    for name in ("job1", "job1_HD", *NAMES):
        assert told.calls["ensure_run", name] == 1, told.calls
        assert desk.mlflow.runs[name]["status"] == "FINISHED"
    for name in NAMES:
        assert told.calls["log_metrics", name] == 1
        # That a trial is the best, or has its score, is told when it is so.
        assert told.calls["finish_run", name] <= 2
        tag = f"_aml_system_{name}"
        sent = [tags for run, tags in told.tags if run == "job1_HD" and tag in tags]
        assert len(sent) == 1
        assert json.loads(desk.mlflow.runs["job1_HD"]["tags"][tag])["model_name"] == "resnet18"
    assert desk.mlflow.runs["job1"]["tags"]["automl_best_child_run_id"] == NAMES[0]


def test_a_trial_is_shown_from_its_start_on(desk: Any, helpers: Any) -> None:
    service = desk.service(training_slots=1)
    service.submit(desk.workspace, "job1", desk.sweep(trials=3, concurrent=3))
    helpers.until(lambda: desk.running(NAMES[0]) and len(desk.children()) == 3)
    # What waits for a slot is not worth a call each, of which a start would have to wait for hundreds.
    assert NAMES[0] in desk.mlflow.runs and NAMES[1] not in desk.mlflow.runs
    desk.finish(NAMES[0], 0.5)
    helpers.until(lambda: desk.running(NAMES[1]))
    assert NAMES[1] in desk.mlflow.runs
    helpers.until(lambda: desk.mlflow.runs[NAMES[0]]["status"] == "FINISHED")
    assert desk.mlflow.runs["job1"]["status"] == "RUNNING"
    service.cancel(desk.workspace, "job1")
    service.wait_idle()
    helpers.until(lambda: (desk.job_dir("job1") / "tracking.done").exists())
    assert [desk.mlflow.runs[name]["status"] for name in ("job1", *NAMES[1:3])] == ["KILLED"] * 3


def test_a_new_display_name_is_told(desk: Any, helpers: Any) -> None:
    told = Told(desk.mlflow)
    service = desk.service(mlflow=told)
    service.submit(desk.workspace, "job1", desk.sweep(trials=1))
    helpers.until(lambda: desk.running(NAMES[0]))
    before = told.calls["ensure_run", "job1"]
    service.patch(desk.workspace, "job1", display_name="another name")
    helpers.until(lambda: told.calls["ensure_run", "job1"] == before + 1)


@pytest.mark.parametrize("call", ["ensure_run", "finish_run"])
def test_what_is_told_while_its_workspace_is_removed_leaves_no_folder(
    desk: Any, helpers: Any, monkeypatch: Any, call: str
) -> None:
    desk.engine.on_submit = helpers.train
    service = desk.service()
    service.submit(desk.workspace, "job1", desk.sweep(trials=1))
    service.wait_idle()
    helpers.until(lambda: (desk.job_dir("job1") / "tracking.done").exists())
    service.stop()
    inner = getattr(desk.mlflow, call)

    def removed_meanwhile(*args: Any, **kwargs: Any) -> Any:
        if desk.job_dir("job1").parent.exists():
            Workspaces(desk.store).remove(desk.workspace, lambda connection: None)
            removal.finish(desk.folder, desk.workspace.id, desk.workspace.account)
        return inner(*args, **kwargs)

    monkeypatch.setattr(desk.mlflow, call, removed_meanwhile)
    (desk.job_dir("job1") / "tracking.done").unlink()
    again = desk.service()
    assert again._tracking.flush(desk.workspace.id, "job1", 30.0)
    assert not desk.job_dir("job1").parent.exists()
    assert again._tracking._due == {} and again._tracking._drawn == {}
