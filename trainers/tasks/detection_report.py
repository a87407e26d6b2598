"""What a trial of a detector leaves behind besides its model: documents, charts and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amlocal.trainers import files
from amlocal.trainers.progress import warn
from amlocal.trainers.tasks.detection_data import Half
from amlocal.trainers.tasks.detection_evaluation import Outcome

PER_LABEL = "train_artifacts/per_label_metrics.json"


def write_documents(
    folder: Path, documents: Mapping[str, Any], per_label: Sequence[Mapping[str, Any]]
) -> None:
    """Write `documents` (by file name), train_artifacts/per_label_metrics.json and the charts into the
    artifacts' `folder`. A chart that cannot be drawn costs a warning."""
    from amlocal.trainers import charts

    for name, document in documents.items():
        files.write_json(folder / name, document)
    if per_label:
        files.write_json(folder / PER_LABEL, list(per_label))
    try:
        charts.draw(documents, folder)
    except charts.ChartError as error:
        warn(str(error))


def draw_predictions(folder: Path, half: Half, seen: Outcome, labels: Sequence[str]) -> None:
    """Draw what was seen in some images of `half` beside what is in them. A picture that cannot be drawn
    costs a warning."""
    from amlocal.trainers.charts import ChartError, predictions

    shown = []
    for place in predictions.spread(len(seen.images)):
        entry = half.images[seen.images[place]][0]
        # The image was read a moment ago; where it no longer can be, that was told.
        for _, pixels, _ in half.get([entry]):
            source = half.sources[entry]
            shown.append(predictions.Shown(source, pixels, seen.truths[place], seen.found[place]))
    try:
        predictions.draw(shown, labels, folder)
    except ChartError as error:
        warn(str(error))
