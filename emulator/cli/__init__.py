"""The command line. Each command is a file; it is imported only when it is asked for."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "serve": "start the server",
    "stop": "stop the server; running jobs go on",
    "status": "tell whether the server runs, and where",
    "env": "print the environment that points a client at the server",
    "run": "run one command against a fresh server of its own",
    "workspace": "make workspaces of your own names answer",
    "datastore": "mount folders of this machine as datastores, without a copy",
    "lint": "check jobs and labelled images before they are submitted",
    "convert": "turn labelled images of COCO or Pascal VOC into what jobs read, and back",
    "weights": "list, check and get pretrained weights",
    "demo": "the whole path, from images to predictions, in a few minutes",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `amlocal`; exits with 0, or 1 and a message, or 2 for a wrong command line."""
    from amlocal.emulator.http.errors import AzureError
    from amlocal.emulator.settings import SettingsError

    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="amlocal", description="Azure Machine Learning on your own machine."
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, text in COMMANDS.items():
        # Only the chosen command's file is imported: the others would make every start slower.
        command = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        if name in arguments[:1]:
            module = importlib.import_module(f"amlocal.emulator.cli.{name}")
            module.configure(command)
            command.set_defaults(function=module.main)
    options = parser.parse_args(arguments)
    if options.version:
        from importlib import metadata

        print(metadata.version("amlocal"))
        return
    if options.command is None:
        parser.print_help()
        sys.exit(2)
    try:
        code = options.function(options)
    except (AzureError, SettingsError, CommandError) as error:
        print(f"amlocal: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        # A disk that is full, a folder that may not be written: nothing of ours is wrong, so no traceback.
        print(f"amlocal: {error.filename or 'system'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(code)


class CommandError(Exception):
    """A command cannot do what it was asked; the message says why and what to do."""


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """The option that every command has."""
    parser.add_argument("--data-dir", metavar="DIR", help="data folder (default: the user's data folder)")
