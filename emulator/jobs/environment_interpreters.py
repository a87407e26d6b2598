"""Pythons that jobs can run in: what version one is and what is installed in it, asked of itself."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

# Runs in the interpreter that is asked, however old that is.
_QUESTION = """
import json, os, site, sys
answer = {"version": ".".join(map(str, sys.version_info[:3])), "prefix": sys.prefix, "installed": {}}
folders = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
user = site.getusersitepackages() if sys.prefix == sys.base_prefix else ""
if user and os.path.isdir(user):
    folders.append(user)
answer["folders"] = folders
try:
    from importlib import metadata
except ImportError:
    metadata = None
for found in metadata.distributions(path=sys.path + folders) if metadata else ():
    name, version = found.metadata["Name"], found.version
    if name and version:
        answer["installed"].setdefault(name, version)
print(json.dumps(answer))
"""
_OLDEST = (3, 8)
# Seconds. A first start from a cold disk takes a few; more would hold up the request that asks.
PATIENCE = 15.0
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH")


class InterpreterError(Exception):
    """A file is no Python that jobs can run in; the message says why."""


@dataclass(frozen=True)
class Interpreter:
    """One Python. `installed`: normalised names (PEP 503) to versions. `bin` is where its programs are."""

    python: Path
    version: str
    prefix: Path
    installed: Mapping[str, str] = field(repr=False)
    folders: tuple[Path, ...] = ()

    @property
    def bin(self) -> Path:
        return self.python.parent

    def markers(self) -> dict[str, str]:
        """What PEP 508 markers are compared with, where it differs between the Pythons of one machine."""
        return {
            "python_version": ".".join(self.version.split(".")[:2]),
            "python_full_version": self.version,
            "implementation_version": self.version,
        }


class Interpreters:
    """Asks every Python once, and again when it or its packages have changed. Safe from any thread."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._known: dict[Path, tuple[object, Interpreter]] = {}
        self._guard = threading.Lock()
        self._asking: dict[Path, threading.Lock] = {}

    def ask(self, python: Path) -> Interpreter:
        """Version and packages of `python`. Raises InterpreterError."""
        with self._guard:
            lock = self._asking.setdefault(python, threading.Lock())
        with lock:
            known = self._known.get(python)
            if known is not None and known[0] == _state(python, known[1].folders):
                return known[1]
            found = _ask(python, self._patience)
            self._known[python] = (_state(python, found.folders), found)
            return found

    def warm(self, *pythons: Path) -> None:
        """Ask in the background, so that a later `ask` need not wait; what fails is told by that one."""

        def work() -> None:
            for python in pythons:
                try:
                    self.ask(python)
                except InterpreterError:
                    continue

        threading.Thread(target=work, name="interpreters", daemon=True).start()


def _state(python: Path, folders: tuple[Path, ...]) -> object:
    """Changes when the interpreter is exchanged or a package of it is added or removed."""
    try:
        stat = python.stat()
    except OSError:
        return None
    times = tuple(folder.stat().st_mtime_ns if folder.is_dir() else 0 for folder in folders)
    return (stat.st_ino, stat.st_size, stat.st_mtime_ns, times)


def _ask(python: Path, patience: float) -> Interpreter:
    if not python.is_file():
        raise InterpreterError(f"{python} does not exist")
    if not os.access(python, os.X_OK):
        raise InterpreterError(f"{python} cannot be executed")
    env = {name: os.environ[name] for name in _KEPT if os.environ.get(name)}
    try:
        done = subprocess.run(
            [str(python), "-I", "-c", _QUESTION],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=patience,
            check=False,
            env=env,
        )
    except subprocess.TimeoutExpired as error:
        raise InterpreterError(f"{python} did not tell its version within {patience:g} s") from error
    except OSError as error:
        raise InterpreterError(f"{python} cannot be started: {error.strerror}") from error
    try:
        answer = json.loads(done.stdout)
        version, installed = str(answer["version"]), dict(answer["installed"])
        prefix, folders = Path(answer["prefix"]), tuple(map(Path, answer["folders"]))
    except (ValueError, KeyError, TypeError) as error:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        last = f": {said[-1][:200]}" if said else ""
        raise InterpreterError(f"{python} is no Python of version 3.8 or newer{last}") from error
    if tuple(map(int, version.split(".")[:2])) < _OLDEST:
        raise InterpreterError(f"{python} is Python {version}; 3.8 is the oldest that jobs can run in")
    from amlocal.emulator.jobs.environment_pins import normalised

    return Interpreter(
        python, version, prefix, {normalised(name): text for name, text in installed.items()}, folders
    )
