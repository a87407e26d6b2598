"""What a sweep leaves to look at: its log, run history, MLflow's nested runs, leaderboard and studio page."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import requests
from job_desk import ended

NAME = "sweep_board"
# Logs by MLflow's REST interface: importing mlflow takes seconds. The trial with 0.2 fails.
TRIAL = """
import json, os, sys, time, urllib.error, urllib.request

def log(value, step):
    body = {"run_id": os.environ["MLFLOW_RUN_ID"], "key": "acc", "value": value, "step": step,
            "timestamp": int(time.time() * 1000)}
    headers = {"Authorization": "Bearer " + os.environ["MLFLOW_TRACKING_TOKEN"],
               "Content-Type": "application/json"}
    url = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/runs/log-metric"
    for left in range(100, 0, -1):
        try:
            urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)).read()
            return
        except urllib.error.HTTPError as error:
            if error.code not in (404, 503) or left == 1:  # MLflow may still be starting
                raise
            time.sleep(0.5)

rate = float(sys.argv[1])
for step in (0, 1, 3):
    log(rate * (step + 1) / 4, step)
if rate == 0.2:
    sys.exit("the rate is bad")
"""


class Table(HTMLParser):
    """The cells of the table of class `board`, row by row."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._inside = self._cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._inside = ("class", "board") in attrs
        elif self._inside and tag == "tr":
            self.rows.append([])
        elif self._inside and tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._inside and self._cell:
            self.rows[-1][-1] += data.strip()


@pytest.fixture(scope="module")
def streamed(ml_client: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A grid of four trials, one of which fails; what streaming it has printed."""
    import contextlib
    import io

    from azure.ai.ml import command
    from azure.ai.ml.sweep import Choice

    code = tmp_path_factory.mktemp("code")
    (code / "main.py").write_text(TRIAL)
    base = command(
        command="python main.py ${{inputs.rate}} ${{inputs.kind}}",
        code=str(code),
        inputs={"rate": 0.0, "kind": ""},
        environment="azureml:host:1",
        compute="cpu-cluster",
    )
    job = base(rate=Choice([0.1, 0.2, 0.9, 0.9]), kind=Choice(["a,b"])).sweep(
        sampling_algorithm="grid", primary_metric="acc", goal="Maximize"
    )
    job.name, job.experiment_name = NAME, "boards"
    job.set_limits(max_total_trials=4, max_concurrent_trials=2, timeout=600)
    ml_client.jobs.create_or_update(job)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        ml_client.jobs.stream(NAME)
    return printed.getvalue()


@pytest.fixture(scope="module")
def finished(ml_client: Any, streamed: str) -> Any:
    return ended(ml_client, NAME)


def run(server: Any, path: str) -> Any:
    status, found = server.call("GET", f"/history/v1.0{server.workspace_path}/runs/{path}")
    assert status == 200, found
    return found


def test_streaming_prints_the_log_of_the_sweep(streamed: str, finished: Any) -> None:
    assert finished.status == "Completed"
    assert "Streaming azureml-logs/hyperdrive.txt" in streamed
    assert "user_logs/std_log" not in streamed
    for text in (
        "[API][INFO]Experiment created<END>",
        f"[SCHEDULER][INFO]Scheduling job, id='{NAME}_0'<END>",
        f"[SCHEDULER][INFO]Successfully scheduled a job. Id='{NAME}_3'<END>",
        f"[CONTROLLER][INFO]Job '{NAME}_0' ended as Completed with the score 0.1<END>",
    ):
        assert streamed.count(text) == 1, (text, streamed)
    # Two that end at once are followed by two.
    assert "[GENERATOR][INFO]Trying to sample '2' jobs from the hyperparameter space<END>" in streamed
    assert re.search(rf"Job '{NAME}_1' ended as Failed: .*exit code 1", streamed), streamed


def test_run_history_tells_the_sweep_and_its_trials(server: Any, finished: Any) -> None:
    sweep = run(server, NAME)
    assert (sweep["runType"], sweep["rootRunId"], sweep["parentRunId"]) == ("hyperdrive", NAME, None)
    tags, properties = sweep["tags"], sweep["properties"]
    assert properties["best_child_run_id"] == f"{NAME}_2"  # of two with the same score, the earlier
    assert (properties["score"], properties["best_metric_status"]) == ("0.9", "Succeeded")
    assert properties["best_data_container_id"] == f"dcid.{NAME}_2"
    assert json.loads(properties["primary_metric_config"]) == {"name": "acc", "goal": "maximize"}
    assert json.loads(tags[f"_aml_system_{NAME}_0"]) == {"rate": 0.1, "kind": "a,b"}
    assert tags["_aml_system_max_total_jobs"] == tags["_aml_system_samples_generated_count"] == "4"
    assert tags["_aml_system_max_concurrent_jobs"] == "2"
    assert tags["_aml_system_all_jobs_generated"] == "true"
    assert json.loads(tags["_aml_system_generator_config"])["name"] == "GRID"
    children = run(server, f"{NAME}/children")["value"]
    assert [child["runId"] for child in children] == [f"{NAME}_{i}" for i in range(4)]
    assert {child["rootRunId"] for child in children} == {NAME}
    details = run(server, f"{NAME}/details")
    assert list(details["logFiles"]) == ["azureml-logs/hyperdrive.txt"]
    log = requests.get(details["logFiles"]["azureml-logs/hyperdrive.txt"]).text
    assert log.splitlines()[-1].endswith(
        "[CONTROLLER][INFO]Changing Run Status from Running to Completed<END>"
    )
    for line in log.splitlines():
        assert re.fullmatch(r"<START>\[[^]]+Z\]\[[A-Z]+\]\[(INFO|WARNING|ERROR)\].*<END>", line)


def test_mlflow_nests_the_trials_and_loads_the_table_of_the_best(ml_client: Any, finished: Any) -> None:
    import mlflow

    tracking = ml_client.workspaces.get(ml_client.workspace_name).mlflow_tracking_uri
    client = mlflow.MlflowClient(tracking_uri=tracking)
    sweep = client.get_run(NAME)
    below = client.search_runs(
        [sweep.info.experiment_id], f"tags.mlflow.parentRunId = '{NAME}'", order_by=["metrics.acc DESC"]
    )
    assert {one.info.run_id for one in below} == {f"{NAME}_{i}" for i in range(4)}
    assert {one.data.tags["mlflow.rootRunId"] for one in below} == {NAME}
    states = {one.info.run_id: one.info.status for one in below}
    assert states == {
        f"{NAME}_0": "FINISHED",
        f"{NAME}_1": "FAILED",
        f"{NAME}_2": "FINISHED",
        f"{NAME}_3": "FINISHED",
    }
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tracking)
    try:
        table = client.load_table(
            sweep.info.experiment_id, "best_child_by_primary_metric.json", run_ids=[NAME]
        )
    finally:
        mlflow.set_tracking_uri(before)
    assert list(table.columns) == ["metric_name", "timestamp", "run_id", "metric_value", "final"]
    last = table.iloc[-1]
    assert (last.metric_name, last.run_id, last.metric_value) == ("acc", f"{NAME}_2", 0.9)
    assert list(table.final) == [False] * (len(table) - 1) + [True]
    assert table.metric_value.is_monotonic_increasing


def test_the_leaderboard_is_downloaded_with_the_job(ml_client: Any, finished: Any, tmp_path: Path) -> None:
    ml_client.jobs.download(NAME, download_path=str(tmp_path))
    outputs = tmp_path / "hd-artifacts" / "outputs"
    rows = list(csv.DictReader((outputs / "leaderboard.csv").read_text().splitlines()))
    assert [(row["rank"], row["trial"], row["status"], row["score"], row["rate"]) for row in rows] == [
        ("1", f"{NAME}_2", "Completed", "0.9", "0.9"),
        ("2", f"{NAME}_3", "Completed", "0.9", "0.9"),
        ("3", f"{NAME}_0", "Completed", "0.1", "0.1"),
        ("", f"{NAME}_1", "Failed", "", "0.2"),
    ]
    assert all(row["kind"] == "a,b" and float(row["seconds"]) > 0 for row in rows)
    assert "exit code 1" in rows[3]["reason"] and not rows[0]["reason"]
    for name in ("metric_over_time", "parallel_coordinates"):
        assert (outputs / "leaderboard" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    # The best trial's own artifacts come with it.
    assert (tmp_path / "artifacts" / "user_logs" / "std_log.txt").is_file()


def test_the_studio_page_shows_the_trials_best_first(finished: Any) -> None:
    browser = requests.Session()
    page = browser.get(finished.services["Studio"].endpoint)
    assert page.status_code == 200
    assert "Trials: 4 of 4, maximize acc" in page.text
    head, *rows = Table(page.text).rows
    assert head == ["rank", "trial", "status", "score", "seconds", "images/s", "rate", "kind"]
    assert [row[:4] + row[6:] for row in rows] == [
        ["1", f"{NAME}_2", "Completed", "0.9", "0.9", "a,b"],
        ["2", f"{NAME}_3", "Completed", "0.9", "0.9", "a,b"],
        ["3", f"{NAME}_0", "Completed", "0.1", "0.1", "a,b"],
        ["", f"{NAME}_1", "Failed", "", "0.2", "a,b"],
    ]
    pictures = re.findall(r'<img src="([^"]+)"', page.text)
    assert len(pictures) == 2
    for address in pictures:
        answer = browser.get(address.replace("&amp;", "&"))
        assert answer.status_code == 200 and answer.content.startswith(b"\x89PNG")
    table = re.search(r'<a href="([^"]+)">leaderboard.csv</a>', page.text)
    assert table and browser.get(table[1].replace("&amp;", "&")).text.startswith("rank,trial,status,score")
    trial = browser.get(re.sub(rf"/runs/{NAME}\?", f"/runs/{NAME}_0?", page.url))
    assert trial.status_code == 200 and "Trials:" not in trial.text
