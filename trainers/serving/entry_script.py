"""What a trial's scoring script does: `init()` makes an EntryScript, `run()` asks it.

Bodies as Azure documents them for the scoring script of an image model: an image's bytes, or JSON with
base64 text; and that of an MLflow model's deployment.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amlocal.trainers import serving
from amlocal.trainers.serving import model_pt
from amlocal.trainers.serving.cells import COLUMN

FILENAME = "image"
"""Under which an answer names the one image of a request, which has no name of its own."""

_IMAGE, _EXPLAIN, _TABLE = "image", "model_explainability", "input_data"
_FORMS = (
    f'an image\'s bytes, {{"{_IMAGE}": BASE64}} or {{"{_TABLE}": {{"columns": ["{COLUMN}"], "data": [...]}}}}'
)
# A body of 100 MB could hold some 30 million empty rows, which would take gigabytes.
_MOST_VALUES = 200_000
# A script is not told how many requests its deployment works on at a time.
_AT_A_TIME = 8


class Refused(Exception):
    """The request cannot be answered; the text tells the client why. `status` is the HTTP status."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status

    @property
    def body(self) -> dict[str, Any]:
        """What to answer, as JSON."""
        code = "PayloadTooLarge" if self.status == 413 else "BadRequest"
        return {"error": {"code": code, "message": str(self)}}


class EntryScript:
    """A trained model, loaded from model.pt below AZUREML_MODEL_DIR, warm.

    `model`, `labels` and `settings` are what an MLflow model has in model.json, labels.json and
    settings.json. Raises FileNotFoundError and ValueError for files or constants that cannot be used.
    """

    def __init__(self, model: Mapping[str, Any], labels: Sequence[str], settings: Mapping[str, Any]) -> None:
        given = os.environ.get("AZUREML_MODEL_DIR")
        if not given:
            raise ValueError(
                "AZUREML_MODEL_DIR is not set: the deployment has no model; give it the model.pt"
            )
        weights = model_pt.find(Path(given))
        with tempfile.TemporaryDirectory(prefix="amlocal-model-") as folder:
            model_pt.unpack(weights, Path(folder), model=model, labels=labels, settings=settings)
            self._served = serving.load(Path(folder), most=_AT_A_TIME, log=_log)

    def answer(self, body: bytes) -> Any:
        """The answer to a POST, as JSON: an object with `filename` for one image, a list for a table.

        May be called from many threads. Raises Refused.
        """
        # No image format begins so.
        if not body[:64].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
            return self._one(body)
        values = _object(body)
        del body
        asked = [name for name in (_IMAGE, _TABLE) if name in values]
        if len(asked) != 1:
            raise Refused(f'the JSON needs one of "{_IMAGE}" and "{_TABLE}": {_FORMS}')
        if asked == [_TABLE]:
            return self._scored(_cells(values[_TABLE]))
        image = values[_IMAGE]
        if not isinstance(image, str):
            raise Refused(f'"{_IMAGE}" must be base64 text, not {type(image).__name__}')
        if values.get(_EXPLAIN) not in (None, False):
            # The same as a cell of a table, which says what can be explained.
            image = json.dumps({"image_base64": image, _EXPLAIN: values[_EXPLAIN]})
        return self._one(image)

    def _one(self, cell: bytes | str) -> dict[str, Any]:
        if not cell:
            raise Refused(f"the body has no image; send {_FORMS}")
        try:
            (found,) = self._served.score([cell])
        except ValueError as error:
            reason = str(error).removeprefix("row 0: ")
            raise Refused(f"{reason}; send {_FORMS}" if isinstance(cell, bytes) else reason) from error
        return {"filename": FILENAME, **found}

    def _scored(self, cells: Sequence[str]) -> list[dict[str, Any]]:
        try:
            return self._served.score(cells)
        except ValueError as error:
            raise Refused(re.sub(r"^(row \d+):", rf"\1, column {COLUMN!r}:", str(error))) from error


def _log(text: str) -> None:
    print(text, flush=True)


def _object(body: bytes) -> dict[str, Any]:
    if sum(body.count(sign) for sign in (b",", b"[", b"{")) > _MOST_VALUES:
        raise Refused(f"the body has more than {_MOST_VALUES} values", 413)
    try:
        found = json.loads(body.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise Refused(f"the body is neither an image nor UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        # The error holds the whole body.
        raise Refused(f"the body is not JSON: {error}") from None
    except ValueError:
        raise Refused("the body has a number with too many digits") from None
    except RecursionError:
        raise Refused("the body is nested too deeply") from None
    # What begins with a brace is an object.
    assert isinstance(found, dict)
    return found


def _cells(table: Any) -> list[str]:
    """The images' texts of a table: rows as lists, as objects, or the texts themselves."""
    columns, rows = ([COLUMN], table)
    if isinstance(table, dict):
        columns, rows = table.get("columns", columns), table.get("data")
    if not isinstance(rows, list) or not rows:
        raise Refused(f'"{_TABLE}" needs "data", a list of at least one row')
    if not isinstance(columns, list) or columns.count(COLUMN) != 1:
        raise Refused(f'"columns" must be a list that names {COLUMN!r} once')
    place = columns.index(COLUMN)
    found = []
    for number, row in enumerate(rows):
        cell = row
        if isinstance(row, dict):
            cell = row.get(COLUMN)
        elif isinstance(row, list) or len(columns) > 1:
            if not isinstance(row, list) or len(row) != len(columns):
                raise Refused(f"row {number} does not have one value for each of the {len(columns)} columns")
            cell = row[place]
        if not isinstance(cell, str):
            kind = type(cell).__name__
            raise Refused(f"row {number}, column {COLUMN!r}: base64 text expected, got {kind}")
        found.append(cell)
    return found
