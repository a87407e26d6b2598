"""`amlocal serve`: start the server, here or detached."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from amlocal.compat import cloud
from amlocal.emulator import settings as settings_module
from amlocal.emulator.cli import CommandError, add_data_dir, instance
from amlocal.emulator.cli.supervisor import START_TIMEOUT, Supervisor, on_signals, tail
from amlocal.emulator.processes import FileLock, clean_environment
from amlocal.emulator.settings import Settings
from amlocal.emulator.store.folder import DataFolder


def configure(parser: argparse.ArgumentParser) -> None:
    add_data_dir(parser)
    parser.add_argument(
        "--port",
        type=int,
        help=f"HTTPS port (default {settings_module.DEFAULT_PORT}); scoring uses the next one",
    )
    parser.add_argument(
        "--auth",
        choices=["strict", "loose"],
        help="loose accepts any bearer token, and for scoring any text in a key's place; none stays refused",
    )
    parser.add_argument("--weights-dir", metavar="DIR", help="folder with pretrained weights")
    parser.add_argument(
        "--allow-path",
        action="append",
        dest="allow_paths",
        metavar="DIR",
        help="folders below DIR may be mounted as datastores; may be given several times",
    )
    parser.add_argument(
        "--trust-pickle",
        choices=["always", "never"],
        help="never refuses to deploy models whose files can run code when they are loaded",
    )
    parser.add_argument("--detach", action="store_true", help="return once the server answers")


def main(options: argparse.Namespace) -> int:
    names = ("data_dir", "port", "auth", "weights_dir", "allow_paths", "trust_pickle")
    flags = {key: getattr(options, key) for key in names}
    settings = settings_module.load(flags)
    folder = DataFolder(settings.data_dir)
    folder.create()
    if options.detach:
        return detach(settings, folder)
    return foreground(settings, folder)


def foreground(settings: Settings, folder: DataFolder) -> int:
    """Serve until SIGTERM or SIGINT."""
    lock = FileLock(folder.root / instance.LOCK)
    if not lock.acquire():
        raise CommandError(already_running(folder))
    try:
        before = instance.read(folder)
        if before is not None:
            # Of a server that was killed; its sockets lead nowhere.
            shutil.rmtree(before.run_dir, ignore_errors=True)
        wait_for_ports(settings)
        supervisor = Supervisor(settings, folder)
        lock.write(str(os.getpid()))
        instance.Instance(
            pid=os.getpid(),
            port=settings.port,
            router_port=settings.router_port,
            run_dir=str(supervisor.run_dir),
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        ).write(folder)
        on_signals(supervisor.request_stop)
        try:
            supervisor.start()
            print(banner(settings), flush=True)
            supervisor.run()
        finally:
            supervisor.stop()
    finally:
        lock.release()
    return 0


def wait_for_ports(settings: Settings, patience: float = 10.0) -> None:
    """The ports must be free; those of a server killed a moment ago get free as its processes end."""
    deadline = time.monotonic() + patience
    while (busy := instance.busy_port(settings.port, settings.router_port)) is not None:
        answering = instance.health(settings.port, settings.data_dir / "tls" / "ca.pem")
        if time.monotonic() > deadline or (
            answering is None and time.monotonic() > deadline - patience + 3.0
        ):
            raise CommandError(
                f"port {busy} is in use by another program. "
                f"Choose another one: amlocal serve --port PORT (PORT and PORT+1 must be free)."
            )
        time.sleep(0.1)


def already_running(folder: DataFolder) -> str:
    running = instance.read(folder)
    if running is None:
        return f"another server is starting on {folder.root}."
    return (
        f"a server (process {running.pid}, {running.base_url}) already uses {folder.root}. "
        f"Stop it with: amlocal stop --data-dir {folder.root}"
    )


def detach(settings: Settings, folder: DataFolder) -> int:
    """Start the server in the background and return when it answers."""
    if instance.is_running(folder):
        raise CommandError(already_running(folder))
    log = folder.logs / "supervisor.log"
    environment = {
        **clean_environment(),
        **{k: v for k, v in os.environ.items() if k.startswith(("AMLOCAL_", "PIP_", "PYTHON", "XDG_"))},
    }
    argv = [
        sys.executable, "-m", "amlocal.emulator.cli", "serve",
        "--data-dir", str(settings.data_dir), "--port", str(settings.port), "--auth", settings.auth,
        "--trust-pickle", settings.trust_pickle,
    ]  # fmt: skip
    if settings.weights_dir:
        argv += ["--weights-dir", str(settings.weights_dir)]
    for allowed in settings.allow_paths:
        argv += ["--allow-path", str(allowed)]
    log.touch(mode=0o600)
    with log.open("wb") as output:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True, env=environment, cwd="/",
        )  # fmt: skip
    wait_ready(child, settings.port, folder.tls / "ca.pem", log)
    print(banner(settings))
    return 0


def wait_ready(child: subprocess.Popen[bytes], port: int, authority: Path, log: Path) -> None:
    """Wait until the server started as `child` answers. Raises CommandError with the end of its log."""
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        if child.poll() is not None:
            raise CommandError(f"the server could not start:\n{tail(log)}")
        # The banner comes when all processes are up, and so cannot be another server's answer.
        if log.exists() and b"amlocal is ready" in log.read_bytes() and instance.health(port, authority):
            return
        if time.monotonic() > deadline:
            raise CommandError(f"the server did not answer in {START_TIMEOUT:.0f} s: see {log}")
        time.sleep(0.03)


def banner(settings: Settings) -> str:
    """What the user needs to know to go on."""
    return "\n".join(
        [
            f"amlocal is ready at {settings.base_url} (scoring: {settings.router_url})",
            f"  data folder   {settings.data_dir}",
            f"  subscription  {cloud.SUBSCRIPTION_ID}",
            f"  group         {cloud.RESOURCE_GROUP}",
            f"  workspace     {cloud.WORKSPACE}    (more: amlocal workspace add SUBSCRIPTION/GROUP/NAME)",
            '  point a shell at it:  eval "$(amlocal env)"',
        ]
    )
