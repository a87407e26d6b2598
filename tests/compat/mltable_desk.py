"""What the tests of MLTable rows share: writing rows into a folder, and the report on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from amlocal.compat.mltable import Report, lint

MLTABLE = """\
paths:
  - file: ./train_annotations.jsonl
transformations:
  - read_json_lines:
        encoding: utf8
        invalid_lines: {invalid_lines}
        include_path_column: false
  - convert_column_types:
      - columns: image_url
        column_type: stream_info
"""
GOOD = [{"image_url": f"images/{number}.jpg", "label": "ab"[number % 2]} for number in range(20)]


def refuse(uri: str) -> Path:
    raise ValueError(f"{uri} is not allowed here")


def check(
    folder: Path,
    rows: list[object] | bytes,
    *,
    invalid_lines: str = "error",
    resolve: Callable[[str], Path] = refuse,
    **options: object,
) -> Report:
    (folder / "MLTable").write_text(MLTABLE.format(invalid_lines=invalid_lines))
    data = rows if isinstance(rows, bytes) else b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    (folder / "train_annotations.jsonl").write_bytes(data)
    return lint(folder, resolve=resolve, **options)  # type: ignore[arg-type]
