from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from amlocal.trainers.averaging import Averaging, decay
from amlocal.trainers.checkpoints import plain
from amlocal.trainers.errors import TrainingError


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


def test_the_decay_rises_from_nothing_to_the_documented_value() -> None:
    assert decay(1) == pytest.approx(0.9999 * (1 - math.exp(-1 / 2000)))
    assert decay(2000) == pytest.approx(0.9999 * (1 - 1 / math.e))
    assert decay(100_000) == pytest.approx(0.9999)


def test_the_average_follows_weights_and_running_statistics() -> None:
    model = network()
    averaging = Averaging(model)
    expected = {name: tensor.double().clone() for name, tensor in model.state_dict().items()}
    for step in range(1, 6):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(step)
            model(torch.randn(4, 2, generator=torch.Generator().manual_seed(step)))
        averaging.update()
        keep = 0.9999 * (1 - math.exp(-step / 2000))
        for name, tensor in model.state_dict().items():
            expected[name] = expected[name] * keep + tensor.double() * (1 - keep)
    found = averaging.tensors()
    assert found.keys() == model.state_dict().keys()
    for name, tensor in found.items():
        if tensor.is_floating_point():
            assert torch.allclose(tensor.double(), expected[name], rtol=1e-5), name
    # What is counted cannot be averaged.
    assert found["1.num_batches_tracked"].item() == 5


def test_the_model_has_the_averages_only_inside() -> None:
    model = network()
    averaging = Averaging(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        model[0].weight.add_(1)
    own = model[0].weight.detach().clone()
    with averaging.exchanged():
        assert torch.equal(model[0].weight, before["0.weight"])
    assert torch.equal(model[0].weight, own)
    with pytest.raises(RuntimeError, match="inside"), averaging.exchanged():
        raise RuntimeError("inside")
    assert torch.equal(model[0].weight, own)


def test_a_resumed_average_goes_on_as_if_nothing_had_happened() -> None:
    model = network()
    straight = Averaging(model)
    straight.update()
    kept, updates = straight.tensors(), straight.updates
    with torch.no_grad():
        model[0].weight.add_(1)
    resumed = Averaging(model)
    resumed.restore(kept, updates)
    straight.update()
    resumed.update()
    assert resumed.updates == straight.updates == 2
    for name, tensor in straight.tensors().items():
        assert torch.equal(tensor, resumed.tensors()[name]), name
    with pytest.raises(TrainingError, match="not those of this network"):
        resumed.restore({"0.weight": kept["0.weight"]}, 1)


def test_a_tensor_with_two_names_is_saved_and_averaged_under_both(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    averaging = Averaging(model)
    with torch.no_grad():
        model[0].weight.add_(1)
    averaging.update()
    save_file(plain(model), tmp_path / "model.safetensors")
    save_file(averaging.tensors(), tmp_path / "averaged.safetensors")
    for name in ("model.safetensors", "averaged.safetensors"):
        found = load_file(tmp_path / name)
        assert torch.equal(found["0.weight"], found["1.weight"])
    with averaging.exchanged():
        assert model[1].weight is model[0].weight
        assert torch.equal(model[0].weight, found["0.weight"])
