"""Pictures of a sweep: `python -m amlocal.trainers leaderboard SPEC`.

    metric_over_time.png        the primary metric of each trial, interval by interval, and the best so far
                                over time where the times are known
    parallel_coordinates.png    the hyperparameters of each trial as a line that ends at its score

SPEC is JSON: job (a name for the title), metric, maximize, start (ms since 1970), folder (where the pictures
go), trials: best first, each with trial, rank, status, score, parameters (by name), values (of the metric,
oldest first), times (ms since 1970, one for each value) or null.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from amlocal.trainers.errors import TrainingError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def run(path: Path) -> list[Path]:
    """Draw the pictures that SPEC asks for; the files. Raises TrainingError after trying all of them."""
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
        folder, trials = Path(spec["folder"]), [dict(trial) for trial in spec["trials"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path} is no description of a sweep: {error!r}") from error
    from amlocal.trainers.charts import page, sweep

    pictures: dict[str, Callable[[], Figure | None]] = {
        "metric_over_time": lambda: sweep.metric_over_time(spec, trials),
        "parallel_coordinates": lambda: sweep.parallel_coordinates(spec, trials),
    }
    written, failures = [], []
    with page.settings():
        for name, make in pictures.items():
            try:
                figure = make()
                if figure is not None:
                    page.save(figure, folder / f"{name}.png")
                    written.append(folder / f"{name}.png")
            except Exception as error:  # one picture must not cost the other
                failures.append(f"{name}.png: {type(error).__name__}: {error}")
    if failures:
        raise TrainingError("; ".join(failures))
    return written
