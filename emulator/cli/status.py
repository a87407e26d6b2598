"""`amlocal status`: whether the server runs, where, and since when. Exit code 0 if it answers, 3 if not."""

from __future__ import annotations

import argparse

from amlocal.emulator import settings as settings_module
from amlocal.emulator.cli import add_data_dir, instance
from amlocal.emulator.store.folder import DataFolder


def configure(parser: argparse.ArgumentParser) -> None:
    add_data_dir(parser)


def main(options: argparse.Namespace) -> int:
    folder = DataFolder(settings_module.load({"data_dir": options.data_dir}).data_dir)
    running = instance.read(folder)
    if running is None or not instance.is_running(folder):
        print(f"No server runs on {folder.root}. Start one with: amlocal serve")
        return 3
    answer = instance.health(running.port, folder.tls / "ca.pem")
    if answer is None:
        print(
            f"Process {running.pid} holds {folder.root} but does not answer at {running.base_url}: "
            f"see {folder.logs}."
        )
        return 3
    print(
        f"Running at {running.base_url} since {running.started_at} "
        f"(process {running.pid}, version {answer['version']})."
    )
    print(f"Data folder: {folder.root}")
    return 0
