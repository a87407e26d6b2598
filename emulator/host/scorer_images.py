"""Image models that amlocal trained: no mlflow, no pandas, several requests at a time. Part of `scorer.py`.

Standard library only until a model is loaded.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable  # noqa: UP035  (older Pythons)

if TYPE_CHECKING:
    from amlocal.emulator.host import scorer_swagger
    from amlocal.emulator.host.scorer_answers import json_answer, to_plain
    from amlocal.emulator.host.scorer_requests import Answer, BadInput, Request
    from amlocal.emulator.host.scorer_tables import read_params, read_table, take_column
else:
    import scorer_swagger
    from scorer_answers import json_answer, to_plain
    from scorer_requests import BadInput
    from scorer_tables import read_params, read_table, take_column

LOADER = "amlocal.trainers.scoring"
SERVING = "amlocal.trainers.serving"
COLUMN = "image"
# A body of 100 MB could hold some 30 million empty rows, which would take gigabytes.
MAX_VALUES = 200_000


class ImageModel:
    """A loaded image model, warm."""

    def __init__(self, config: dict[str, Any], mlmodel: dict[str, Any], log: Callable[[str], None]) -> None:
        serving = importlib.import_module(SERVING)
        folder = os.path.realpath(config["model_dir"])
        data = os.path.realpath(os.path.join(folder, mlmodel["flavors"]["python_function"].get("data") or ""))
        if os.path.commonpath([folder, data]) != folder:
            raise ValueError("the MLmodel file names data outside the model's folder")
        self._served: Any = serving.load(Path(data), most=int(config.get("max_concurrent", 1)), log=log)
        self._outputs = read_columns(mlmodel, "outputs")

    def score(self, request: Request) -> Answer:
        request.only("POST")
        cells = self._cells(request)
        try:
            found = self._served.score(cells)
        except ValueError as error:
            raise BadInput(re.sub(r"^(row \d+):", rf"\1, column {COLUMN!r}:", str(error))) from error
        return json_answer(to_plain(found))

    def _cells(self, request: Request) -> list[Any]:
        """The images' texts; of the rest of the body nothing is kept."""
        values = request.json(MAX_VALUES)
        read_params(values)
        cells = take_column(read_table(values, [COLUMN]), COLUMN)
        for number, cell in enumerate(cells):
            if not isinstance(cell, str):
                kind = type(cell).__name__
                raise BadInput(f"row {number}, column {COLUMN!r}: base64 text expected, got {kind}")
        return cells

    def swagger(self, version: str, *, title: str, base: str) -> dict[str, Any]:
        columns = [{"name": COLUMN, "type": "binary"}]
        shape = scorer_swagger.table_shape(columns, scorer_swagger.answer_rows(self._outputs))
        return scorer_swagger.document(version, shape, title=title, base=base)

    def close(self) -> None:
        """Stop the engine once it has answered."""
        self._served.close()


def read_columns(mlmodel: dict[str, Any], side: str) -> list[dict[str, Any]]:
    text = (mlmodel.get("signature") or {}).get(side)
    return json.loads(text) if isinstance(text, str) else []


def own_model(config: dict[str, Any]) -> dict[str, Any] | None:
    """The MLmodel file, if it is one of an image model and this interpreter can serve it; else None."""
    if not all(importable(name) for name in ("yaml", LOADER, SERVING)):
        return None
    import yaml

    try:
        with open(os.path.join(config["model_dir"], "MLmodel"), encoding="utf-8") as file:
            found = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        # MLflow will say better what is wrong with it.
        return None
    flavors = found.get("flavors") if isinstance(found, dict) else None
    flavor = flavors.get("python_function") if isinstance(flavors, dict) else None
    loader = flavor.get("loader_module") if isinstance(flavor, dict) else None
    return found if loader == LOADER else None


def importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        # A parent is missing.
        return False
