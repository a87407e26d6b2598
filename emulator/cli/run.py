"""`amlocal run -- CMD…`: a fresh server on free ports, CMD pointed at it, everything gone afterwards."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from amlocal.compat import environment
from amlocal.emulator.cli import CommandError, instance
from amlocal.emulator.cli.env import target_of
from amlocal.emulator.cli.serve import wait_ready
from amlocal.emulator.cli.workspace import add, names_of
from amlocal.emulator.processes import clean_environment
from amlocal.emulator.store.folder import DataFolder

_STOP_PATIENCE = 40.0


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "amlocal run [--workspace SUB/GROUP/NAME] [--weights-dir DIR] -- CMD…"
    parser.add_argument(
        "--workspace",
        metavar="SUB/GROUP/NAME",
        help="the workspace that CMD's code names (or its config.json)",
    )
    parser.add_argument("--weights-dir", metavar="DIR", help="folder with pretrained weights")
    parser.add_argument("--keep", metavar="DIR", help="use this data folder and keep it")
    parser.add_argument("command_line", nargs=argparse.REMAINDER, metavar="-- CMD…")


def main(options: argparse.Namespace) -> int:
    command = options.command_line
    if command[:1] == ["--"]:
        command = command[1:]
    if not command:
        raise CommandError("there is no command to run. For example: amlocal run -- python train.py")
    triple = "/".join(names_of(options.workspace)) if options.workspace else None
    root = Path(options.keep).absolute() if options.keep else Path(tempfile.mkdtemp(prefix="amlocal-run-"))
    folder = DataFolder(root)
    try:
        return with_server(folder, command, triple, options.weights_dir)
    finally:
        if not options.keep:
            shutil.rmtree(root, ignore_errors=True)


def with_server(folder: DataFolder, command: list[str], triple: str | None, weights_dir: str | None) -> int:
    """CMD's exit code; 128 + N when signal N ended it."""
    folder.create()
    port, _ = instance.free_ports()
    argv = [
        sys.executable,
        "-m",
        "amlocal.emulator.cli",
        "serve",
        "--data-dir",
        str(folder.root),
        "--port",
        str(port),
    ]
    if weights_dir:
        argv += ["--weights-dir", str(Path(weights_dir).absolute())]
    log = folder.logs / "supervisor.log"
    kept = {
        key: value
        for key, value in os.environ.items()
        if key.startswith(("AMLOCAL_", "PIP_", "PYTHON", "XDG_", "COVERAGE"))
    }
    kept.pop("AMLOCAL_DATA_DIR", None)
    log.touch(mode=0o600)
    with log.open("wb") as output:
        server = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True, env={**clean_environment(), **kept}, cwd="/",
        )  # fmt: skip
    try:
        wait_ready(server, port, folder.tls / "ca.pem", log)
        if triple:
            add(folder, triple)
        running = instance.read(folder)
        assert running is not None
        return run_command(command, environment.applied(target_of(folder, running, triple), os.environ))
    finally:
        server.terminate()
        try:
            server.wait(_STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        stop_jobs(folder)


def run_command(command: list[str], env: dict[str, str]) -> int:
    """Run CMD in the foreground; Ctrl-C reaches it, and we wait for how it takes that."""
    try:
        child = subprocess.Popen(command, env=env)
    except OSError as error:
        raise CommandError(f"cannot run {command[0]!r}: {error.strerror}.") from error
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    terminate = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    try:
        code = child.wait()
    finally:
        signal.signal(signal.SIGINT, previous)
        signal.signal(signal.SIGTERM, terminate)
    return code if code >= 0 else 128 - code


def stop_jobs(folder: DataFolder) -> None:
    """Jobs outlive a server; those of a server that is gone for good must not."""
    from amlocal.emulator.jobs.engines.local import LocalEngine

    engine = LocalEngine()
    attempts = []
    for spec in folder.jobs.glob("*/*/shim.json"):
        attempt = int(json.loads(spec.read_text())["attempt"])
        if engine.state(spec.parent, attempt).name == "running":
            attempts.append((spec.parent, attempt))
            engine.cancel(spec.parent, attempt)
    deadline = time.monotonic() + _STOP_PATIENCE
    while any(engine.state(job, attempt).name == "running" for job, attempt in attempts):
        if time.monotonic() > deadline:
            raise CommandError(f"jobs of this run did not end in {_STOP_PATIENCE:.0f} s: see {folder.jobs}")
        time.sleep(0.05)
