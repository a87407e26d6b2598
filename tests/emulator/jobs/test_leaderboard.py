"""The leaderboard and the table of the best trials, and that neither can spoil the end of a sweep."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.states import JobState
from amlocal.emulator.jobs.sweeps import best_child, leaderboard
from amlocal.emulator.jobs.sweeps import end as sweep_end
from amlocal.emulator.jobs.sweeps.plan import Objective, Plan, Played
from amlocal.emulator.store.folder import DataFolder
from amlocal.emulator.store.workspace import Workspace

WORKSPACE = Workspace("guid", "sub", "group", "name", "account")
SAMPLES = [
    {"lr": 0.1, "model": {"name": "a", "depth": 3}},
    {"lr": 0.2, "model": {"name": "b,c"}},
    {"lr": 0.3, "model": {"name": '=1+"2"'}},
    {"lr": 0.4},
]


def record(name: str, parent: str | None, kind: str, **changes) -> JobRecord:
    empty = JobRecord(
        workspace_id=WORKSPACE.id,
        name=name,
        parent=parent,
        kind=kind,
        state=JobState.COMPLETED,
        experiment="e",
        display_name=name,
        compute="local",
        body={},
        tags={},
        properties={},
        error=None,
        attempt=1,
        archived=False,
        cancel_requested=False,
        created_at="2026-01-01T10:00:00.000000Z",
        started_at="2026-01-01T10:00:00.000000Z",
        ended_at="2026-01-01T10:30:00.000000Z",
        sequence=1,
    )
    return replace(empty, **changes)


def tree(scores, *, goal: str = "maximize") -> list[JobRecord]:
    """A job, its sweep, and a trial for each score; trial number i ends i minutes after its start."""
    tags = {f"_aml_system_job_HD_{i}": json.dumps(sample) for i, sample in enumerate(SAMPLES)}
    metric = {"primary_metric_config": json.dumps({"name": "accuracy", "goal": goal})}
    found = [
        record("job", None, "automl"),
        record("job_HD", "job", "sweep", tags=tags, properties=metric),
    ]
    for i, score in enumerate(scores):
        properties = {} if score is None else {"score": str(score)}
        ended = f"2026-01-01T10:{i + 1:02d}:00.000000Z"
        found.append(record(f"job_HD_{i}", "job_HD", "trial", properties=properties, ended_at=ended))
    return found


def played(runs: list[JobRecord]) -> list[Played]:
    return [
        Played(i, run.name, {}, run.state, (0.5, 0.6), leaderboard.score_of(run), 60.0)
        for i, run in enumerate(runs[2:])
    ]


def order(runs: list[JobRecord]) -> list[tuple[int | None, str]]:
    return [(row.rank, row.trial) for row in leaderboard.rows(runs[1], runs[2:], {})]


def test_best_first_ties_to_the_earlier_and_without_a_score_last():
    runs = tree([None, 0.5, 0.9, 0.9])
    assert order(runs) == [(1, "job_HD_2"), (2, "job_HD_3"), (3, "job_HD_1"), (None, "job_HD_0")]


def test_a_metric_to_minimize_turns_the_order_around():
    runs = tree([0.7, 0.5, "nan", 0.5], goal="minimize")
    assert order(runs) == [(1, "job_HD_1"), (2, "job_HD_3"), (3, "job_HD_0"), (None, "job_HD_2")]


def test_the_table_has_a_column_for_each_hyperparameter(tmp_path):
    runs = tree([0.5, 0.9, 0.7, None])
    runs[4] = replace(runs[4], state=JobState.CANCELED, tags={"amlocal.terminated": "below\nthe median"})
    runs[5] = replace(runs[5], state=JobState.FAILED, error={"message": "no memory\nmore"}, started_at=None)
    (tmp_path / "result.json").write_text(json.dumps({"train_images": 300, "epochs": 4}))
    rows = leaderboard.rows(runs[1], runs[2:], {"job_HD_1": tmp_path})
    text = leaderboard.table(rows)
    assert "\r" not in text
    found = list(csv.DictReader(text.splitlines()))
    assert list(found[0]) == [
        *("rank", "trial", "status", "score", "seconds", "images_per_second"),
        *("lr", "model.name", "model.depth", "reason"),
    ]
    assert [list(row.values()) for row in found] == [
        ["1", "job_HD_1", "Completed", "0.9", "120.0", "10.0", "0.2", "b,c", "", ""],
        ["2", "job_HD_2", "Canceled", "0.7", "180.0", "", "0.3", '=1+"2"', "", "below"],
        ["3", "job_HD_0", "Completed", "0.5", "60.0", "", "0.1", "a", "3", ""],
        ["", "job_HD_3", "Failed", "", "", "", "0.4", "", "", "no memory"],
    ]


@pytest.mark.parametrize("text", ["", "[]", "not json", '"x"'])
def test_tags_that_a_client_wrote_over_break_nothing(text):
    runs = tree([0.5])
    sweep = replace(runs[1], tags={"_aml_system_job_HD_0": text}, properties={"primary_metric_config": text})
    (row,) = leaderboard.rows(sweep, runs[2:], {})
    assert (row.rank, row.parameters, leaderboard.metric(sweep)) == (1, {}, "")


def test_a_row_for_each_trial_that_beat_all_before_it():
    runs = tree([0.5, 0.4, 0.9, 0.9])
    table = best_child.table(runs[1], runs[2:], final="job_HD_2")
    assert table["columns"] == ["metric_name", "timestamp", "run_id", "metric_value", "final"]
    assert table["data"] == [
        ["accuracy", "2026-01-01 10:01:00.000000+00:00", "job_HD_0", 0.5, False],
        ["accuracy", "2026-01-01 10:03:00.000000+00:00", "job_HD_2", 0.9, False],
        ["accuracy", "2026-01-01 10:03:00.000000+00:00", "job_HD_2", 0.9, True],
    ]
    going = [replace(run, ended_at=None) if run.name == "job_HD_2" else run for run in runs[2:]]
    assert [row[2] for row in best_child.table(runs[1], going, final=None)["data"]] == [
        "job_HD_0",
        "job_HD_3",
    ]


def test_a_table_of_a_metric_to_minimize():
    runs = tree([0.5, 0.6, 0.1], goal="minimize")
    table = best_child.table(runs[1], runs[2:], final="job_HD_2")
    assert [row[2:] for row in table["data"]] == [
        ["job_HD_0", 0.5, False],
        ["job_HD_2", 0.1, False],
        ["job_HD_2", 0.1, True],
    ]


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    found = DataFolder(tmp_path / "data")
    found.create()
    return found


def end(folder: DataFolder, runs: list[JobRecord], **changes) -> list[str]:
    trials = played(runs)
    best = max((t for t in trials if t.score is not None), key=lambda t: t.score, default=None)
    asked = Plan("job_HD", Objective("accuracy", maximize=True), None, 4, 2, None, None, {})
    return sweep_end.write(folder, WORKSPACE, asked, runs, trials, best, **changes)


def test_the_end_leaves_the_table_and_the_pictures_and_nothing_else(folder):
    runs = tree([0.5, 0.9, None])
    metrics = folder.job(WORKSPACE.id, "job_HD_1") / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    lines = [
        {"key": key, "value": 0.5, "step": step, "timestamp": 1767261600000 + 1000 * step}
        for step in range(2)
        for key in ("accuracy", "loss")
    ]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"key": "accu')
    for _ in range(2):
        assert end(folder, runs) == []
    outputs = folder.artifacts("account", "job") / "outputs"
    assert sorted(path.relative_to(outputs).as_posix() for path in outputs.rglob("*") if path.is_file()) == [
        "leaderboard.csv",
        "leaderboard/metric_over_time.png",
        "leaderboard/parallel_coordinates.png",
    ]
    assert (outputs / "leaderboard" / "metric_over_time.png").read_bytes().startswith(b"\x89PNG")
    spec = json.loads((folder.job(WORKSPACE.id, "job") / "leaderboard" / "spec.json").read_text())
    times = {trial["trial"]: trial["times"] for trial in spec["trials"]}
    assert times == {"job_HD_1": [1767261600000, 1767261601000], "job_HD_0": None, "job_HD_2": None}
    table = json.loads(
        (folder.artifacts("account", "job_HD") / "best_child_by_primary_metric.json").read_text()
    )
    assert table["data"][-1][2:] == ["job_HD_1", 0.9, True]
    assert list(folder.tmp.iterdir()) == []


def test_half_a_character_is_written_as_its_code(folder):
    runs = tree([0.5])
    runs[1] = replace(runs[1], tags={"_aml_system_job_HD_0": '{"lr": "\\ud800"}'})
    assert end(folder, runs) == []
    text = (folder.artifacts("account", "job") / "outputs" / "leaderboard.csv").read_text()
    assert ",\\ud800," in text


def test_one_trial_is_not_compared(folder):
    assert end(folder, tree([0.5]), drawer=["/no/such/program"]) == []
    assert (folder.artifacts("account", "job") / "outputs" / "leaderboard.csv").is_file()


@pytest.mark.parametrize(
    ("script", "patience", "said"),
    [
        ("print('first'); print('no room'); raise SystemExit(1)", 60.0, "no room"),
        ("import time; time.sleep(60)", 1.0, "timed out"),
    ],
)
def test_pictures_that_fail_are_told_and_the_rest_is_there(folder, script, patience, said):
    (text,) = end(folder, tree([0.5, 0.9]), drawer=[sys.executable, "-c", script], patience=patience)
    assert text.startswith("the leaderboard's pictures could not be drawn: ") and said in text
    assert (folder.artifacts("account", "job") / "outputs" / "leaderboard.csv").is_file()


def test_a_program_that_is_not_there_is_told(folder):
    (text,) = end(folder, tree([0.5, 0.9]), drawer=["/no/such/program"])
    assert "/no/such/program" in text


def test_a_table_that_cannot_be_written_is_told(folder):
    (folder.artifacts("account", "job")).mkdir(parents=True)
    (folder.artifacts("account", "job") / "outputs").write_text("in the way")
    (text,) = end(folder, tree([0.5, 0.9]))
    assert text.startswith("the leaderboard could not be written: ")
