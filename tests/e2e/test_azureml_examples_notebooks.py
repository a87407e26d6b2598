"""The four public notebooks of AutoML for images, run as they are but for what they download."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from fridge_desk import CAPS, SDK, clone, write_download
from nbclient import NotebookClient

TASKS = {
    "image-classification-multiclass": "image_classification",
    "image-classification-multilabel": "image_classification_multilabel",
    "image-object-detection": "image_object_detection",
    "image-instance-segmentation": "image_instance_segmentation",
}
DOWNLOAD = "urllib.request.urlretrieve(download_url, filename=data_file)"
# The package of this name is one of those that a notebook installs; scikit-image thins outlines as it does.
SIMPLIFICATION = """
from skimage.measure import approximate_polygon as simplify_coords
"""
FACTS = """
import json
found = {}
for job in [job for job in ml_client.jobs.list() if job.experiment_name == exp_name]:
    names = [job.name, f"{job.name}_HD"]
    runs = {name: ml_client.jobs.get(name) for name in names}
    trials = []
    for child in mlflow_client.search_runs(
        [mlflow_client.get_experiment_by_name(exp_name).experiment_id],
        f"tags.mlflow.parentRunId = '{job.name}_HD'",
    ):
        runs[child.info.run_id] = ml_client.jobs.get(child.info.run_id)
        trials.append(child.info.run_id)
    found[job.name] = {
        "trials": sorted(trials),
        "status": {name: run.status for name, run in runs.items()},
        "tags": {name: run.tags for name, run in runs.items()},
        "properties": {name: run.properties for name, run in runs.items()},
    }
print("FACTS" + json.dumps({"jobs": found, "swept": returned_job.name, "best": best_child_run_id,
                            "model": registered_model.id, "response": answer}))
"""


@pytest.fixture(scope="module")
def capped(new_server: Callable[[], Any]) -> Any:
    """A server that caps AutoML jobs and lets networks start from random weights."""
    clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AMLOCAL_MISSING_WEIGHTS", "random")
        patch.setenv("AMLOCAL_CAPS", json.dumps(CAPS))
        server = new_server()
        server.start()
    return server


def prepare(folder: Path, kind: str, server: Any) -> nbformat.NotebookNode:
    """The notebook beside what it needs, with a copy in place of its download and nothing to install."""
    source = clone() / SDK / f"automl-{kind}-task-fridge-items"
    notebook = nbformat.read(source / f"{source.name}.ipynb", as_version=4)
    place = folder / source.name
    shutil.copytree(source, place, ignore=shutil.ignore_patterns("*.ipynb"))
    shutil.copytree(clone() / SDK / "jsonl-conversion", folder / "jsonl-conversion")
    (place / "simplification").mkdir()
    (place / "simplification" / "cutil.py").write_text(SIMPLIFICATION)
    names = server.workspace_path.split("/")
    (place / "config.json").write_text(
        json.dumps({"subscription_id": names[2], "resource_group": names[4], "workspace_name": names[-1]})
    )
    data = write_download(folder / "download", TASKS[kind])
    archive = shutil.make_archive(str(folder / "archive"), "zip", data.parent, data.name)
    replaced = 0
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        replaced += DOWNLOAD in cell.source
        cell.source = cell.source.replace(
            DOWNLOAD, f"__import__('shutil').copyfile({archive!r}, data_file)"
        ).replace("!pip install", "# !pip install")
    assert replaced == 1, "the download is another one than it was"
    explanations(notebook)
    return notebook


def explanations(notebook: nbformat.NotebookNode) -> None:
    """Explanations are not there: the cells that ask for them and show them may fail."""
    asked = False
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        if not asked and cell.source.startswith("resp = ml_client.online_endpoints.invoke"):
            cell.source += "\nanswer = json.loads(resp)"
        asked = asked or '"model_explainability"' in cell.source
        if asked and (
            "invoke(" in cell.source or "visualizations" in cell.source.partition("base64_to_img(")[2]
        ):
            cell.metadata.tags = [*cell.metadata.get("tags", []), "raises-exception"]


def outputs(notebook: nbformat.NotebookNode) -> str:
    """What all cells printed, and how those ended that may fail."""
    texts = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            texts.append(output.get("text", "") or output.get("evalue", ""))
    return "\n".join(texts)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TASKS)
def test_a_notebook_runs_to_its_end(capped: Any, tmp_path: Path, kind: str, monkeypatch: Any) -> None:
    notebook = prepare(tmp_path, kind, capped)
    notebook.cells.append(nbformat.v4.new_code_cell(FACTS))
    place = tmp_path / f"automl-{kind}-task-fridge-items"
    client = NotebookClient(
        notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(place)}}
    )
    client.execute(env={**capped.environment(), "MPLBACKEND": "agg"})
    said = outputs(notebook)
    facts = json.loads(said.rpartition("FACTS")[2].partition("\n")[0])
    swept = facts["jobs"][facts["swept"]]
    assert len(facts["jobs"]) == 5
    for name, job in facts["jobs"].items():
        assert set(job["status"].values()) == {"Completed"}, (name, job["status"])
        assert all(json.loads(tags["amlocal.caps"]) == CAPS for tags in job["tags"].values())
        assert job["tags"][name]["automl_best_child_run_id"] in job["trials"]
        assert job["trials"] == [f"{name}_HD_{index}" for index in range(len(job["trials"]))]
    assert sorted(len(job["trials"]) for job in facts["jobs"].values()) == [1, 1, 2, 2, 2]
    assert facts["best"] == swept["tags"][facts["swept"]]["automl_best_child_run_id"]
    head = swept["properties"][f"{facts['swept']}_HD"]
    assert head["best_child_run_id"] == facts["best"]
    scores = [float(swept["properties"][trial]["score"]) for trial in swept["trials"]]
    assert float(head["score"]) == max(scores)
    assert swept["trials"][scores.index(max(scores))] == facts["best"]
    assert "/models/" in facts["model"]
    assert len(facts["response"]) == 1
    assert set(facts["response"][0]) >= ({"probs", "labels"} if "classification" in kind else {"boxes"})
    if "classification" in kind:
        assert "explanations are not there yet" in said
