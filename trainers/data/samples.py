"""The manifest: which images, with which labels; the split; and what was dropped on the way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amlocal.trainers import files
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.progress import warn

_SHOWN = 20


@dataclass(frozen=True)
class Sample:
    """One image. `source` is the file:line that named it."""

    path: Path
    etag: str
    label: str
    source: str


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


def read_manifest(path: Path) -> list[Sample]:
    """The samples of a manifest; of several rows for one image the last one counts (Azure's rule).

    Raises TrainingError naming file and line.
    """
    found: dict[Path, Sample] = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise TrainingError(f"cannot read the manifest {path}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            sample = Sample(Path(row["path"]), str(row["etag"]), row["label"], str(row["source"]))
        except (ValueError, KeyError, TypeError) as error:
            raise TrainingError(f"{path}:{number} is not a manifest row ({error})") from error
        if not isinstance(sample.label, str):
            raise TrainingError(f"{sample.source}: the label of a multi-class image must be one text")
        found[sample.path] = sample
    return list(found.values())


def split(samples: Sequence[Sample], share: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Training and validation samples at random, not by class, as Azure splits; `share` goes to validation.

    Raises TrainingError when there are fewer than two.
    """
    from sklearn.model_selection import train_test_split

    if len(samples) < 2:
        raise TrainingError("at least 2 images are needed to split off validation data; give validation_data")
    wanted = min(max(1, round(len(samples) * share)), len(samples) - 1)
    train, validation = train_test_split(list(samples), test_size=wanted, random_state=seed % 2**32)
    return train, validation


def write_split(folder: Path, train: Sequence[Sample], validation: Sequence[Sample]) -> None:
    """train_df.csv and val_df.csv as Azure leaves them: image, tab, label, no header."""
    for name, rows in (("train_df.csv", train), ("val_df.csv", validation)):
        text = "".join(f"{_cell(str(row.path))}\t{_cell(row.label)}\n" for row in rows)
        files.write_text(folder / name, text)


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
