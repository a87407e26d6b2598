"""Pickled networks of ultralytics and MMDetection: their tensors, and nothing of them is run."""

from __future__ import annotations

import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from amlocal.trainers.errors import TrainingError
from amlocal.trainers.models import inert
from amlocal.trainers.models.convert import convert


class Network(nn.Module):
    """As ultralytics keeps one: layers in `model`, and other things beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
        self.register_buffer("passing", torch.ones(3), persistent=False)
        self.names = {0: "a"}
        self.save = [4, 6]
        self.stride = torch.tensor([8.0])


class History:
    """What a training leaves beside the tensors; a careless reader would run its __setstate__."""

    ran = False

    def __init__(self) -> None:
        self.values = [1, 2]

    def __setstate__(self, state: Any) -> None:
        History.ran = True


@pytest.fixture(autouse=True)
def theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two classes under the names of the packages they stand for."""
    for kind, place in ((Network, "ultralytics.nn.tasks"), (History, "mmengine.logging.history_buffer")):
        parts = place.split(".")
        for length in range(1, len(parts) + 1):
            name = ".".join(parts[:length])
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        setattr(sys.modules[place], kind.__name__, kind)
        monkeypatch.setattr(kind, "__module__", place)


def saved(folder: Path, value: Any) -> Path:
    torch.save(value, folder / "model.pt")
    return folder / "model.pt"


@pytest.mark.parametrize("averaged", [False, True])
def test_the_tensors_of_a_published_network_keep_their_names(tmp_path: Path, averaged: bool) -> None:
    network, other = Network().half(), Network().half()
    checkpoint = {"epoch": -1, "model": other if averaged else network, "ema": network if averaged else None}
    source = saved(tmp_path, checkpoint | {"train_args": {"lr0": 0.01}, "date": "2024"})
    wanted = network.state_dict()
    assert convert(source, tmp_path / "out") == len(wanted) == 7
    found = load_file(tmp_path / "out")
    assert found.keys() == wanted.keys() and "passing" not in found
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype, name


def test_the_tensors_beside_records_of_a_training_are_taken(tmp_path: Path) -> None:
    tensors = OrderedDict({"backbone.conv1.weight": torch.randn(2, 2), "bbox_head.bias": torch.randn(3)})
    checkpoint = {"meta": {"epoch": 12}, "message_hub": {"loss": History()}, "state_dict": tensors}
    assert convert(saved(tmp_path, checkpoint), tmp_path / "out") == 2
    assert not History.ran
    for name, tensor in load_file(tmp_path / "out").items():
        assert torch.equal(tensor, tensors[name])


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_code_beside_a_network_is_not_run(tmp_path: Path) -> None:
    source = saved(tmp_path, {"model": Network(), "x": Touch(tmp_path / "HACKED")})
    assert convert(source, tmp_path / "out") == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt", "out"]


def test_a_network_that_is_a_part_of_itself_is_refused(tmp_path: Path) -> None:
    network = Network()
    network.model._modules["2"] = network.model
    network.model._modules["3"] = network.model
    with pytest.raises(TrainingError, match=r"has names like model\.3\.3\."):
        convert(saved(tmp_path, {"model": network}), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


class Runs:
    """What it names is called by whoever unpickles it as it is meant to be."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


def test_a_file_that_begins_as_a_pickle_and_ends_as_a_zip_runs_nothing(tmp_path: Path) -> None:
    source, ran = tmp_path / "both.pt", tmp_path / "ran"
    with zipfile.ZipFile(tmp_path / "tail.zip", "w") as archive:
        archive.writestr("a", "b")
    source.write_bytes(pickle.dumps(Runs(ran), protocol=2) + (tmp_path / "tail.zip").read_bytes())
    assert zipfile.is_zipfile(source)
    with pytest.raises(RuntimeError, match="Invalid magic number"):
        inert.read(source)
    assert not ran.exists()
