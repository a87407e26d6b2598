"""A trained image model behind the scorer, with the real engine: answers, and input that is no image."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

LABELS = ["blue", "red"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from amlocal.trainers.checkpoints import plain
    from amlocal.trainers.export import mlflow_model
    from amlocal.trainers.models.network import rebuild

    folder = tmp_path_factory.mktemp("image") / "mlflow-model"
    network = rebuild("image-classification", "resnet18", len(LABELS), 32, None)
    mlflow_model.write(
        folder,
        plain(network.module),
        task="image-classification",
        model_name="resnet18",
        architecture="resnet18",
        builder="torchvision",
        labels=LABELS,
        settings={"valid_resize_size": 36, "valid_crop_size": 32},
        run_id="r",
    )
    return folder


def picture(colour: str) -> str:
    file = io.BytesIO()
    Image.new("RGB", (40, 40), colour).save(file, "PNG")
    return base64.encodebytes(file.getvalue()).decode()


@pytest.mark.slow  # by default test_scorer_images has a stand-in's engine, and the seeds' snippets a real one
def test_images_are_scored_and_all_else_is_told_by_row(scorers: Any, model: Path) -> None:
    env = {"AMLOCAL_SCORING_THREADS": "1"}
    scorer = scorers.start(kind="mlflow", model_dir=str(model), max_concurrent=4, env=env).ready()
    maps = Path(f"/proc/{scorer.process.pid}/maps").read_text()
    assert "/torch/" in maps and not [name for name in ("pandas", "mlflow") if f"/{name}/" in maps]
    blue, red = picture("blue"), picture("red")
    asked = json.dumps({"image_base64": red, "model_explainability": False})
    answer = scorer.score(
        {"input_data": {"columns": ["image"], "index": [0, 1, 2], "data": [blue, red, asked]}}
    )
    assert answer.status == 200, answer.body
    assert [row["labels"] for row in answer.json] == [LABELS] * 3
    assert all(sum(row["probs"]) == pytest.approx(1, abs=1e-5) for row in answer.json)
    assert answer.json[1]["probs"] == pytest.approx(answer.json[2]["probs"], abs=1e-5)
    alone = scorer.score({"input_data": [[red]]}).json[0]
    assert alone["probs"] == pytest.approx(answer.json[1]["probs"], abs=1e-2)
    for cell in ("@@@", base64.b64encode(b"no image").decode(), blue[: len(blue) // 2], ""):
        reply = scorer.score({"input_data": [red, cell]})
        assert reply.status == 400 and reply.message.startswith("row 1, column 'image': "), reply.body
    assert scorer.score({"input_data": [red]}).status == 200
    assert scorer.stop() == 0
