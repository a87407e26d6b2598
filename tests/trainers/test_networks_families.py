"""One small network per family: trains, freezes by name, and predicts the same once saved and loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_model, save_file
from torch.nn import functional as F

from amlocal.compat import model_config, names
from amlocal.trainers import optim
from amlocal.trainers.checkpoints import plain
from amlocal.trainers.models import huggingface, timm
from amlocal.trainers.models.network import Network, freeze

TASK = "image-classification"
HALF = (0.5, 0.5, 0.5)
_TRANSFORMER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
TINY = {
    "hf-vit": ("ViTForImageClassification", {"model_type": "vit", **_TRANSFORMER, "patch_size": 8}),
    "hf-deit": ("DeiTForImageClassification", {"model_type": "deit", **_TRANSFORMER, "patch_size": 8}),
    "hf-beit": (
        "BeitForImageClassification",
        {"model_type": "beit", **_TRANSFORMER, "patch_size": 8, "use_relative_position_bias": True},
    ),
    "hf-swinv2": (
        "Swinv2ForImageClassification",
        {
            "model_type": "swinv2",
            "embed_dim": 16,
            "depths": [1, 2],
            "num_heads": [2, 4],
            "window_size": 4,
            "patch_size": 4,
        },
    ),
}
SMALLEST = {
    "mobilenet": "mobilenetv2",
    "resnet": "resnet18",
    "resnest": "resnest50",
    "seresnext": "seresnext",
    "vit": "vits16r224",
}
FAMILIES = [*SMALLEST, *TINY]
REAL = [row for row in names.models(TASK).values() if row.available]


def built(row: names.Model, classes: int, side: int) -> Network:
    build = timm.build if row.builder == "timm" else huggingface.build
    return build(row, classes, None, side)


def row_of(family: str, side: int = 32) -> names.Model:
    if family in SMALLEST:
        return names.model(TASK, SMALLEST[family])
    architecture, config = TINY[family]
    facts = model_config.Facts(architecture, {**config, "image_size": side}, HALF, HALF, side)
    return names.restored(TASK, f"tiny/{family}", facts)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny_set(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Eight images: four brighter at the top, four brighter at the bottom, with noise."""
    noise = torch.Generator().manual_seed(11)
    targets = torch.tensor([0, 1] * 4)
    slope = torch.linspace(1, -1, side).view(1, 1, side, 1)
    signs = (1 - 2 * targets).view(8, 1, 1, 1)
    return slope * signs + 0.3 * torch.randn(8, 3, side, side, generator=noise), targets


def step(network: Network, optimizer: torch.optim.Optimizer, side: int) -> float:
    images, targets = tiny_set(side)
    optimizer.zero_grad(set_to_none=True)
    loss = F.cross_entropy(network.module(images), targets)
    loss.backward()
    optim.clip(network.module.parameters(), "norm")
    optimizer.step()
    return loss.item()


def settle(network: Network, images: torch.Tensor) -> None:
    """Let the means of batch normalisation be those of now: after some steps they are mostly of the start."""
    for part in network.module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 1.0
    with torch.no_grad():
        network.module(images)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_learns_a_tiny_set_by_heart_and_predicts_the_same_once_loaded(
    tmp_path: Path, family: str
) -> None:
    side = 64 if family == "mobilenet" else 32
    torch.manual_seed(5)
    row = row_of(family)
    network = built(row, 2, side)
    images, targets = tiny_set(side)
    optimizer = torch.optim.AdamW(
        network.module.parameters(), lr=0.01 if family in TINY else 5e-4, fused=True
    )
    network.module.train()
    losses = [step(network, optimizer, side)]
    while len(losses) < 60 and max(losses[-3:]) > 0.02:
        losses.append(step(network, optimizer, side))
    assert max(losses[-3:]) <= 0.02 < losses[0]
    settle(network, images)
    with torch.inference_mode():
        outputs = network.module.eval()(images)
    assert outputs.argmax(1).tolist() == targets.tolist()
    assert outputs.shape == (8, 2)

    save_file(plain(network.module), tmp_path / "model.safetensors")
    torch.manual_seed(6)
    again = built(row, 2, side)
    with torch.inference_mode():
        assert not torch.equal(again.module.eval()(images), outputs)
        load_model(again.module, tmp_path / "model.safetensors", strict=True)
        assert torch.equal(again.module.eval()(images), outputs)


# What each entry of layers_to_freeze covers, first the stem. Source: Azure's hyperparameter reference for
# timm's families; embeddings, then layers (stages of Swin) for Hugging Face's.
_MOBILENET = [1, 2, 3, 4, 3, 3, 1]
LAYERS = {
    "mobilenet": [
        ("conv_stem.", "bn1."),
        *((f"blocks.{stage}.{block}.",) for stage, n in enumerate(_MOBILENET) for block in range(n)),
        ("conv_head.", "bn2."),
    ],
    "vit": [("patch_embed.",), *((f"blocks.{n}.",) for n in range(12))],
    "hf-vit": [("vit.embeddings.",), ("vit.layers.0.",), ("vit.layers.1.",)],
    "hf-deit": [("deit.embeddings.",), ("deit.layers.0.",), ("deit.layers.1.",)],
    "hf-beit": [("beit.embeddings.",), ("beit.layers.0.",), ("beit.layers.1.",)],
    "hf-swinv2": [("swinv2.embeddings.",), ("swinv2.encoder.layers.0.",), ("swinv2.encoder.layers.1.",)],
    **{
        family: [("conv1.", "bn1."), *((f"layer{n}.",) for n in range(1, 5))]
        for family in ("resnet", "resnest", "seresnext")
    },
}


def frozen_names(network: Network) -> set[str]:
    return {name for name, parameter in network.module.named_parameters() if not parameter.requires_grad}


@pytest.mark.parametrize("family", FAMILIES)
def test_freezing_freezes_exactly_the_named_layers(family: str) -> None:
    network = built(row_of(family), 3, 32)
    everything = [name for name, _ in network.module.named_parameters()]
    layers = LAYERS[family]
    assert len(network.stages) == len(layers)
    for count in (len(layers), 1, 2, len(layers) - 1, 0):
        wanted = tuple(prefix for layer in layers[:count] for prefix in layer)
        assert freeze(network, count) == count
        assert frozen_names(network) == {name for name in everything if wanted and name.startswith(wanted)}
        assert freeze(network, None) == 0, "None leaves everything as it is"
        assert frozen_names(network) == {name for name in everything if wanted and name.startswith(wanted)}
        assert all(any(name.startswith(prefix) for name in everything) for prefix in wanted)
    assert freeze(network, 99) == len(layers)


@pytest.mark.parametrize("family", ["resnet", "hf-swinv2"])
def test_frozen_layers_stay_and_the_others_learn(family: str) -> None:
    network = built(row_of(family), 2, 32)
    freeze(network, 2)
    before = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.module.parameters() if p.requires_grad], lr=0.1)
    network.module.train()
    step(network, optimizer, 32)
    after = network.module.state_dict()
    changed = {
        name for name, _ in network.module.named_parameters() if not torch.equal(before[name], after[name])
    }
    frozen = frozen_names(network)
    assert frozen
    assert not changed & frozen
    assert {name.split(".")[0] for name in changed} >= (
        {"layer4", "fc"} if family == "resnet" else {"classifier"}
    )
    if family == "resnet":
        assert not torch.equal(before["bn1.running_mean"], after["bn1.running_mean"])


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize("side", [24, 48])
def test_a_hugging_face_family_trains_at_another_size_than_its_own(family: str, side: int) -> None:
    own = row_of(family)
    network = built(own, 2, side)
    assert network.image_size == side
    optimizer = torch.optim.AdamW(network.module.parameters(), lr=0.01, fused=True)
    losses = [step(network, optimizer, side) for _ in range(15)]
    assert losses[-1] < losses[0]
    assert all(parameter.grad is not None for parameter in network.module.parameters())
    shapes = {name: tensor.shape for name, tensor in built(own, 2, 32).module.state_dict().items()}
    assert {name: tensor.shape for name, tensor in network.module.state_dict().items()} == shapes


@pytest.mark.slow
@pytest.mark.parametrize("row", REAL, ids=lambda row: row.name)
def test_every_model_takes_a_step_and_predicts_the_same_once_loaded(tmp_path: Path, row: names.Model) -> None:
    side = 64
    torch.manual_seed(5)
    network = built(row, 2, side)
    images, _ = tiny_set(side)
    before = {name: tensor.clone() for name, tensor in network.module.named_parameters()}
    network.module.train()
    optimizer = torch.optim.SGD(network.module.parameters(), lr=0.01)
    assert step(network, optimizer, side) > 0
    after = dict(network.module.named_parameters())
    assert all(tensor.grad is not None and torch.isfinite(tensor.grad).all() for tensor in after.values())
    # At so small a size many a bias gets a gradient too small to change a number near one.
    moved = {name for name, tensor in after.items() if not torch.equal(before[name], tensor)}
    assert len(moved) > 0.7 * len(after)
    with torch.inference_mode():
        outputs = network.module.eval()(images)
    save_file(plain(network.module), tmp_path / "model.safetensors")
    again = built(row, 2, side)
    load_model(again.module, tmp_path / "model.safetensors", strict=True)
    with torch.inference_mode():
        assert torch.equal(again.module.eval()(images), outputs)
    assert torch.isfinite(outputs).all()
