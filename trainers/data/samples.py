"""The manifest: which images, with which labels; the split; and what was dropped on the way."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

from amlocal.trainers import files
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.progress import warn

_SHOWN = 20

T = TypeVar("T")

Region = tuple[float, float, float, float]
"""A part of an image: left, top, right, bottom in shares (0 to 1) of its upright width and height."""
WHOLE: Region = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Sample:
    """One image. `labels` is one class in multi-class data, any number of them (each once) in multi-label
    data; `source` is the file:line that named it; `region`: the only part of the image that is meant."""

    path: Path
    etag: str
    labels: tuple[str, ...]
    source: str
    region: Region | None = None


S = TypeVar("S", bound=Sample)


@dataclass(frozen=True)
class Dropped:
    """One row that is not used, and why."""

    source: str
    reason: str

    def as_dict(self) -> dict[str, Any]:
        file, _, line = self.source.rpartition(":")
        if not file or not line.isdigit():
            return {"file": self.source, "line": None, "reason": self.reason}
        return {"file": file, "line": int(line), "reason": self.reason}


def manifest_rows(path: Path, parse: Callable[[Any], T]) -> Iterator[T]:
    """What `parse` makes of each line of a manifest. Raises TrainingError naming the line where that raises
    KeyError, TypeError or ValueError."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise TrainingError(f"cannot read the manifest {path}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parse(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise TrainingError(f"{path}:{number} is not a manifest row ({error})") from error
        yield row


def read_manifest(path: Path, *, multilabel: bool) -> list[Sample]:
    """The samples of a manifest; of several rows for one image the last one counts (Azure's rule).

    Raises TrainingError naming file and line, also for a label that does not fit the kind of data.
    """

    def parse(row: Any) -> Sample:
        source = str(row["source"])
        return Sample(Path(row["path"]), str(row["etag"]), _labels(row["label"], source, multilabel), source)

    found: dict[Path, Sample] = {}
    for sample in manifest_rows(path, parse):
        # Taken out first, so that the later row also stands where it was written.
        found.pop(sample.path, None)
        found[sample.path] = sample
    return list(found.values())


def _labels(value: Any, source: str, multilabel: bool) -> tuple[str, ...]:
    if not multilabel:
        if not isinstance(value, str):
            raise TrainingError(f"{source}: the label of a multi-class image must be one text")
        return (value,)
    if not isinstance(value, list) or not all(isinstance(label, str) for label in value):
        raise TrainingError(f"{source}: the label of a multi-label image must be a list of texts")
    return tuple(dict.fromkeys(value))


def split(samples: Sequence[S], share: float, seed: int | None) -> tuple[list[S], list[S]]:
    """Training and validation samples at random, not by class, as Azure splits; `share` goes to validation,
    rounded up as scikit-learn does, and each half gets one image at least.

    Without a seed the images themselves give one. So the trials of a sweep, which draw seeds of their own,
    are measured on the same validation images and share what is decoded; the halves are no less random.

    Raises TrainingError when there are fewer than two.
    """
    from sklearn.model_selection import train_test_split

    if len(samples) < 2:
        raise TrainingError("at least 2 images are needed to split off validation data; give validation_data")
    wanted = min(max(1, math.ceil(len(samples) * share)), len(samples) - 1)
    if seed is None:
        seed = crc32("\n".join(str(row.path) for row in samples).encode("utf-8", "surrogateescape"))
    train, validation = train_test_split(list(samples), test_size=wanted, random_state=seed % 2**32)
    return train, validation


def write_split(
    folder: Path, train: Sequence[Sample], validation: Sequence[Sample], *, multilabel: bool = False
) -> None:
    """train_df.csv and val_df.csv as Azure leaves them: image, tab, label, no header. The labels of
    multi-label data stand in one cell, as a list that JSON and Python read alike."""
    for name, rows in (("train_df.csv", train), ("val_df.csv", validation)):
        text = "".join(f"{_cell(str(row.path))}\t{_cell(_shown(row, multilabel))}\n" for row in rows)
        files.write_text(folder / name, text)


def _shown(row: Sample, multilabel: bool) -> str:
    single = not multilabel and len(row.labels) == 1
    return row.labels[0] if single else json.dumps(row.labels, ensure_ascii=False)


def _cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in '\t\n\r"') else text


def report(target: Path, earlier: Path | None, dropped: Sequence[Dropped]) -> None:
    """Write data_report.json: the report made while the job was prepared, plus what could not be read now."""
    for row in dropped[:_SHOWN]:
        warn(f"{row.source} is left out: {row.reason}")
    if len(dropped) > _SHOWN:
        warn(f"{len(dropped) - _SHOWN} more images are left out; all are listed in outputs/data_report.json")
    merged: dict[str, Any] = {}
    if earlier is not None and earlier.exists():
        merged = json.loads(earlier.read_text(encoding="utf-8"))
    known = {(row.get("file"), row.get("line")) for row in merged.get("dropped", [])}
    new = [row for row in (item.as_dict() for item in dropped) if (row["file"], row["line"]) not in known]
    merged["dropped"] = [*merged.get("dropped", []), *new]
    files.write_json(target, merged)
