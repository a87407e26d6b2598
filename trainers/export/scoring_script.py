"""outputs/scoring_file_v_1_0_0.py: the script of a deployment of model.pt, with what the model is in it."""

from __future__ import annotations

import json
import pprint
from pathlib import Path
from string import Template
from typing import Any

from amlocal.trainers import files
from amlocal.trainers.export import conda_env
from amlocal.trainers.registry import DESCRIPTION

NAME = "scoring_file_v_1_0_0.py"
_TEMPLATE = Template('''\
"""Answers scoring requests with an image model that automated ML trained.

Deploy it with the trial's outputs/model.pt as a custom_model and conda_env_v_1_0_0.yml as the environment.

POST, an image's bytes or {"image": BASE64}: one JSON object with the image's "filename" and its predictions.
POST, {"input_data": {"columns": ["image"], "data": [...]}}: a list, as from the MLflow model's deployment.
GET: the path that was asked for.
"""

from azureml.contrib.services.aml_request import rawhttp
from azureml.contrib.services.aml_response import AMLResponse

from amlocal.trainers.serving.entry_script import EntryScript, Refused

MODEL = $model

LABELS = $labels

# May be changed.
SETTINGS = $settings


def init():
    global script
    script = EntryScript(MODEL, LABELS, SETTINGS)


@rawhttp
def run(request):
    if request.method == "GET":
        return AMLResponse(request.full_path.encode(), 200)
    if request.method != "POST":
        return AMLResponse("bad request: only GET and POST are answered", 500)
    try:
        return script.answer(request.get_data(cache=False))
    except Refused as error:
        return AMLResponse(error.body, error.status, json_str=True)
''')


def write(model: Path) -> None:
    """Write the scoring script and its environment file beside `model`, the folder of a finished MLflow
    model, from what that says of the network."""
    data = model / "artifacts"
    constants = {
        name: _literal(json.loads((data / file).read_text(encoding="utf-8")))
        for name, file in (("model", DESCRIPTION), ("labels", "labels.json"), ("settings", "settings.json"))
    }
    files.write_text(model.with_name(NAME), _TEMPLATE.substitute(constants))
    pins = (model / "requirements.txt").read_text(encoding="utf-8").splitlines()
    conda_env.write(model.with_name(conda_env.NAME), pins)


def _literal(value: Any) -> str:
    """A JSON value as Python source."""
    return pprint.pformat(value, width=100, sort_dicts=False, compact=True)
