"""Tables in request bodies: the shapes that Azure documents or MLflow's server takes. Part of `scorer.py`.

Standard library only.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from amlocal.emulator.host.scorer_requests import BadInput, check_number
else:
    from scorer_requests import BadInput, check_number

KEYS = ("input_data", "dataframe_split", "dataframe_records")
SHAPE = '{"input_data": {"columns": [...], "index": [...], "data": [...]}}'
# How much of what the client sent is told back.
SHOWN = 200


class Table(NamedTuple):
    """`columns` is None when neither the request nor the model names them."""

    columns: list[str] | None
    row_index: list[Any] | None
    rows: list[list[Any]]


def read_params(request: dict[str, Any]) -> dict[str, Any] | None:
    params = request.get("params")
    if params is not None and not isinstance(params, dict):
        raise BadInput("'params' must be an object")
    check_number(params, "'params'")
    return params


def input_key(request: dict[str, Any]) -> str:
    keys = [key for key in KEYS if key in request]
    if len(keys) != 1:
        raise BadInput(f'the body needs one key "input_data": {SHAPE}')
    return keys[0]


def read_table(request: dict[str, Any], known: list[str], *, unnamed: bool = False) -> Table:
    """The table of a request, taken out of it. `known` are the model's columns, empty if it does not say;
    `unnamed` allows a table without names.

    Raises BadInput naming the row and column.
    """
    key = input_key(request)
    table = request.pop(key)
    index = None
    columns: Any = None
    if isinstance(table, dict):
        if "data" not in table:
            raise BadInput(f"'{key}' needs 'data', the list of rows")
        columns, index, data = table.get("columns"), table.get("index"), table.pop("data")
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
    if not columns and not unnamed:
        raise BadInput(f"'{key}' needs 'columns': the model does not say which it takes")
    if len(set(columns)) != len(columns):
        raise BadInput(f"'columns' of '{key}' names a column twice")
    if not data:
        raise BadInput(f"'{key}' has no rows")
    if index is not None and (not isinstance(index, list) or len(index) != len(data)):
        raise BadInput(f"'index' must be a list with one entry for each of the {len(data)} rows")
    check_number(index, "'index'")
    rows = data
    for number, row in enumerate(rows):
        if not isinstance(row, list):
            rows[number] = row = [row]
        wanted = len(columns) if columns else len(rows[0])
        if len(row) != wanted:
            raise BadInput(
                f"row {number} has {len(row)} values for {wanted} columns {shown(columns)}".rstrip()
            )
        for position, value in enumerate(row):
            if not isinstance(value, str):
                name = repr(columns[position]) if columns else str(position)
                check_number(value, f"row {number}, column {name}")
    return Table(columns or None, index, rows)


def read_records(data: list[dict[str, Any]]) -> Table:
    columns = list(data[0])
    wanted = set(columns)
    for number, record in enumerate(data):
        if set(record) != wanted:
            raise BadInput(
                f"row {number} has the columns {shown(sorted(record))}, row 0 has {shown(sorted(columns))}"
            )
        for name, value in record.items():
            if not isinstance(value, str):
                check_number(value, f"row {number}, column {name!r}")
    return Table(columns, None, [[record[name] for name in columns] for record in data])


def take_column(table: Table, name: str) -> list[Any]:
    """One column's cells. Raises BadInput when it is missing."""
    columns = table.columns or []
    if name not in columns:
        raise BadInput(f"column {name!r} is missing: the model takes {[name]}, got {shown(columns)}")
    position = columns.index(name)
    return [row[position] for row in table.rows]


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


def shown(names: list[str]) -> str:
    """A list as text, cut where a client sent a very long one."""
    text = str(names)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
