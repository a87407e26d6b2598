"""`amlocal weights pull`: a model's files into the weights folder under their documented names."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from amlocal.compat import weights
from amlocal.emulator.cli import CommandError, weights_files
from amlocal.emulator.cli.weights_sources import WEIGHTS, source_of
from amlocal.emulator.processes import clean_environment

_LARGEST_DESCRIPTION = 8 << 20

Stage = Callable[[tuple[str, ...], Path], Path | None]


def pull(
    weights_dir: Path,
    model_name: str,
    given: str | None,
    *,
    force: bool,
    parameters: Mapping[str, str] | None = None,
) -> None:
    """Get every file of a model, then put them in place, the weights last.

    `given` is the value of --from, `parameters` which of a model's sizes is meant. Raises CommandError,
    OSError; nothing half-made is left in either case.
    """
    row = weights.row_of(model_name)
    target = weights_dir / weights.sized(row.weights, parameters)
    if weights.find_own(model_name, weights_dir, parameters) is not None and not force:
        print(f"{model_name} is there already: {target} (--force gets it anew)")
        return
    address = "" if row.hub else weights.sized(row.url, parameters)
    if not (given or row.hub or address) and not weights.is_folder(model_name):
        raise CommandError(f"nothing says where the weights of {model_name} are; use --from FILE or URL.")
    source = source_of(given or address or None, row.hub)
    origins: dict[Path, str] = {}
    done: list[tuple[Path, Path]] = []
    with ExitStack() as stack:

        def stage(names: tuple[str, ...], place: Path) -> Path | None:
            temporary = stack.enter_context(weights_files.staging(weights_dir, place))
            origin = source.fetch(names, temporary)
            if origin is None:
                return None
            origins[place] = origin
            return temporary

        if weights.is_folder(model_name):
            done += _description(weights_dir, model_name, target.parent, stage)
        got = stage(WEIGHTS, target)
        if got is None:
            raise CommandError(f"{given or row.hub or address} has neither {' nor '.join(WEIGHTS)}.")
        done.append((_usable(stack, weights_dir, got, target, origins[target]), target))
        for temporary, place in done:
            digest = weights_files.sha256(temporary)
            weights_files.put(temporary, place)
            print(f"{place}\n  sha256 {digest}\n  from {origins[place]}", flush=True)


def _description(weights_dir: Path, model_name: str, folder: Path, stage: Stage) -> list[tuple[Path, Path]]:
    """config.json and preprocessor_config.json, those that are there."""
    found = []
    for name in (weights.CONFIG, weights.PREPROCESSOR):
        temporary = stage((name,), folder / name)
        if temporary is not None:
            _check_json(temporary, name)
            found.append((temporary, folder / name))
        elif (
            name == weights.CONFIG
            and weights.needs_config(model_name)
            and not weights.has_own_config(model_name, weights_dir)
        ):
            raise CommandError(
                f"there is no {name} of {model_name} in it, and nothing else says how the network is built. "
                f"Use --from with a folder that holds {name} and {WEIGHTS[0]}."
            )
    return found


def _check_json(path: Path, name: str) -> None:
    if path.stat().st_size > _LARGEST_DESCRIPTION:
        raise CommandError(f"{name} is larger than {_LARGEST_DESCRIPTION >> 20} MB, so it is none.")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{name} is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise CommandError(f"{name} is JSON, but no object.")


def _usable(stack: ExitStack, weights_dir: Path, got: Path, target: Path, origin: str) -> Path:
    """The file itself where it is safetensors, or a converted one beside it."""
    wrong = weights_files.problem(got)
    if wrong is None:
        return got
    if not weights_files.is_pickle(got):
        raise CommandError(f"{origin} cannot be used: {wrong}.")
    made = stack.enter_context(weights_files.staging(weights_dir, target))
    print(f"converting {origin} to safetensors", flush=True)
    _convert(got, made, origin)
    wrong = weights_files.problem(made)
    if wrong is not None:
        raise CommandError(f"{origin} could not be converted: {wrong}.")
    return made


def _convert(source: Path, target: Path, origin: str) -> None:
    """In a process of its own: a pickle is read by PyTorch, under limits, with nothing of ours around it."""
    done = subprocess.run(
        [sys.executable, "-m", "amlocal.trainers", "convert", str(source), str(target)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
        env=clean_environment(), cwd="/",
    )  # fmt: skip
    if done.returncode == 0:
        return
    if done.returncode < 0:
        raise CommandError(
            f"{origin} could not be converted: signal {-done.returncode} ended the conversion, whose "
            "memory and time are limited."
        )
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()] or ["no reason given"]
    raise CommandError(lines[-1].removeprefix("ERROR: ").replace(str(source), origin))
