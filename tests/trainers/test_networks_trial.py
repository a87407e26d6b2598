"""Whole trials with Hugging Face models from the weights folder, and their finished models."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from amlocal.trainers import spec, trial
from amlocal.trainers.errors import TrainingError


def publish(folder: Path, side: int = 32) -> None:
    """A tiny ViT with its files, as a user would keep it."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(4)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=side,
        patch_size=8,
        num_labels=7,
    )
    ViTForImageClassification(config).save_pretrained(folder)
    preprocessor = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))


GIVEN = {
    "optimizer": "adamw",
    "learning_rate": 0.005,
    "number_of_epochs": 6,
    "validation_resize_size": 32,
    "layers_to_freeze": 1,
}


@pytest.mark.parametrize(
    ("name", "place", "pretrained"),
    [("org/tiny-vit", "org--tiny-vit", True), ("my-vit", "my-vit", False)],
)
def test_a_trial_of_a_model_in_the_weights_folder_ends_in_a_model_that_needs_no_folder(
    make_spec: Any, tmp_path: Path, name: str, place: str, pretrained: bool
) -> None:
    publish(tmp_path / "weights" / place)
    path = make_spec(
        "folder",
        {**GIVEN, "model_name": name},
        weights_dir=str(tmp_path / "weights"),
        advanced_settings={"pretrained": pretrained, "apply_automl_train_augmentations": False},
    )
    found = spec.load(path)
    trial.run(found)
    result = json.loads((found.state_dir / "result.json").read_text())
    assert result["model_name"] == name
    assert result["score"] == 1.0
    folder = found.artifacts_dir / "outputs" / "mlflow-model"
    trained = load_file(folder / "artifacts" / "model.safetensors")
    published = load_file(tmp_path / "weights" / place / "model.safetensors")
    stem = "vit.embeddings.patch_embeddings.projection.weight"
    assert torch.equal(trained[stem], published[stem]) == pretrained, "frozen, so as it started"
    assert trained["classifier.weight"].shape == (3, 32)

    for file in (tmp_path / "weights" / place).iterdir():
        file.unlink()
    from mlflow import pyfunc

    image = next(Path(json.loads(line)["path"]) for line in found.train_manifest.read_text().splitlines())
    cell = base64.b64encode(image.read_bytes()).decode()
    answer = pyfunc.load_model(str(folder)).predict(pd.DataFrame({"image": [cell]}))
    row = answer.iloc[0]
    label = json.loads(found.train_manifest.read_text().splitlines()[0])["label"]
    assert row["labels"][max(range(3), key=row["probs"].__getitem__)] == label


def test_a_model_without_its_config_is_refused_with_the_place_to_put_it(
    make_spec: Any, tmp_path: Path
) -> None:
    path = make_spec("none", {**GIVEN, "model_name": "org/none"}, weights_dir=str(tmp_path / "weights"))
    with pytest.raises(TrainingError) as caught:
        trial.run(spec.load(path))
    assert "org--none/config.json" in str(caught.value)
