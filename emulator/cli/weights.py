"""`amlocal weights list|check|pull`: pretrained weights on this machine."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from amlocal.emulator import settings as settings_module
from amlocal.emulator.cli import CommandError, add_data_dir
from amlocal.emulator.processes import clean_environment
from amlocal.emulator.settings import Settings
from amlocal.emulator.store.folder import DataFolder

_LONGEST = 200


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|check|pull")
    listing = actions.add_parser("list", help="every model that is known, and where its weights are")
    check = actions.add_parser("check", help="open weights and put them into their networks")
    check.add_argument("names", nargs="*", metavar="NAME", help="a model (default: all that are found)")
    pull = actions.add_parser("pull", help="get weights from the hub, or from elsewhere")
    pull.add_argument("names", nargs="+", metavar="NAME", help="a model, or a Hugging Face org/name")
    pull.add_argument(
        "--from", dest="source", metavar="FILE|FOLDER|URL", help="where one model's files are instead"
    )
    pull.add_argument(
        "--model-size",
        metavar="SIZE",
        help="of a model with a file for each of its sizes: small, medium, large, extra_large",
    )
    pull.add_argument("--force", action="store_true", help="replace weights that are there")
    for action in (listing, check, pull):
        action.add_argument("--weights-dir", metavar="DIR", help="the weights folder, as given to `serve`")
        add_data_dir(action)


def main(options: argparse.Namespace) -> int:
    settings = settings_module.load({"data_dir": options.data_dir, "weights_dir": options.weights_dir})
    folder = weights_dir_of(settings)
    try:
        if options.action == "list":
            return _list(folder)
        _check_names(options.names)
        if options.action == "check":
            return _check(folder, options.names)
        if settings.weights_dir is None:
            DataFolder(settings.data_dir).create()
        return _pull(folder, options.names, options.source, options.model_size, options.force)
    except ValueError as error:
        raise CommandError(f"{error}.") from error


def weights_dir_of(settings: Settings) -> Path:
    """The weights folder: the setting, or the one in the data folder."""
    return settings.weights_dir or settings.data_dir / "weights"


def _check_names(names: list[str]) -> None:
    from amlocal.compat import weights

    for name in names:
        if len(name) > _LONGEST:
            raise CommandError(f"{name[:_LONGEST]!r}... is too long for a model's name.")
        weights.row_of(name)


def _list(folder: Path) -> int:
    from amlocal.compat import weights

    print(f"weights folder: {folder}")
    models = weights.known(folder)
    width = max(map(len, models))
    for name, given in ((model, given) for model in models for given in weights.variants(model)):
        found = weights.find(name, folder, parameters=given)
        if found is not None:
            where = "weights folder" if found == weights.find_own(name, folder, given) else "hub's cache"
            print(f"{name:<{width}}  {_megabytes(found.stat().st_size):>8}  {where:<14}  {found}")
        else:
            million = weights.row_of(name).parameters
            size = f"~{_megabytes(million * 4e6)}" if million and not given else ""
            file = f"  {folder / weights.sized(weights.row_of(name).weights, given)}" if given else ""
            print(f"{name:<{width}}  {size:>8}  missing{' ' * 7 if file else ''}{file}")
    return 0


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.0f} MB"


def _check(folder: Path, names: list[str]) -> int:
    from amlocal.compat import weights

    names = names or [name for name in weights.known(folder) if _there(name, folder)]
    if not names:
        print(f"No weights were found, neither in {folder} nor in the hub's cache.")
        return 0
    argv = [sys.executable, "-m", "amlocal.trainers", "check-weights", "--weights-dir", str(folder), *names]
    code = subprocess.run(
        argv, stdin=subprocess.DEVNULL, check=False, env=clean_environment(), cwd="/"
    ).returncode
    if code < 0:
        raise CommandError(f"the check was ended by signal {-code} at the model after the last one above.")
    return code


def _there(name: str, folder: Path) -> bool:
    from amlocal.compat import weights

    return any(weights.find(name, folder, parameters=given) for given in weights.variants(name))


def _pull(folder: Path, names: list[str], source: str | None, size: str | None, force: bool) -> int:
    from amlocal.compat import weights
    from amlocal.emulator.cli import weights_pull

    parameters = {} if size is None else {"model_size": size}
    for name in names if parameters else ():
        if parameters not in weights.variants(name):
            known = ", ".join(given["model_size"] for given in weights.variants(name) if given)
            wrong = f"has the sizes {known}" if known else "has one file only"
            raise CommandError(f"{name} {wrong}; --model-size {str(size)[:_LONGEST]!r} is none of it.")
    if source is not None and len(names) != 1:
        raise CommandError("--from takes the files of one model; give one NAME.")
    for name in names:
        weights_pull.pull(folder, name, source, force=force, parameters=parameters)
    return 0
