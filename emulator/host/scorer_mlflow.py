"""MLflow models of any flavor that has a python_function. Part of `scorer.py`.

Standard library only until a model is loaded.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Callable  # noqa: UP035  (older Pythons)

if TYPE_CHECKING:
    from amlocal.emulator.host import scorer_swagger
    from amlocal.emulator.host.scorer_answers import json_answer, to_plain
    from amlocal.emulator.host.scorer_requests import Answer, BadInput, Request, check_number
    from amlocal.emulator.host.scorer_tables import (
        input_key,
        read_binary,
        read_params,
        read_table,
        shown,
    )
else:
    import scorer_swagger
    from scorer_answers import json_answer, to_plain
    from scorer_requests import BadInput, check_number
    from scorer_tables import input_key, read_binary, read_params, read_table, shown

# MLflow's error codes for input that does not fit the model's signature.
BAD_INPUT_CODES = ("BAD_REQUEST", "INVALID_PARAMETER_VALUE")
MOST_EXAMPLE = 1024 * 1024
WARM_UP_SECONDS = 30.0


class MlflowModel:
    """A loaded MLflow model, warmed with its input example if it has one."""

    def __init__(self, config: dict[str, Any], log: Callable[[str], None]) -> None:
        if config.get("trust_pickle") == "never":
            refuse_unpickling()
        import mlflow.pyfunc

        folder = str(config["model_dir"])
        self._model: Any = mlflow.pyfunc.load_model(folder)
        schema = self._model.metadata.get_input_schema()
        answer = self._model.metadata.get_output_schema()
        self._inputs: list[dict[str, Any]] = [] if schema is None else schema.to_dict()
        self._outputs: list[dict[str, Any]] = [] if answer is None else answer.to_dict()
        self._signed = schema is not None
        self._tensors: dict[str | None, Any] = {}
        self._columns: list[str] = []
        self._required: list[str] = []
        self._binary: set[str] = set()
        if schema is not None and schema.is_tensor_spec():
            self._tensors = {item.name: item.type for item in schema.inputs}
        elif schema is not None and schema.has_input_names():
            self._columns = list(schema.input_names())
            self._required = list(schema.required_input_names())
            self._binary = {item.name for item in schema.inputs if str(item.type).endswith("binary")}
        self._warm_up(folder, log)

    def score(self, request: Request) -> Answer:
        request.only("POST")
        values = request.json()
        params = read_params(values)
        try:
            given = self._arrays(values) if self._tensors else self._frame(values)
            return json_answer(to_plain(self._model.predict(given, params=params)))
        except (ValueError, RecursionError) as error:
            raise BadInput(str(error)) from error
        except Exception as error:
            if getattr(error, "error_code", None) in BAD_INPUT_CODES:
                raise BadInput(str(getattr(error, "message", error))) from error
            raise

    def swagger(self, version: str, *, title: str, base: str) -> dict[str, Any]:
        if self._columns:
            answer = scorer_swagger.answer_rows(self._outputs)
            shape = scorer_swagger.table_shape(self._inputs, answer)
        else:
            anything = {"description": "A list of rows; the model's signature names no columns."}
            request = {"type": "object", "required": ["input_data"], "properties": {"input_data": anything}}
            shape = scorer_swagger.Shape(request, scorer_swagger.answer_rows(self._outputs))
        return scorer_swagger.document(version, shape, title=title, base=base)

    def close(self) -> None:
        """A model has nothing to be told."""

    def _frame(self, request: dict[str, Any]) -> Any:
        import pandas

        columns, index, rows = read_table(request, self._columns, unnamed=not self._signed)
        missing = [name for name in self._required if name not in (columns or ())]
        if missing:
            raise BadInput(
                f"column {missing[0]!r} is missing: the model takes {shown(self._columns)}, "
                f"got {shown(columns or [])}"
            )
        for position, name in enumerate(columns or ()):
            if name in self._binary:
                for number, row in enumerate(rows):
                    row[position] = read_binary(row[position], number, name)
        return pandas.DataFrame(rows, columns=columns, index=index)

    def _arrays(self, request: dict[str, Any]) -> Any:
        """Input of a model whose signature has tensors: a nested list, or an object of named ones."""
        import numpy

        key = input_key(request)
        given = request.pop(key)
        check_number(given, f"'{key}'")
        if None in self._tensors:
            return numpy.asarray(given, dtype=self._tensors[None])
        if not isinstance(given, dict) or set(given) != set(self._tensors):
            names = sorted(str(name) for name in self._tensors)
            raise BadInput(f"'{key}' must be an object with a nested list for each of {names}")
        return {name: numpy.asarray(value, dtype=self._tensors[name]) for name, value in given.items()}

    def _warm_up(self, folder: str, log: Callable[[str], None]) -> None:
        """One prediction with the input example. Its failure is told and changes nothing."""
        info = getattr(self._model.metadata, "saved_input_example_info", None) or {}
        path = os.path.join(folder, str(info.get("artifact_path", "")))
        if not info or not os.path.isfile(path):
            return
        if os.path.getsize(path) > MOST_EXAMPLE:
            log(f"no warm-up: the input example has more than {MOST_EXAMPLE} bytes")
            return
        told: list[str] = []

        def predict() -> None:
            begin = time.monotonic()
            try:
                self._model.predict(self._model.metadata.load_input_example(folder))
                told.append(f"warm-up with the input example took {time.monotonic() - begin:.1f} s")
            except BaseException as error:
                told.append(f"warm-up with the input example failed: {type(error).__name__}: {error}")

        thread = threading.Thread(target=predict, name="warm-up", daemon=True)
        thread.start()
        thread.join(WARM_UP_SECONDS)
        log(told[0] if told else f"warm-up with the input example takes more than {WARM_UP_SECONDS:.0f} s")


def refuse_unpickling() -> None:
    """From now on, no object is made from a pickle in this process. Nothing takes that back."""

    def hook(event: str, args: Any) -> None:
        if event == "pickle.find_class":
            raise PermissionError(
                "this model is a pickle, and loading one runs whatever code it holds: the server's setting "
                "trust_pickle is 'never' (serve --trust-pickle)"
            )

    sys.addaudithook(hook)
