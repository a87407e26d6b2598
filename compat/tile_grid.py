"""tile_grid_size: into how many tiles an image is cut, e.g. "3x2".

Source: "Train a small object detection model with AutoML", and the spellings that Azure's trainer takes.
"""

from __future__ import annotations

import re

MOST = 100
"""Tiles along one side: with more, a tile of a photograph is smaller than what networks see."""
ALLOWED = f'a grid of tiles such as "3x2" (columns x rows): two whole numbers from 1 to {MOST}, not 1x1'
_FORM = re.compile(r"\s*(?:(\d{1,4})\s*[xX]\s*(\d{1,4})|\(\s*(\d{1,4})\s*,\s*(\d{1,4})\s*\))\s*", re.ASCII)


def parse(text: str) -> tuple[int, int]:
    """Columns and rows of "3x2", "3X2" or "(3, 2)". Raises ValueError saying what would do."""
    match = _FORM.fullmatch(text)
    columns, rows = (int(number) for number in match.groups() if number) if match else (0, 0)
    if not (1 <= columns <= MOST and 1 <= rows <= MOST) or columns == rows == 1:
        raise ValueError(f"it must be {ALLOWED}")
    return columns, rows


def text(columns: int, rows: int) -> str:
    """As `parse` takes it, in the spelling of the documentation."""
    return f"{columns}x{rows}"
