"""The two kinds of model that a scorer serves, and what they make of a request. Part of `scorer.py`.

Standard library only until a model is loaded.
"""

from __future__ import annotations

import base64
import binascii
import importlib.util
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

# MLflow's error codes for input that does not fit the model's signature.
BAD_INPUT_CODES = ("BAD_REQUEST", "INVALID_PARAMETER_VALUE")


if TYPE_CHECKING:
    # Columns, index, rows. Not evaluated, as the deployment's Python may be older than ours.
    Table = tuple[list[str], list[Any] | None, list[list[Any]]]


class BadInput(Exception):
    """The request's body is not what the model takes; the text tells the client what and where."""


class Model(Protocol):
    """A loaded model."""

    def score(self, body: bytes) -> Any:
        """JSON values for a request's body. Raises BadInput; all else is a failure of the model's code."""


def to_plain(value: Any) -> Any:
    """A result as JSON values: tables become lists of records, bytes base64 text, NaN and infinities null."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [to_plain(item) for item in value]
    if hasattr(value, "to_dict") and hasattr(value, "columns"):
        return [to_plain(record) for record in value.to_dict(orient="records")]
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "tolist"):
        return to_plain(value.tolist())
    raise TypeError(f"a result of type {type(value).__name__} cannot be written as JSON")


class MlflowModel:
    """An MLflow model of any flavor that has a python_function."""

    def __init__(self, config: dict[str, Any]) -> None:
        import mlflow.pyfunc

        self._model = mlflow.pyfunc.load_model(config["model_dir"])
        schema = self._model.metadata.get_input_schema()
        self._columns: list[str] = []
        self._required: list[str] = []
        self._binary: set[str] = set()
        if schema is not None and schema.has_input_names() and not schema.is_tensor_spec():
            self._columns = list(schema.input_names())
            self._required = list(schema.required_input_names())
            self._binary = {item.name for item in schema.inputs if str(item.type).endswith("binary")}

    def score(self, body: bytes) -> Any:
        request = parse_json(body)
        frame = self._frame(request)
        params = request.get("params")
        if params is not None and not isinstance(params, dict):
            raise BadInput("'params' must be an object")
        try:
            return to_plain(self._model.predict(frame, params=params))
        except ValueError as error:
            raise BadInput(str(error)) from error
        except Exception as error:
            if getattr(error, "error_code", None) in BAD_INPUT_CODES:
                raise BadInput(str(getattr(error, "message", error))) from error
            raise

    def _frame(self, request: dict[str, Any]) -> Any:
        import pandas

        columns, index, rows = read_table(request, self._columns)
        missing = [name for name in self._required if name not in columns]
        if missing:
            raise BadInput(
                f"column {missing[0]!r} is missing: the model takes {self._columns}, got {columns}"
            )
        for position, name in enumerate(columns):
            if name in self._binary:
                for number, row in enumerate(rows):
                    row[position] = read_binary(row[position], number, name)
        return pandas.DataFrame(rows, columns=columns, index=index)


class ScriptModel:
    """A scoring script: `init()` once, then `run(raw)` with the request's body as text for each request."""

    def __init__(self, config: dict[str, Any]) -> None:
        folder = Path(config["code_dir"]).resolve()
        path = (folder / config["score_script"]).resolve()
        if not path.is_relative_to(folder):
            raise ValueError(f"the scoring script {config['score_script']!r} is outside the code folder")
        if not path.is_file():
            raise FileNotFoundError(f"the code folder has no scoring script {config['score_script']!r}")
        os.environ["AZUREML_ENTRY_SCRIPT"] = str(path)
        os.environ["AML_APP_ROOT"] = str(folder)
        os.chdir(folder)
        sys.path[:0] = [str(path.parent), str(folder)]
        spec = importlib.util.spec_from_file_location("entry_module", path)
        if spec is None or spec.loader is None:
            raise ValueError(f"the scoring script {config['score_script']!r} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules["entry_module"] = module
        spec.loader.exec_module(module)
        for name in ("init", "run"):
            if not callable(getattr(module, name, None)):
                raise AttributeError(f"the scoring script {config['score_script']!r} has no {name}()")
        module.init()
        self._run: Callable[[str], Any] = module.run

    def score(self, body: bytes) -> Any:
        try:
            raw = body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadInput(f"the body is not UTF-8 text: {error}") from error
        result = self._run(raw)
        try:
            json.dumps(result)
        except (TypeError, ValueError) as error:
            raise TypeError(f"run() returned what is not JSON serializable: {error}") from error
        return result


def parse_json(body: bytes) -> dict[str, Any]:
    try:
        request = json.loads(body)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadInput(f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise BadInput("the body is nested too deeply") from error
    if not isinstance(request, dict):
        raise BadInput("the body must be a JSON object with 'input_data'")
    return request


def read_table(request: dict[str, Any], known: list[str]) -> Table:
    """Columns, index and rows, from any of the shapes that Azure documents or MLflow's server takes."""
    keys = [key for key in ("input_data", "dataframe_split", "dataframe_records") if key in request]
    if len(keys) != 1:
        raise BadInput(
            'the body needs one key "input_data": '
            '{"input_data": {"columns": [...], "index": [...], "data": [...]}}'
        )
    key = keys[0]
    table = request[key]
    index = None
    columns: Any = None
    if isinstance(table, dict):
        if "data" not in table:
            raise BadInput(f"'{key}' needs 'data', the list of rows")
        columns, index, data = table.get("columns"), table.get("index"), table["data"]
    else:
        data = table
    if not isinstance(data, list):
        raise BadInput(f"the rows of '{key}' must be a list")
    if columns is None and data and all(isinstance(row, dict) for row in data):
        return read_records(data)
    if columns is None:
        columns = known
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise BadInput(f"'columns' of '{key}' must be a list of names")
    if not columns:
        raise BadInput(f"'{key}' needs 'columns': the model does not say which it takes")
    if len(set(columns)) != len(columns):
        raise BadInput(f"'columns' of '{key}' names a column twice")
    if not data:
        raise BadInput(f"'{key}' has no rows")
    if index is not None and (not isinstance(index, list) or len(index) != len(data)):
        raise BadInput(f"'index' must be a list with one entry for each of the {len(data)} rows")
    rows = [row if isinstance(row, list) else [row] for row in data]
    for number, row in enumerate(rows):
        if len(row) != len(columns):
            raise BadInput(f"row {number} has {len(row)} values for {len(columns)} columns {columns}")
    return columns, index, rows


def read_records(data: list[dict[str, Any]]) -> Table:
    columns = list(data[0])
    for number, record in enumerate(data):
        if set(record) != set(columns):
            raise BadInput(f"row {number} has the columns {sorted(record)}, row 0 has {sorted(columns)}")
    return columns, None, [[record[name] for name in columns] for record in data]


def read_binary(value: Any, number: int, column: str) -> bytes:
    """The bytes of base64 text. JSON text (an image with explanation parameters) is handed on as it is."""
    if not isinstance(value, str):
        raise BadInput(f"row {number}, column {column!r}: base64 text expected, got {type(value).__name__}")
    if value.lstrip().startswith("{"):
        return value.encode()
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput(f"row {number}, column {column!r}: not base64 text: {error}") from error


KINDS: dict[str, Callable[[dict[str, Any]], Model]] = {"mlflow": MlflowModel, "script": ScriptModel}
