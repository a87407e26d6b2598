"""ultralytics' own trainer on yolov5, in a process of its own, since importing it changes much.

`python -m amlocal.trainers.bench.ultralytics_loop ORDER ASKED ANSWERS` trains until the pipe ASKED (a file
descriptor) ends. For each line there, a number of seconds, it goes on training for that long and writes a
line to ANSWERS: how many images it took, and the seconds. In between it waits. It looks nothing up on the
network and logs to nobody.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from amlocal.trainers.bench.measuring import WARM_UP, Window, settle
from amlocal.trainers.errors import TrainingError

_LOGGERS = ("clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb")
_FONTS = ("Arial.ttf", "Arial.Unicode.ttf")
_TOLD = 2000
"""Characters of what it said that an error repeats."""


@dataclass(frozen=True)
class Orders:
    """What to train: YOLOv5u of `scale` (n, s, m, l, x) on the set that `data` describes. `precision`: fp32
    or bf16."""

    data: str
    scale: str
    image_size: int
    batch: int
    threads: int
    device: str
    precision: str


class Ultralytics:
    """Its trainer as a contestant; use as a context."""

    workers = 0

    def __init__(self, name: str, orders: Orders) -> None:
        self.name = name
        self.workers = orders.threads if orders.device == "cuda" else 0
        self._orders = orders

    def __enter__(self) -> Ultralytics:
        self._folder = tempfile.TemporaryDirectory(prefix="amlocal-bench-")
        folder = Path(self._folder.name)
        (folder / "orders.json").write_text(json.dumps(asdict(self._orders)), encoding="utf-8")
        asked, self._ask = os.pipe()
        self._answers, answers = os.pipe()
        argv = [sys.executable, "-m", __name__, str(folder / "orders.json"), str(asked), str(answers)]
        with (folder / "said").open("wb") as said:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                pass_fds=(asked, answers),
                env=environment(folder),
            )
        os.close(asked)
        os.close(answers)
        self._lines = os.fdopen(self._answers, encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._ask)
        self._lines.close()
        self._process.wait()
        self._folder.cleanup()

    def window(self, seconds: float) -> Window:
        try:
            os.write(self._ask, f"{seconds}\n".encode())
        except BrokenPipeError:
            raise self._failed() from None
        line = self._lines.readline()
        if not line:
            raise self._failed()
        return Window(*json.loads(line))

    def _failed(self) -> TrainingError:
        self._process.wait()
        said = (Path(self._folder.name) / "said").read_text(encoding="utf-8", errors="replace").strip()
        return TrainingError(f"ultralytics' trainer ended: {said[-_TOLD:] or self._process.returncode}")


def environment(folder: Path) -> dict[str, str]:
    """For its process: settings and results in `folder`, no look at the network, no MLflow."""
    found = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return found | {
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_VERBOSE": "false",
        "YOLO_CONFIG_DIR": str(folder),
    }


class _Windows:
    """Counts images in windows that are asked for, from inside the trainer's loop. `batch`: images of the
    latest batch."""

    def __init__(self, asked: IO[str], answers: IO[str], orders: Orders) -> None:
        self._asked, self._answers, self._orders = asked, answers, orders
        self._seconds = 0.0
        self._steps = self._images = 0
        self._begin: float | None = None
        self.batch = 0

    def begins(self, trainer: Any) -> None:
        import torch

        # It would leave one CPU alone.
        torch.set_num_threads(self._orders.threads)
        self._wait()

    def _wait(self) -> None:
        line = self._asked.readline()
        if not line:
            raise _Over
        self._seconds = float(line)
        self._steps = self._images = 0
        self._begin = None

    def step_ends(self, trainer: Any) -> None:
        self._steps += 1
        if self._begin is None:
            if self._steps == WARM_UP:
                self._begin = settle(trainer.device)
            return
        self._images += self.batch
        if time.perf_counter() - self._begin >= self._seconds:
            passed = settle(trainer.device) - self._begin
            self._answers.write(json.dumps([self._images, passed]) + "\n")
            self._answers.flush()
            self._wait()


class _Over(Exception):
    """Nobody asks for more."""


def main(argv: Sequence[str]) -> int:
    """The process' own life."""
    import torch

    orders = Orders(**json.loads(Path(argv[0]).read_text(encoding="utf-8")))
    torch.set_num_threads(orders.threads)
    _fonts(Path(os.environ["YOLO_CONFIG_DIR"]))
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.utils import SETTINGS

    SETTINGS.update(dict.fromkeys(_LOGGERS, False))
    with os.fdopen(int(argv[1]), encoding="utf-8") as asked, os.fdopen(int(argv[2]), "w") as answers:
        windows = _Windows(asked, answers, orders)

        class CountedTrainer(DetectionTrainer):
            def preprocess_batch(self, batch: Any) -> Any:
                windows.batch = len(batch["img"])
                return super().preprocess_batch(batch)

        trainer = CountedTrainer(overrides=_overrides(orders))
        trainer.add_callback("on_train_start", windows.begins)
        trainer.add_callback("on_train_batch_end", windows.step_ends)
        try:
            trainer.train()
        except _Over:
            return 0
    raise TrainingError("ultralytics' trainer ended before it was told to")


def _overrides(orders: Orders) -> dict[str, Any]:
    """Its own defaults for mosaic, colours and the like; each batch one step of SGD at a rate too small to
    explode; nothing written, drawn or validated."""
    return {
        "model": f"yolov5{orders.scale}.yaml",
        "data": orders.data,
        "imgsz": orders.image_size,
        "batch": orders.batch,
        "nbs": orders.batch,
        "workers": orders.threads,
        "device": orders.device if orders.device == "cpu" else "0",
        "amp": "bf16" if orders.precision == "bf16" else False,
        "epochs": 10**6,
        "patience": 10**6,
        "close_mosaic": 0,
        "optimizer": "SGD",
        "lr0": 1e-5,
        "warmup_epochs": 0,
        "pretrained": False,
        "deterministic": False,
        "val": False,
        "save": False,
        "plots": False,
        "verbose": False,
        "project": os.environ["YOLO_CONFIG_DIR"],
    }


def _fonts(folder: Path) -> None:
    """It downloads a font to draw with; nothing is drawn here, so any does."""
    from matplotlib import font_manager

    any_font = font_manager.findfont("DejaVu Sans")
    place = folder / "Ultralytics"
    place.mkdir()
    for name in _FONTS:
        (place / name).symlink_to(any_font)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
