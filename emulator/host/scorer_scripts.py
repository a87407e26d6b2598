"""Scoring scripts: `init()` once, then `run()` for each request. Part of `scorer.py`.

How run() is called is told by its decorators, as in Azure: with the body's text when there is none; with the
request itself under `rawhttp`; with the body's JSON as named arguments under inference-schema's.
Standard library only, but for what the script imports.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import json
import logging
import logging.config
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Callable  # noqa: UP035  (older Pythons)

if TYPE_CHECKING:
    from amlocal.emulator.host import scorer_azureml, scorer_swagger
    from amlocal.emulator.host.scorer_answers import script_answer
    from amlocal.emulator.host.scorer_requests import Answer, BadInput, Request
else:
    import scorer_azureml
    import scorer_swagger
    from scorer_answers import script_answer
    from scorer_requests import BadInput

LOG_FORMAT = "%(asctime)s %(levelname).1s [%(process)d] %(name)s - %(message)s"


class ScriptModel:
    """A loaded scoring script. Raises what the script raises, and ValueError, FileNotFoundError or
    AttributeError for one that is none."""

    def __init__(self, config: dict[str, Any], log: Callable[[str], None]) -> None:
        given = str(config["score_script"])
        code = os.path.realpath(config["code_dir"])
        path = os.path.realpath(os.path.join(code, given))
        if os.path.commonpath([code, path]) != code:
            raise ValueError(f"the scoring script {given!r} is outside the code folder")
        if not os.path.isfile(path):
            raise FileNotFoundError(f"the code folder has no scoring script {given!r}")
        # The folder of the script is the working directory, as the SDK sets it for local endpoints.
        folder = os.path.dirname(path)
        os.environ["AML_APP_ROOT"] = folder
        os.environ["AZUREML_ENTRY_SCRIPT"] = os.path.basename(path)
        os.chdir(folder)
        sys.path[:0] = [folder] if folder == code else [folder, code]
        sys.argv = [path]
        set_up_logging(folder)
        scorer_azureml.provide()
        self._custom = scorer_swagger.custom((folder, code))
        module = import_script(path, given)
        log("calling init()")
        module.init()
        self._run: Callable[..., Any] = module.run
        self._schema = scorer_azureml.decorated_schema(module.run)
        self._open: Any = None
        if scorer_azureml.wants_raw(module.run):
            self._open = scorer_azureml.opener(folder)
            log("run() takes raw HTTP requests")
        elif self._schema is not None:
            log("run() takes the values of a JSON object by name (inference-schema)")
        else:
            log("run() takes the body as text")

    def score(self, request: Request) -> Answer:
        if self._open is not None:
            with self._open(request) as raw:
                return script_answer(self._call(raw))
        request.only("GET", "POST")
        if self._schema is not None:
            values = request.json()
            # A function of C has no signature to compare with.
            with contextlib.suppress(ValueError):
                try:
                    inspect.signature(self._run).bind(**values)
                except TypeError as error:
                    raise BadInput(f"the body does not fit run(): {error}") from error
            return script_answer(self._call(**values))
        return script_answer(self._call(request.text()))

    def _call(self, *args: Any, **values: Any) -> Any:
        try:
            return self._run(*args, **values)
        except Exception as error:
            # What Flask's abort() raises, and its request for a broken form, is an answer.
            if callable(getattr(error, "get_response", None)):
                return error.get_response()  # type: ignore[attr-defined]
            raise

    def swagger(self, version: str, *, title: str, base: str) -> dict[str, Any]:
        if version in self._custom:
            return self._custom[version]
        shape = scorer_swagger.FREE
        if self._open is not None:
            shape = scorer_swagger.RAW
        elif self._schema is not None:
            request = self._schema.get_input_schema(self._run)
            shape = scorer_swagger.Shape(request, self._schema.get_output_schema(self._run))
        return scorer_swagger.document(version, shape, title=title, base=base)

    def close(self) -> None:
        """A script has nothing to be told."""


def import_script(path: str, given: str) -> Any:
    spec = importlib.util.spec_from_file_location("entry_module", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"the scoring script {given!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules["entry_module"] = module
    spec.loader.exec_module(module)
    for name in ("init", "run"):
        if not callable(getattr(module, name, None)):
            raise AttributeError(f"the scoring script {given!r} has no {name}()")
    return module


def set_up_logging(folder: str) -> None:
    """Lines from INFO on go to the log, in Azure's format; a logging.json beside the script replaces that."""
    formatter = logging.Formatter(LOG_FORMAT)
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    path = os.path.join(folder, "logging.json")
    if os.path.isfile(path):
        with open(path, encoding="utf-8") as file:
            try:
                logging.config.dictConfig(json.load(file))
            except (ValueError, TypeError, AttributeError, ImportError) as error:
                raise ValueError(f"logging.json cannot be used: {error}") from error
