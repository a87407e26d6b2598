"""`python -m amlocal.trainers train SPEC`: exit code 0 = completed, 1 = failed (the last lines say why), 2 =
usage."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from pathlib import Path

from amlocal.trainers import progress, spec
from amlocal.trainers.errors import TrainingError


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m amlocal.trainers", description="Train image models.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="run one trial")
    train.add_argument("spec", type=Path, metavar="SPEC", help="the trial's spec.json")
    arguments = parser.parse_args(argv)
    return _train(arguments.spec)


def _train(path: Path) -> int:
    # Idle OpenMP threads spin for long by default; beside a server on few cores that halves the speed.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        loaded = spec.load(path)
        progress.say("loading PyTorch")
        from amlocal.trainers import trial

        shipper = trial.run(loaded)
    except TrainingError as error:
        progress.say(f"ERROR: {error}")
        return 1
    except MemoryError:
        progress.say("ERROR: not enough memory; reduce training_batch_size or the crop sizes")
        return 1
    except Exception as error:
        traceback.print_exc()
        progress.flush()
        progress.say(f"ERROR: {_explain(error)}")
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
            "there is not enough GPU memory; reduce training_batch_size, validation_batch_size or crop sizes "
            f"({str(error).splitlines()[0]})"
        )
    return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(main())
