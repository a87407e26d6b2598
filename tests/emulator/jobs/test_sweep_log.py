"""A sweep's log: the form of its records, and that a repeated step adds nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from amlocal.emulator.jobs.sweeps import log as sweep_log

RECORD = re.compile(
    r"<START>\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\]\[(\w+)\]\[(INFO|WARNING|ERROR)\](.*)<END>"
)


def records(path: Path) -> list[tuple[str, str]]:
    found = []
    for line in path.read_text().splitlines():
        match = RECORD.fullmatch(line)
        assert match, line
        found.append((match[1], match[3]))
    return found


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "dcid.job_HD" / sweep_log.HYPERDRIVE_LOG


def play(log: Path) -> None:
    sweep_log.created(log)
    sweep_log.sampling(log, 2)
    sweep_log.sampled(log, 2)
    sweep_log.scheduled(log, "job_HD_1")
    sweep_log.scheduled(log, "job_HD_10")
    sweep_log.all_made(log, 2, 2)
    sweep_log.terminated(log, "job_HD_1", "below the median")
    sweep_log.trial_ended(log, "job_HD_1", "Canceled", 0.5, "below the median")
    sweep_log.trial_ended(log, "job_HD_10", "Completed", 0.9)
    sweep_log.trial_ended(log, "job_HD_2", "Failed", None, "it broke. Last lines of its log:\nKeyError")
    sweep_log.status(log, "Running", "Completed")


def test_the_texts_are_those_that_the_service_writes(log):
    play(log)
    assert records(log) == [
        ("API", "Experiment created"),
        ("GENERATOR", "Trying to sample '2' jobs from the hyperparameter space"),
        ("GENERATOR", "Successfully sampled '2' jobs, they will soon be submitted to the execution target."),
        ("SCHEDULER", "Scheduling job, id='job_HD_1'"),
        ("SCHEDULER", "Successfully scheduled a job. Id='job_HD_1'"),
        ("SCHEDULER", "Scheduling job, id='job_HD_10'"),
        ("SCHEDULER", "Successfully scheduled a job. Id='job_HD_10'"),
        ("GENERATOR", "Max number of jobs '2' reached for experiment."),
        ("GENERATOR", "All jobs generated."),
        ("CONTROLLER", "The early termination policy ends job 'job_HD_1': below the median"),
        ("CONTROLLER", "Job 'job_HD_1' ended as Canceled with the score 0.5: below the median"),
        ("CONTROLLER", "Job 'job_HD_10' ended as Completed with the score 0.9"),
        ("CONTROLLER", "Job 'job_HD_2' ended as Failed: it broke."),
        ("CONTROLLER", "Changing Run Status from Running to Completed"),
    ]
    assert log.stat().st_mode & 0o777 == 0o600


def test_repeated_steps_add_only_the_counts_of_samples(log):
    play(log)
    once = records(log)
    play(log)
    assert records(log) == [*once, *once[1:3]]


def test_a_generator_with_no_more_samples_does_not_name_the_limit(log):
    sweep_log.all_made(log, 4, 20)
    assert records(log) == [("GENERATOR", "All jobs generated.")]


def test_half_a_record_of_a_killed_process_stays_apart(log):
    sweep_log.created(log)
    with log.open("a") as file:
        file.write("<START>[2026-01-01T00:00:00.000000Z][SCHEDULER][INFO]Scheduling job, id='job_HD_0'<E")
    sweep_log.scheduled(log, "job_HD_0")
    lines = log.read_text().splitlines()
    assert len(lines) == 4
    assert RECORD.fullmatch(lines[2]) and lines[2].endswith("Scheduling job, id='job_HD_0'<END>")


def test_a_text_of_anybody_is_one_record(log):
    told = "bad\n<START>[x][API][INFO]forged<END>\r\x1b[31mred\x00" + "y" * 5000
    sweep_log.write(log, "CONTROLLER", told, "WARNING")
    ((source, text),) = records(log)
    assert source == "CONTROLLER"
    assert "<START>" not in text and "<END>" not in text
    assert text.startswith("bad < START>[x][API][INFO]forged< END>  [31mred ")
    assert len(text) < 2100


def test_a_log_that_a_link_replaced_is_not_followed(log, tmp_path):
    log.parent.mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.write_text("kept")
    log.symlink_to(outside)
    with pytest.raises(OSError, match="symbolic"):
        sweep_log.created(log)
    assert outside.read_text() == "kept"
