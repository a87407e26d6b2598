"""Jobs and data to lint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MLTABLE = """\
paths:
  - file: ./rows.jsonl
transformations:
  - read_json_lines:
      encoding: utf8
      invalid_lines: error
      include_path_column: false
  - convert_column_types:
      - columns: image_url
        column_type: stream_info
"""


def write_data(folder: Path, count: int = 20, labels: Any = ("can", "milk"), **changes: Any) -> Path:
    """An MLTable folder; `changes` are rows by their number, "row_3={...}"."""
    (folder / "images").mkdir(parents=True)
    (folder / "MLTable").write_text(MLTABLE)
    rows = []
    for number in range(count):
        (folder / f"images/{number}.jpg").write_bytes(b"image")
        row = {"image_url": f"images/{number}.jpg", "label": labels[number % len(labels)]}
        rows.append(json.dumps(row | changes.get(f"row_{number}", {})))
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def job(task: str = "image_classification", **more: str) -> str:
    """A job's YAML in the manner of Azure's samples; `more` are texts to go at its end, by any name."""
    head = f"""\
$schema: https://azuremlsdk2.blob.core.windows.net/preview/0.0.1/autoMLJob.schema.json
type: automl
experiment_name: fridge
compute: azureml:gpu-cluster
task: {task}
log_verbosity: debug
target_column_name: label
training_data:
  path: data/train
  type: mltable
"""
    return head + "".join(more.values())
