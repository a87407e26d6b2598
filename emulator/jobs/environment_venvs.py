"""Virtual environments for jobs: one for every pip part of a conda file and Python, built once and kept.

Below `DATA/cache/venvs/KEY/` each try has a folder of its own, since a virtual environment cannot be moved;
`ready.json`, written last, names the one that is whole. Everything else there is what a try left behind.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from amlocal.emulator.jobs.environment_interpreters import Interpreter
from amlocal.emulator.jobs.environment_pins import without_credentials
from amlocal.emulator.jobs.runners.base import Abandoned, JobFailure
from amlocal.emulator.processes import FileLock, clean_environment
from amlocal.emulator.store.folder import DataFolder, write_atomic

READY = "ready.json"
_LEASH = Path(__file__).parents[1] / "host" / "leash.py"
_GRACE = 5.0
# Seconds that venv and pip may take; pip ends stuck connections by itself long before.
LONGEST = 3600.0
_LOOK = 0.2
_TAIL = 15
# A changed layout must not meet old folders.
_LAYOUT = "1"


def key(lines: Sequence[str], base: Interpreter) -> str:
    """Names the virtual environment of these pip lines on this Python; blanks do not count, order does."""
    wish = json.dumps([_LAYOUT, str(base.prefix), base.version, [" ".join(line.split()) for line in lines]])
    return hashlib.sha256(wish.encode()).hexdigest()[:32]


def ready(folder: DataFolder, name: str) -> Path | None:
    """The Python of a virtual environment that is whole; None when it has to be built."""
    place = _place(folder, name)
    try:
        attempt = json.loads((place / READY).read_text(encoding="utf-8"))["attempt"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    python = place / str(attempt) / "bin" / "python"
    return python if os.access(python, os.X_OK) else None


def build(
    folder: DataFolder,
    base: Interpreter,
    lines: Sequence[str],
    log: Path,
    abandoned: Callable[[], bool],
    environ: Mapping[str, str] | None = None,
) -> Path:
    """The Python of the virtual environment for `lines`, built where it is not there; output goes to `log`.

    Two callers build it once: the second waits. Raises JobFailure with the end of pip's output, and Abandoned
    soon after `abandoned()` becomes true, when pip has ended.
    """
    name = key(lines, base)
    place = _place(folder, name)
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FileLock(place.with_suffix(".lock"))
    while not lock.acquire(_LOOK):
        if abandoned():
            raise Abandoned
    try:
        found = ready(folder, name)
        return found if found is not None else _build(place, base, lines, log, abandoned, environ)
    finally:
        lock.release()


def _place(folder: DataFolder, name: str) -> Path:
    return folder.cache / "venvs" / name


def _build(
    place: Path,
    base: Interpreter,
    lines: Sequence[str],
    log: Path,
    abandoned: Callable[[], bool],
    environ: Mapping[str, str] | None,
) -> Path:
    for old in place.iterdir():
        if old.is_dir():
            shutil.rmtree(old, ignore_errors=True)  # a pip that a killed server left may be ending
    (place / READY).unlink(missing_ok=True)
    attempt = place / os.urandom(4).hex()
    temporary = attempt / "tmp"
    for folder in (attempt, temporary):
        folder.mkdir(mode=0o700)
    try:
        wishes = attempt / "requirements.txt"
        write_atomic(wishes, "".join(f"{line}\n" for line in lines).encode())
        env = _environment(temporary, os.environ if environ is None else environ)
        python = attempt / "bin" / "python"
        deadline = time.monotonic() + LONGEST
        _run([str(base.python), "-I", "-m", "venv", str(attempt)], attempt, env, log, abandoned, deadline)
        _run(
            [
                str(python), "-I", "-m", "pip", "install", "--no-input", "--disable-pip-version-check",
                "--progress-bar", "off", "-r", str(wishes),
            ],
            attempt, env, log, abandoned, deadline,
        )  # fmt: skip
        shutil.rmtree(temporary)
        wishes.unlink()  # may hold an index's password
        about = {
            "attempt": attempt.name,
            "python": base.version,
            "pip": list(map(without_credentials, lines)),
        }
        write_atomic(place / READY, json.dumps(about, indent=1).encode())
    except BaseException:
        shutil.rmtree(attempt, ignore_errors=True)
        raise
    return python


def _environment(temporary: Path, environ: Mapping[str, str]) -> dict[str, str]:
    # How this site reaches its packages: PIP_INDEX_URL, PIP_PROXY, PIP_CERT and pip's other settings.
    pip = {name: value for name, value in environ.items() if name.startswith("PIP_")}
    return {**clean_environment(), **pip, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}


def _run(
    argv: Sequence[str],
    cwd: Path,
    env: Mapping[str, str],
    log: Path,
    abandoned: Callable[[], bool],
    deadline: float,
) -> None:
    """Run one program to its end, or to the end of the wish for it."""
    with log.open("ab") as output:
        start = output.tell()
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_LEASH), str(_GRACE), *argv],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=env,
            start_new_session=True,
        )
        assert child.stdin is not None
        with child.stdin:
            why = _wait(child, abandoned, deadline)
        code = child.wait()
    if why == "abandoned":
        raise Abandoned
    what = "pip" if "pip" in argv else "venv"
    if why == "late":
        raise JobFailure(f"The environment could not be built: {what} took longer than {LONGEST:g} s.")
    if code != 0:
        raise JobFailure(
            f"The environment could not be built: {what} ended with exit code {code}. Its last lines:\n"
            f"{_end(log, start)}"
        )


def _wait(child: subprocess.Popen[bytes], abandoned: Callable[[], bool], deadline: float) -> str:
    while True:
        try:
            child.wait(_LOOK)
        except subprocess.TimeoutExpired:
            if abandoned():
                return "abandoned"
            if time.monotonic() > deadline:
                return "late"
        else:
            return "ended"


def _end(log: Path, start: int) -> str:
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - 16 * 1024))
        text = file.read().decode("utf-8", "replace")
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return without_credentials("\n".join(lines[-_TAIL:]))[-3000:]
