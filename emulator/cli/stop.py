"""`amlocal stop`: end the server. Jobs outlive it and are taken up again by the next `serve`."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import time

from amlocal.emulator import settings as settings_module
from amlocal.emulator.cli import CommandError, add_data_dir, instance
from amlocal.emulator.store.folder import DataFolder

_PATIENCE = 40.0


def configure(parser: argparse.ArgumentParser) -> None:
    add_data_dir(parser)


def main(options: argparse.Namespace) -> int:
    folder = DataFolder(settings_module.load({"data_dir": options.data_dir}).data_dir)
    if not instance.is_running(folder):
        print(f"No server runs on {folder.root}.")
        return 0
    running = instance.read(folder)
    if running is None:
        raise CommandError(f"a server is just starting on {folder.root}; try again in a moment.")
    with contextlib.suppress(ProcessLookupError):
        os.kill(running.pid, signal.SIGTERM)
    deadline = time.monotonic() + _PATIENCE
    while instance.is_running(folder):
        if time.monotonic() > deadline:
            raise CommandError(
                f"process {running.pid} did not end in {_PATIENCE:.0f} s. End it with: kill -9 {running.pid}"
            )
        time.sleep(0.05)
    print("Stopped.")
    return 0
