"""AutoML jobs as their users steer them: cancel, time limit, submitting again, reading and changing."""

from __future__ import annotations

from typing import Any

import pytest

from amlocal.emulator.http.errors import AzureError


@pytest.mark.parametrize("name", ["job1", "job1_HD", "job1_HD_0"])
def test_cancel_of_a_running_job_ends_the_whole_tree(desk: Any, helpers: Any, name: str) -> None:
    service = desk.service()
    service.submit(desk.workspace, "job1", desk.body())
    helpers.until(lambda: desk.engine.started and desk.record("job1_HD_0").state == "Running")
    assert service.cancel(desk.workspace, name).state in ("CancelRequested", "Canceled")
    service.wait_idle()
    assert desk.engine.canceled == [("job1_HD_0", 1)]
    for one in ("job1", "job1_HD", "job1_HD_0"):
        assert desk.states(one)[-2:] == ["CancelRequested", "Canceled"]
        assert desk.record(one).error is None and desk.record(one).cancel_requested
    helpers.until(lambda: desk.mlflow.runs["job1"]["status"] == "KILLED")
    assert service.cancel(desk.workspace, "job1").state == "Canceled"


def test_cancel_of_a_waiting_job_starts_nothing(desk: Any, helpers: Any) -> None:
    service = desk.service()
    service.submit(desk.workspace, "job1", desk.body())
    helpers.until(lambda: desk.engine.started)
    service.submit(desk.workspace, "job2", desk.body())
    helpers.until(lambda: desk.record("job2").state == "Queued")
    service.cancel(desk.workspace, "job2")
    helpers.until(lambda: desk.record("job2").state == "Canceled")
    assert desk.record("job1_HD_0").state in ("Starting", "Running")
    helpers.train(desk.engine, desk.engine.jobs[desk.job_dir("job1_HD_0"), 1])
    service.wait_idle()
    assert desk.engine.started == [("job1_HD_0", 1)] and desk.record("job1").state == "Completed"


def test_cancel_before_preparing(desk: Any) -> None:
    service = desk.service(start=False)
    service.submit(desk.workspace, "job1", desk.body())
    service.cancel(desk.workspace, "job1")
    assert desk.record("job1").state == "CancelRequested"
    desk.service().wait_idle()
    assert desk.states("job1") == ["NotStarted", "CancelRequested", "Canceled"]
    assert desk.engine.started == []


def test_the_time_limit_cancels_the_job_and_says_so(desk: Any) -> None:
    desk.engine.on_submit = lambda engine, job: engine.end(job, None, 15, timed_out=True)
    service = desk.service()
    changes = {"taskDetails.limitSettings.timeout": "PT90S"}
    service.submit(desk.workspace, "job1", desk.body(**changes))
    service.wait_idle()
    assert desk.engine.jobs[desk.job_dir("job1_HD_0"), 1].timeout <= 90 + 60
    for name in ("job1", "job1_HD", "job1_HD_0"):
        assert desk.record(name).state == "Canceled"
    assert "time limit of 1.5 minutes" in desk.record("job1").error["message"]
    assert "time limit of 1.5 minutes" in (desk.artifacts("job1_HD_0") / "user_logs/std_log.txt").read_text()


def test_a_gpu_cluster_without_a_gpu_is_told(desk: Any, helpers: Any) -> None:
    desk.engine.on_submit = helpers.train
    service = desk.service()
    service.submit(desk.workspace, "job1", desk.body(computeId="gpu-cluster"))
    service.wait_idle()
    assert desk.record("job1").compute == "gpu-cluster"
    assert "no GPU" in desk.record("job1_HD_0").tags["amlocal.device"]
    assert "this host has no GPU" in (desk.artifacts("job1_HD_0") / "user_logs/std_log.txt").read_text()


def test_submitting_again(desk: Any, helpers: Any) -> None:
    desk.engine.on_submit = helpers.train
    service = desk.service()
    service.submit(desk.workspace, "job1", desk.body())
    service.wait_idle()
    before = desk.record("job1")
    record, created = service.submit(desk.workspace, "job1", desk.body())
    assert not created and record == before
    # What the server shows comes back; null and empty are the same as absent.
    shown = {**desk.body(), "status": "Completed", "services": {"Studio": {}}, "identity": None}
    assert service.submit(desk.workspace, "job1", shown) == (before, False)
    changed = desk.body(displayName="new name", description="new text", tags={"a": "c"}, isArchived=True)
    record, created = service.submit(desk.workspace, "job1", changed)
    assert not created and record.archived and record.display_name == "new name"
    assert record.tags == {**before.tags, "a": "c"} and record.body["description"] == "new text"
    assert record.state == "Completed"
    with pytest.raises(AzureError, match="differs in: taskDetails") as caught:
        service.submit(desk.workspace, "job1", desk.body(**{"taskDetails.targetColumnName": "x"}))
    assert caught.value.status == 409
    assert desk.engine.started == [("job1_HD_0", 1)]


def test_names_of_runs_below_are_kept_free(desk: Any) -> None:
    service = desk.service(start=False)
    service.submit(desk.workspace, "job1", desk.body())
    with pytest.raises(AzureError, match="kept for the runs of the job 'job1'") as caught:
        service.submit(desk.workspace, "job1_HD_0", desk.body())
    assert caught.value.status == 409
    service.submit(desk.workspace, "other_HD", desk.body())
    with pytest.raises(AzureError, match="'other_HD'"):
        service.submit(desk.workspace, "other", desk.body())


def test_reading_and_changing(desk: Any) -> None:
    service = desk.service(start=False)
    for number in range(5):
        service.submit(desk.workspace, f"job{number}", desk.body())
    with pytest.raises(AzureError, match="'nothing' was not found") as caught:
        service.get(desk.workspace, "nothing")
    assert caught.value.status == 404
    first = service.list(desk.workspace, limit=2)
    assert [record.name for record in first] == ["job4", "job3"]
    assert [r.name for r in service.list(desk.workspace, skip=2, limit=2)] == [
        "job2",
        "job1",
    ]
    assert [r.name for r in service.list(desk.workspace, skip=4)] == ["job0"]
    service.patch(desk.workspace, "job0", archived=True, tags={"t": "1"}, display_name="d")
    assert [r.name for r in service.list(desk.workspace, archived=True)] == ["job0"]
    assert len(service.list(desk.workspace)) == 4 and len(service.list(desk.workspace, archived=None)) == 5
    assert desk.record("job0").tags["t"] == "1" and desk.record("job0").display_name == "d"
    with pytest.raises(AzureError, match=r"tags\.n must be a text"):
        service.patch(desk.workspace, "job0", tags={"n": 1})  # type: ignore[dict-item]


def test_a_job_name_of_another_workspace_is_refused(desk: Any) -> None:
    from amlocal.emulator.store.workspaces import Workspaces

    other = Workspaces(desk.store).add("sub-1", "group-1", "ws-2")
    service = desk.service(start=False)
    service.submit(desk.workspace, "job1", desk.body())
    with pytest.raises(AzureError) as caught:
        service.get(other, "job1")
    assert caught.value.status == 404
    source = desk.blobs / "train"
    target = desk.folder.container(other.account, f"azureml-blobstore-{other.id}") / "train"
    target.parent.mkdir(parents=True)
    target.symlink_to(source)
    with pytest.raises(AzureError, match="link that leaves its container"):
        service.submit(other, "job1", desk.body(computeId="cpu-cluster"))
    target.unlink()
    source.rename(target)
    with pytest.raises(AzureError, match="exists in another workspace") as caught:
        service.submit(other, "job1", desk.body(computeId="cpu-cluster"))
    assert caught.value.status == 409


def test_what_became_of_another_job_is_not_taken_over(desk: Any, helpers: Any) -> None:
    """azure-ai-ml sends the tags of a job that was read back with the new one."""
    desk.engine.on_submit = helpers.train
    service = desk.service()
    old = {"amlocal.time_limit": "x", "automl_best_child_run_id": "job0_HD_0", "score_000": "1", "mine": "t"}
    service.submit(desk.workspace, "job1", desk.body(tags=old))
    found = desk.record("job1").tags
    assert found["mine"] == "t" and not {"amlocal.time_limit", "score_000"} & found.keys()
    service.wait_idle()
    assert desk.record("job1").state == "Completed"
    assert desk.record("job1").tags["automl_best_child_run_id"] == "job1_HD_0"
