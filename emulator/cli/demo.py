"""`amlocal demo`: the plain SDK script of the fixtures, run against a fresh server."""

from __future__ import annotations

import argparse
import sys
from importlib import resources

from amlocal.emulator.cli import run


def configure(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(workspace=None, weights_dir=None, keep=None)


def main(options: argparse.Namespace) -> int:
    with resources.as_file(resources.files("amlocal.fixtures") / "demo.py") as script:
        options.command_line = [sys.executable, str(script)]
        return run.main(options)
