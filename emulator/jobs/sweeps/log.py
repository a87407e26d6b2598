"""A sweep's log, `azureml-logs/hyperdrive.txt` among its artifacts: one record a line.

    <START>[2026-01-31T12:00:00.000000Z][SCHEDULER][INFO]Scheduling job, id='sweep_0'<END>

Source: the log that clients of Azure Machine Learning stream of a sweep, as public notebooks show it. Steps
are repeated after a crash, so a record whose text stands in the log already is not written again.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

HYPERDRIVE_LOG = Path("azureml-logs") / "hyperdrive.txt"
Source = Literal["API", "GENERATOR", "SCHEDULER", "CONTROLLER"]
Level = Literal["INFO", "WARNING", "ERROR"]
_LONGEST = 2000
# Texts that a sweep says again and again.
_REPEATED = ("Trying to sample", "Successfully sampled")


def write(path: Path, source: Source, text: str, level: Level = "INFO") -> None:
    """Append one record and make the file and its folder when they are not there; raises OSError."""
    body = f"][{source}][{level}]{_plain(text)}<END>\n".encode()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0) as file:
        there = file.readall()
        if body in there and not text.startswith(_REPEATED):
            return
        # A process that was killed, or a full disk, can leave half a record.
        torn = b"\n" if there and not there.endswith(b"\n") else b""
        file.write(torn + f"<START>[{_now()}".encode() + body)


def created(path: Path) -> None:
    """The sweep begins."""
    write(path, "API", "Experiment created")


def sampling(path: Path, count: int) -> None:
    """So many samples are about to be drawn."""
    write(path, "GENERATOR", f"Trying to sample '{count}' jobs from the hyperparameter space")


def sampled(path: Path, count: int) -> None:
    """They were drawn."""
    write(
        path,
        "GENERATOR",
        f"Successfully sampled '{count}' jobs, they will soon be submitted to the execution target.",
    )


def scheduled(path: Path, trial: str) -> None:
    """A trial was made and waits for a slot."""
    write(path, "SCHEDULER", f"Scheduling job, id='{trial}'")
    write(path, "SCHEDULER", f"Successfully scheduled a job. Id='{trial}'")


def all_made(path: Path, count: int, limit: int) -> None:
    """No more trials will be made: the limit is reached, or the generator has no more."""
    if count >= limit:
        write(path, "GENERATOR", f"Max number of jobs '{limit}' reached for experiment.")
    write(path, "GENERATOR", "All jobs generated.")


def trial_ended(path: Path, trial: str, status: str, score: float | None, why: str = "") -> None:
    """A trial has ended; `why` says the reason where it did not complete."""
    scored, why = "" if score is None else f" with the score {score}", brief(why)
    write(path, "CONTROLLER", f"Job '{trial}' ended as {status}{scored}{': ' if why else ''}{why}")


def terminated(path: Path, trial: str, reason: str) -> None:
    """The policy ends a trial."""
    write(path, "CONTROLLER", f"The early termination policy ends job '{trial}': {reason}")


def status(path: Path, old: str, new: str) -> None:
    """The sweep's own run changes its status."""
    write(path, "CONTROLLER", f"Changing Run Status from {old} to {new}")


def brief(message: str) -> str:
    """The first line of an error's message, without the announcement of the lines that follow it."""
    return message.strip().partition("\n")[0].removesuffix(" Last lines of its log:")


def _plain(text: str) -> str:
    """One line without control characters or marks of a record's ends: a failure's text is anybody's."""
    line = "".join(char if char.isprintable() else " " for char in text.strip())
    line = line.replace("<START>", "< START>").replace("<END>", "< END>")
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
