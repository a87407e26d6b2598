"""`python -m amlocal.trainers train SPEC`: exit code 0 = completed, 1 = failed (the last lines say why), 2 =
usage."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from pathlib import Path

from amlocal.trainers import progress, spec
from amlocal.trainers.bench import arguments as bench_arguments
from amlocal.trainers.errors import TrainingError


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m amlocal.trainers", description="Train image models.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="run one trial")
    train.add_argument("spec", type=Path, metavar="SPEC", help="the trial's spec.json")
    warm = commands.add_parser("warm", help="wait, with everything imported, and fork a process per trial")
    warm.add_argument("socket", type=Path, metavar="SOCKET", help="where to listen, in a folder of mode 0700")
    warm.add_argument(
        "--idle", type=float, default=600.0, metavar="SECONDS", help="end after so long without a trial"
    )
    warm.add_argument(
        "--lifeline",
        type=int,
        metavar="FD",
        default=os.environ.get("AMLOCAL_LEASH_FD"),
        help="a pipe; at its end the last trials finish, then this ends (default: AMLOCAL_LEASH_FD)",
    )
    warm.add_argument(
        "--listener", type=int, metavar="FD", help="the listening socket, where the starter has opened it"
    )
    convert = commands.add_parser("convert", help="write the tensors of a .pt, .pth or .bin as safetensors")
    convert.add_argument("source", type=Path, metavar="IN", help="the pickle; no code in it is run")
    convert.add_argument("target", type=Path, metavar="OUT", help="the safetensors file to write")
    check = commands.add_parser("check-weights", help="put weights into their networks, to see that they fit")
    check.add_argument("names", nargs="+", metavar="NAME", help="a model")
    check.add_argument("--weights-dir", type=Path, metavar="DIR", help="the weights folder")
    bench = commands.add_parser("bench", help="measure how fast training is on this machine")
    bench_arguments.add_arguments(bench)
    leaderboard = commands.add_parser("leaderboard", help="draw the pictures of a sweep")
    leaderboard.add_argument("spec", type=Path, metavar="SPEC", help="its trials, as JSON")
    arguments = parser.parse_args(argv)
    if arguments.command == "bench":
        return _bench(arguments)
    if arguments.command == "convert":
        return _convert(arguments.source, arguments.target)
    if arguments.command == "check-weights":
        return _check_weights(arguments.names, arguments.weights_dir)
    if arguments.command == "warm":
        return _warm(arguments)
    if arguments.command == "leaderboard":
        return _leaderboard(arguments.spec)
    return _train(arguments.spec)


def _bench(arguments: argparse.Namespace) -> int:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as for a trial
    try:
        wanted = bench_arguments.order(arguments)
        from amlocal.trainers.bench import command

        return command.run(wanted)
    except TrainingError as error:
        progress.error(str(error))
        return 1


def _warm(arguments: argparse.Namespace) -> int:
    from amlocal.trainers import warm

    try:
        return warm.serve(
            arguments.socket,
            lambda argv: main(["train", *argv]),
            idle=arguments.idle,
            lifeline=arguments.lifeline,
            listener=arguments.listener,
        )
    except TrainingError as error:
        progress.error(str(error))
        return 1


def _convert(source: Path, target: Path) -> int:
    from amlocal.trainers.models import convert

    try:
        convert.limit(source)
        count = convert.convert(source, target)
    except TrainingError as error:
        progress.error(str(error))
        return 1
    except MemoryError:
        progress.error(f"{source} needs more memory than a file of its size should")
        return 1
    progress.say(f"{count} tensors")
    return 0


def _check_weights(model_names: list[str], weights_dir: Path | None) -> int:
    from amlocal.trainers.models import weight_check

    return weight_check.run(model_names, weights_dir)


def _leaderboard(path: Path) -> int:
    from amlocal.trainers import leaderboard

    try:
        drawn = leaderboard.run(path)
    except TrainingError as error:
        progress.error(str(error))
        return 1
    progress.say(f"{len(drawn)} pictures")
    return 0


def _train(path: Path) -> int:
    # Idle OpenMP threads spin for long by default; beside a server on few cores that halves the speed.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        loaded = spec.load(path)
        if "torch" not in sys.modules:
            progress.say("loading PyTorch")
        from amlocal.trainers import ranks

        progress.set_level(loaded.log_verbosity)
        plan = ranks.here(distributed=loaded.parameters["distributed"], nodes=loaded.node_count)
        if plan.notice:
            progress.say(plan.notice)
        if plan.processes > 1:
            ranks.train(path, plan.processes)
            return 0
        from amlocal.trainers import trial

        shipper = trial.run(loaded)
    except TrainingError as error:
        progress.error(str(error))
        return 1
    except MemoryError:
        progress.error("not enough memory; reduce training_batch_size or image sizes")
        return 1
    except Exception as error:
        traceback.print_exc()
        progress.flush()
        progress.error(_explain(error))
        return 1
    if shipper.busy:
        # A thread deep in a network call can crash the interpreter's shutdown; everything is on disk already.
        progress.flush()
        os._exit(0)
    return 0


def _explain(error: Exception) -> str:
    import torch

    if isinstance(error, torch.cuda.OutOfMemoryError):
        return (
            "there is not enough GPU memory; reduce training_batch_size, validation_batch_size or image "
            f"sizes ({str(error).splitlines()[0]})"
        )
    return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(main())
