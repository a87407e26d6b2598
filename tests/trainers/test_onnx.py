"""Networks as ONNX: onnxruntime answers what PyTorch answers; and what cannot be written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from amlocal.compat import names
from amlocal.trainers.export import onnx, onnx_artifact
from amlocal.trainers.models.network import Network, rebuild

TASK, MULTILABEL = "image-classification", "image-classification-multilabel"
TABLE = sorted(names.models(TASK))
QUICK = ("resnet18", "mobilenetv2", "seresnext", "resnest50", "vits16r224")
CLOSE = 1e-4


def network(name: str, size: int) -> Network:
    torch.manual_seed(0)
    return rebuild(TASK, name, 3, size, None)


def answers(path: Path, images: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == ["input1"]
    found = session.run(["output1"], {"input1": images.numpy()})[0]
    assert isinstance(found, np.ndarray)
    return found


def check(name: str, size: int, folder: Path) -> None:
    built = network(name, size)
    built.module.eval()
    assert onnx_artifact.write(built, size, folder) == "train_artifacts/model.onnx"
    pixels = torch.rand(3, 3, size, size)

    def normalised(mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
        return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    with torch.inference_mode():
        goal = built.module(normalised(built.mean, built.std)).numpy()
    # Untrained deep networks answer with very large numbers.
    scale = max(1.0, np.abs(goal).max())
    given = normalised(onnx_artifact.IMAGENET_MEAN, onnx_artifact.IMAGENET_STD)
    for some in (slice(0, 1), slice(0, 3)):
        found = answers(folder / "train_artifacts" / "model.onnx", given[some])
        assert np.abs(found - goal[some]).max() / scale < CLOSE
    assert np.abs(goal[0] - goal[1]).max() / scale > 10 * CLOSE, "the network does not look at its input"


@pytest.mark.parametrize("name", QUICK)
def test_a_model_of_each_family_answers_alike(name: str, tmp_path: Path) -> None:
    check(name, 224 if name == "seresnext" else 64, tmp_path)


@pytest.mark.parametrize("name", ["resnet18", "vits16r224"])
def test_a_file_with_the_normalisation_in_it_takes_plain_pixels(name: str, tmp_path: Path) -> None:
    built = network(name, 32)
    built.module.eval()
    assert onnx_artifact.write(built, 32, tmp_path, normalised=True) == "train_artifacts/model.onnx"
    path = tmp_path / "train_artifacts" / "model.onnx"
    pixels = torch.rand(3, 3, 32, 32)
    with torch.inference_mode():
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (built.mean, built.std))
        goal = built.module((pixels - mean) / std).numpy()
    scale = max(1.0, np.abs(goal).max())
    for some in (slice(0, 1), slice(0, 3)):
        assert np.abs(answers(path, pixels[some]) - goal[some]).max() / scale < CLOSE
    properties = onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map
    assert properties == {"input1": "RGB, pixels / 255; the network normalises them"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TABLE if name not in QUICK])
def test_every_other_model_answers_alike(name: str, tmp_path: Path) -> None:
    check(name, 224, tmp_path)


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.drop = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        return torch.as_tensor(self.head(self.drop(images.mean((2, 3)))))


@pytest.mark.parametrize(("multilabel", "finish"), [(False, "softmax"), (True, "sigmoid")])
def test_probabilities_and_properties(multilabel: bool, finish: str, tmp_path: Path) -> None:
    module = Tiny().train()
    target = tmp_path / "a" / "m.onnx"
    onnx.write(module, (3, 8, 8), target, probabilities=True, multilabel=multilabel, metadata={"of": "é"})
    assert module.training and module.drop.training
    images = torch.rand(2, 3, 8, 8)
    with torch.inference_mode():
        raw = module.eval()(images)
        goal = raw.sigmoid() if finish == "sigmoid" else raw.softmax(1)
    assert np.abs(answers(target, images) - goal.numpy()).max() < 1e-6
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == {"of": "é"}
    assert [path.name for path in target.parent.iterdir()] == ["m.onnx"]


class Odd(nn.Module):
    """Uses an operation that ONNX does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return torch.linalg.svdvals(images.flatten(1)) * self.weight


def test_a_network_that_onnx_cannot_express_costs_no_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(onnx.ExportError, match="svd"):
        onnx.write(Odd(), (3, 8, 8), tmp_path / "m.onnx", probabilities=False)
    half = (0.5, 0.5, 0.5)
    assert onnx_artifact.write(Network(Odd(), half, half, ()), 8, tmp_path) is None
    assert "no train_artifacts/model.onnx:" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*onnx*"))
