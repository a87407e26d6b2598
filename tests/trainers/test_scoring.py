"""The predictor answers what validation saw, for both tasks and every kind of network."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from amlocal.compat import model_config, names
from amlocal.trainers import scoring
from amlocal.trainers import spec as specs
from amlocal.trainers.checkpoints import plain
from amlocal.trainers.layouts import Layout
from amlocal.trainers.models.network import Network, rebuild
from amlocal.trainers.tasks.classification import Classification
from amlocal.trainers.tasks.classification_scoring import Predictor

MULTICLASS, MULTILABEL = "image-classification", "image-classification-multilabel"
LABELS = ["blue", "green", "red"]
HALF = (0.5, 0.5, 0.5)
TINY_VIT = model_config.Facts(
    "ViTForImageClassification",
    {
        "model_type": "vit",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "patch_size": 8,
        "image_size": 32,
    },
    HALF,
    (0.25, 0.25, 0.25),
    32,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass
class Model:
    """A model's files, the network whose weights they hold, and its model.json."""

    folder: Path
    network: Network
    description: dict[str, Any]

    def predictor(self) -> Predictor:
        return Predictor(self.folder, self.description)


MakeModel = Callable[..., Model]


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    """make_model(task, model_name, facts, **settings) writes a small random model's files."""

    def make(
        task: str = MULTICLASS,
        model_name: str = "resnet18",
        facts: model_config.Facts | None = None,
        labels: list[str] = LABELS,
        **settings: int,
    ) -> Model:
        sizes = {"valid_resize_size": 36, "valid_crop_size": 32, "train_crop_size": 32} | settings
        torch.manual_seed(4)
        kept = facts.to_json() if facts is not None else None
        network = rebuild(task, model_name, len(labels), sizes["valid_crop_size"], kept)
        network.module.eval()
        if facts is not None or sizes["valid_crop_size"] <= 32:
            spread(network.module, len(labels))
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        save_file(plain(network.module), folder / "model.safetensors")
        (folder / "labels.json").write_text(json.dumps(labels))
        (folder / "settings.json").write_text(json.dumps(sizes))
        description = {"schema": 1, "task": task, "model_name": model_name}
        return Model(folder, network, description | ({"facts": kept} if kept else {}))

    return make


class Watched(nn.Module):
    """A network that keeps what it answers."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.answers: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.module(images)
        self.answers.append(found.clone())
        return found


def spread(module: nn.Module, classes: int) -> None:
    """Give a random network a head that tells images apart without being certain of any."""
    noise = torch.randn(16, 3, 32, 32)
    heads = [p for p in module.parameters() if p.shape[:1] == (classes,)]
    with torch.no_grad():
        for head in heads:
            head.copy_(torch.randn(head.shape))
        answers = module(noise)
        for head in heads:
            head.div_(answers.std().clamp(min=1e-6))


KINDS = {
    "resnet18": ("resnet18", None),
    "mobilenetv2": ("mobilenetv2", None),
    "huggingface": ("tiny/vit", TINY_VIT),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", [MULTICLASS, MULTILABEL])
def test_scoring_answers_what_validation_saw(
    task: str, kind: str, make_model: MakeModel, make_spec: Callable[..., Path], tmp_path: Path
) -> None:
    name, facts = KINDS[kind]
    model = make_model(task, name, facts)
    rows = [json.loads(line) for line in manifest(make_spec).read_text().splitlines()]
    if task == MULTILABEL:
        rows = [{**row, "label": [row["label"]]} for row in rows]
        (tmp_path / "many.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
        paths = dict.fromkeys(("train_manifest", "validation_manifest"), str(tmp_path / "many.json"))
        spec = specs.load(make_spec(task=task, primary_metric="iou", **paths))
    else:
        spec = specs.load(make_spec())
    spec = replace(spec, model=names.restored(task, name, facts))
    trial = Classification(spec, 1)
    assert trial.labels == LABELS
    trial.place(torch.device("cpu"), Layout(channels_last=False), model.network)
    watched = Watched(model.network.module)
    values = trial.evaluate(watched).metrics
    logits = torch.cat(watched.answers)

    found = model.predictor().predict([Path(row["path"]).read_bytes() for row in rows])
    probabilities = torch.tensor([row["probs"] for row in found])
    assert [row["labels"] for row in found] == [LABELS] * len(rows)
    expected = logits.softmax(1) if task == MULTICLASS else logits.sigmoid()
    assert torch.allclose(probabilities, expected, rtol=0, atol=1e-5)
    assert probabilities.std(0).max() > 1e-4  # images are told apart
    if task == MULTICLASS:
        right = [LABELS[p] == row["label"] for p, row in zip(probabilities.argmax(1), rows, strict=True)]
        assert values["accuracy"] == pytest.approx(np.mean(right), abs=1e-5)
        assert torch.allclose(probabilities.sum(1), torch.ones(len(rows)))
    else:
        right = [
            {label for label, p in zip(LABELS, row["probs"], strict=True) if p > 0.5} == set(given["label"])
            for row, given in zip(found, rows, strict=True)
        ]
        assert values["accuracy"] == pytest.approx(np.mean(right), abs=1e-5)
        assert not torch.allclose(probabilities.sum(1), torch.ones(len(rows)), atol=1e-3)


def manifest(make_spec: Callable[..., Path]) -> Path:
    return Path(json.loads(make_spec("where").read_text())["validation_manifest"])


def encoded(number: int, size: tuple[int, int] = (40, 36)) -> bytes:
    from io import BytesIO

    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("task", [MULTICLASS, MULTILABEL])
def test_the_mlflow_loader_scores_a_table_of_either_task(task: str, make_model: MakeModel) -> None:
    model = make_model(task)
    (model.folder / "model.json").write_text(json.dumps(model.description))
    rows = [encoded(n) for n in range(3)]
    table = pd.DataFrame({"image": [b64encode(row).decode() for row in rows]}, index=[5, 6, 7])
    found = scoring._load_pyfunc(str(model.folder)).predict(table)
    assert list(found.columns) == ["probs", "labels"]
    assert list(found.index) == [5, 6, 7]
    assert found.to_dict("records") == model.predictor().predict(rows)
    sums = np.array([sum(probs) for probs in found["probs"]])
    assert np.allclose(sums, 1.0) == (task == MULTICLASS)


def test_many_images_are_scored_in_batches_with_the_same_answers(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    rows = [encoded(n) for n in range(7)]
    whole = model.predictor().predict(rows)
    monkeypatch.setattr(Predictor, "_BATCH", 3)
    predictor = model.predictor()
    sizes: list[int] = []
    predictor.module.register_forward_hook(lambda module, given, output: sizes.append(len(output)))
    parts = predictor.predict(rows)
    assert sizes == [3, 3, 1]
    assert np.allclose([r["probs"] for r in whole], [r["probs"] for r in parts], atol=1e-6)
    with pytest.raises(ValueError, match=r"^row 5: "):
        predictor.predict([*rows[:5], b"no image", *rows[5:]])
    assert predictor.predict([]) == []


def test_large_crops_go_in_smaller_batches(make_model: MakeModel) -> None:
    assert make_model().predictor().limit == 80
    assert make_model(valid_crop_size=1024, valid_resize_size=1024).predictor().limit == 20
    assert make_model(valid_crop_size=8192, valid_resize_size=8192).predictor().limit == 1


def test_the_settings_decide_the_sizes_also_under_their_old_names(make_model: MakeModel) -> None:
    model = make_model()
    row = [encoded(1, (120, 90))]
    before = model.predictor().predict(row)[0]["probs"]
    edited = model.folder / "settings.json"
    edited.write_text(json.dumps({"valid_resize_size": 90, "valid_crop_size": 32}))
    zoomed = model.predictor().predict(row)[0]["probs"]
    assert not np.allclose(before, zoomed, atol=1e-4)
    edited.write_text(json.dumps({"resize_size": 90, "crop_size": 32}))
    assert model.predictor().predict(row)[0]["probs"] == zoomed


@pytest.mark.parametrize("value", [0, -1, 8193, 3.5, "32", None, True])
def test_a_size_that_cannot_be_used_is_named(make_model: MakeModel, value: Any) -> None:
    model = make_model()
    (model.folder / "settings.json").write_text(json.dumps({"valid_crop_size": value}))
    with pytest.raises(ValueError, match=r"settings\.json: valid_crop_size is .* from 1 to 8192"):
        model.predictor()


def test_settings_must_be_an_object(make_model: MakeModel) -> None:
    model = make_model()
    (model.folder / "settings.json").write_text("[224]")
    with pytest.raises(ValueError, match="must hold a JSON object"):
        model.predictor()


def test_weights_that_do_not_fit_say_what_differs(make_model: MakeModel) -> None:
    model = make_model(MULTICLASS, "tiny/vit", TINY_VIT)
    (model.folder / "labels.json").write_text(json.dumps([*LABELS, "more"]))
    with pytest.raises(ValueError, match=r"does not fit tiny/vit with 4 labels .*\(3,\) in the file"):
        model.predictor()


def test_a_network_of_one_size_says_which_setting_to_undo(make_model: MakeModel) -> None:
    model = make_model(MULTICLASS, "vits16r224")
    assert len(model.predictor().predict([encoded(2)])[0]["probs"]) == 3
    (model.folder / "settings.json").write_text(json.dumps({"valid_crop_size": 48, "valid_resize_size": 48}))
    with pytest.raises(ValueError, match=r"at valid_crop_size 48: pos_embed .* trained with; set that in"):
        model.predictor()


def test_one_label_is_certain_for_one_class_and_open_for_multi_label(make_model: MakeModel) -> None:
    rows = [encoded(3)]
    assert make_model(labels=["only"]).predictor().predict(rows) == [{"probs": [1.0], "labels": ["only"]}]
    (probability,) = make_model(MULTILABEL, labels=["only"]).predictor().predict(rows)[0]["probs"]
    assert 0.0 < probability < 1.0
