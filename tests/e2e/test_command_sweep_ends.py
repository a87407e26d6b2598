"""How sweep jobs and trials end: by a policy, by failing, in time, on request, with the server killed."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import wait_for
from job_desk import ended
from raw_client import RawClient, supervisor_pid, worker_pid
from sweep_desk import code, hyperdrive, log_of, samples, sweep, trials


def test_bandit_ends_a_trial_that_is_far_behind(ml_client: Any, server: Any, tmp_path: Path) -> None:
    from azure.ai.ml.sweep import BanditPolicy, Choice

    main = """
value = float(sys.argv[1])
if value > 0.5:
    # The policy judges an interval once, beside what it has read of the others by then.
    log("acc", *[value] * 30)
else:
    open("outputs/mine.txt", "w").write("kept")
    while True:
        log("acc", value, pause=10.0)
"""
    job = sweep(
        "command_bandit",
        code(tmp_path, main),
        {"x": Choice([0.9, 0.1])},
        early_termination_policy=BanditPolicy(evaluation_interval=1, slack_amount=0.2),
    )
    ml_client.jobs.create_or_update(job)
    found = ended(ml_client, "command_bandit")
    assert found.status == "Completed" and found.properties["best_child_run_id"] == "command_bandit_0"
    policy = found.early_termination
    assert (policy.type, policy.slack_amount, policy.evaluation_interval) == ("bandit", 0.2, 1)
    good, bad = trials(server, "command_bandit")
    assert (good["status"], bad["status"], bad["error"]) == ("Completed", "Canceled", None)
    assert "bandit: at interval" in bad["tags"]["amlocal.terminated"]
    assert bad["properties"]["score"] == "0.1"
    kept = next(server.folder.blobs.rglob("dcid.command_bandit_1/outputs/mine.txt"))
    assert kept.read_text() == "kept"
    assert "early termination policy ends job 'command_bandit_1'" in hyperdrive(server, "command_bandit")


def test_a_trial_fails_alone_and_one_without_the_metric_has_no_score(
    ml_client: Any, server: Any, tmp_path: Path
) -> None:
    from azure.ai.ml.sweep import Choice

    main = """
which = sys.argv[1]
if which == "breaks":
    sys.exit("this one breaks")
log("acc" if which == "well" else "accuracy", 0.5)
"""
    job = sweep("sweep_mixed", code(tmp_path, main), {"x": Choice(["breaks", "other", "well"])})
    ml_client.jobs.create_or_update(job)
    found = ended(ml_client, "sweep_mixed")
    assert found.status == "Completed" and found.properties["best_child_run_id"] == "sweep_mixed_2"
    broken, other, _ = trials(server, "sweep_mixed")
    assert [run["status"] for run in trials(server, "sweep_mixed")] == ["Failed", "Completed", "Completed"]
    assert "this one breaks" in broken["error"]["error"]["message"]
    assert "score" not in other["properties"]
    assert "has not logged the primary metric 'acc' (logged: accuracy)" in log_of(server, "sweep_mixed_1")


def test_without_any_score_the_sweep_is_completed_and_says_why(
    ml_client: Any, server: Any, tmp_path: Path
) -> None:
    from azure.ai.ml.sweep import Choice

    ml_client.jobs.create_or_update(
        sweep("sweep_none", code(tmp_path, "log('accuracy', 0.5)"), {"x": Choice([1, 2])})
    )
    found = ended(ml_client, "sweep_none")
    assert found.status == "Completed" and "best_child_run_id" not in found.properties
    assert (
        "none has logged a value of the primary metric 'acc' (logged: accuracy)"
        in (found.tags["amlocal.score"])
    )
    assert found.tags["amlocal.score"] in hyperdrive(server, "sweep_none")
    ml_client.jobs.download("sweep_none", download_path=tmp_path, all=True)
    assert (tmp_path / "hd-artifacts" / "azureml-logs" / "hyperdrive.txt").exists()


def test_all_failing_fails_the_sweep_with_the_first_cause(
    ml_client: Any, server: Any, tmp_path: Path
) -> None:
    from azure.ai.ml.sweep import Choice

    job = sweep(
        "sweep_broken",
        code(tmp_path, "sys.exit('cause ' + sys.argv[1])"),
        {"x": Choice([1, 2])},
        limits={"max_concurrent_trials": 1},
    )
    ml_client.jobs.create_or_update(job)
    assert ended(ml_client, "sweep_broken").status == "Failed"
    _, details = server.call("GET", f"/history/v1.0{server.workspace_path}/runs/sweep_broken/details")
    text = details["error"]["error"]["message"]
    assert text.startswith("User errors were found in at least one of the child runs. sweep_broken_0: ")
    assert "cause 1" in text


def test_a_trial_ends_when_its_time_is_up_and_the_others_go_on(
    ml_client: Any, server: Any, tmp_path: Path
) -> None:
    from azure.ai.ml.sweep import Choice

    main = code(tmp_path, "log('acc', 0.5)\nif sys.argv[1] == '1':\n    time.sleep(600)")
    job = sweep("sweep_slow", main, {"x": Choice([1, 2])})
    # azure-ai-ml makes a minute of what is less. Both trials have it: the quick one needs a second, and more
    # on a busy machine.
    job.limits._trial_timeout = 10
    ml_client.jobs.create_or_update(job)
    found = ended(ml_client, "sweep_slow")
    assert found.status == "Completed" and found.properties["best_child_run_id"] == "sweep_slow_1"
    slow, quick = trials(server, "sweep_slow")
    assert (slow["status"], quick["status"]) == ("Canceled", "Completed")
    assert "its time limit of 10 seconds was up" in slow["error"]["error"]["message"]


def test_cancel_of_a_trial_and_of_the_sweep(ml_client: Any, server: Any, tmp_path: Path) -> None:
    from azure.ai.ml.sweep import Choice

    job = sweep(
        "sweep_cancel",
        code(tmp_path, "time.sleep(600)"),
        {"x": Choice([1, 2, 3, 4])},
    )
    ml_client.jobs.create_or_update(job)

    def running() -> set[str]:
        return {run["runId"] for run in trials(server, "sweep_cancel") if run["status"] == "Running"}

    wait_for(lambda: running() == {"sweep_cancel_0", "sweep_cancel_1"}, 60, "two trials")
    ml_client.jobs.begin_cancel("sweep_cancel_0").wait()
    wait_for(lambda: running() == {"sweep_cancel_1", "sweep_cancel_2"}, 60, "the third trial")
    assert ml_client.jobs.get("sweep_cancel").status == "Running"
    ml_client.jobs.begin_cancel("sweep_cancel").wait()
    assert ended(ml_client, "sweep_cancel").status == "Canceled"
    assert [run["status"] for run in trials(server, "sweep_cancel")] == ["Canceled"] * 3


def test_kill_of_the_server_draws_nothing_twice(new_server: Callable[[], Any], tmp_path: Path) -> None:
    server = new_server()
    server.start()
    client = RawClient(server)
    marks = tmp_path / "marks"
    body = {
        "jobType": "Sweep",
        "searchSpace": {"x": ["uniform", [0, 1]]},
        "samplingAlgorithm": {"samplingAlgorithmType": "Random", "seed": 5},
        "objective": {"goal": "maximize", "primaryMetric": "acc"},
        "limits": {"maxTotalTrials": 4, "maxConcurrentTrials": 1},
        "trial": {
            "command": f"echo $AZUREML_RUN_ID ${{{{search_space.x}}}} >> {marks}; sleep 0.5",
            "environmentId": "azureml:host:1",
        },
        "computeId": "cpu-cluster",
    }
    status, answer = client.arm("PUT", "jobs/sweep_kill", {"properties": body})
    assert status == 201, answer

    def started() -> list[str]:
        return marks.read_text().splitlines() if marks.exists() else []

    wait_for(lambda: len(started()) >= 2, 180, "the second trial")
    victims = worker_pid(server), supervisor_pid(server)
    client.close()
    for pid in victims:
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    server.start()
    client = RawClient(server)

    def done() -> Any:
        found = client.arm("GET", "jobs/sweep_kill")[1]["properties"]
        return found if found["status"] in ("Completed", "Failed", "Canceled") else None

    found = wait_for(done, 120, "the end of the sweep")
    client.close()
    assert found["status"] == "Completed"
    lines = sorted(line.split() for line in started())
    assert [line[0] for line in lines] == [f"sweep_kill_{index}" for index in range(4)]
    assert len({line[1] for line in lines}) == 4
    assert [one["x"] for one in samples(server, "sweep_kill")] == [float(line[1]) for line in lines]
    told = re.findall(r"\]Scheduling job, id='(.+?)'", hyperdrive(server, "sweep_kill"))
    assert told == [f"sweep_kill_{index}" for index in range(4)]
