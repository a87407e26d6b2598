"""Pickles into safetensors: what is taken, what is refused, and that nothing in a file is run."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from amlocal.trainers.errors import TrainingError
from amlocal.trainers.models.convert import convert

TRAINERS = [sys.executable, "-m", "amlocal.trainers"]


class Touch:
    """A pickle that makes a file where it is opened by a careless reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def saved(folder: Path, value: Any, name: str = "model.pt") -> Path:
    torch.save(value, folder / name)
    return folder / name


def test_a_state_dict_keeps_names_shapes_types_and_values(tmp_path: Path) -> None:
    tensors = {
        "a.weight": torch.randn(3, 4),
        "b": torch.tensor(7),
        "c": torch.randn(2, 2).bfloat16(),
        "d": torch.nn.Parameter(torch.ones(5)),
        "e": torch.zeros(0, 3),
    }
    target = tmp_path / "out.safetensors"
    assert convert(saved(tmp_path, tensors), target) == 5
    found = load_file(target)
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor.detach()), name
    with safe_open(target, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt", "out.safetensors"]


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model_state", "model"])
def test_the_tensors_of_a_checkpoint_are_found_beside_other_things(tmp_path: Path, key: str) -> None:
    source = saved(tmp_path, {"epoch": 3, key: {"module.w": torch.ones(2), "module.v": torch.ones(1)}})
    assert convert(source, tmp_path / "out") == 2
    assert set(load_file(tmp_path / "out")) == {"w", "v"}


def test_tied_tensors_and_parts_of_others_get_memory_of_their_own(tmp_path: Path) -> None:
    whole = torch.randn(100, 4)
    source = saved(
        tmp_path, {"in.weight": whole, "out.weight": whole, "part": whole[:2], "turned": whole.t()}
    )
    convert(source, tmp_path / "out")
    found = load_file(tmp_path / "out")
    assert torch.equal(found["in.weight"], whole) and torch.equal(found["out.weight"], whole)
    assert torch.equal(found["part"], whole[:2]) and torch.equal(found["turned"], whole.t())
    assert (tmp_path / "out").stat().st_size < 3 * whole.numel() * 4 + 1000


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"w": torch.ones(1), "args": Namespace(lr=1)}, r"more than tensors \(argparse.Namespace\)"),
        (torch.nn.Linear(1, 1), r"more than tensors \(torch.nn.modules.linear.Linear\)"),
        ([torch.ones(1)], "no tensors by name"),
        ({}, "no tensors by name"),
        (torch.ones(1), "no tensors by name"),
        ({"w": torch.ones(1), "n": 3}, "'n' is of type int, not a tensor"),
        ({1: torch.ones(1)}, "the name of a tensor is 1, not a text"),
        ({"w": torch.ones(3, 3).to_sparse()}, "'w' is sparse or quantized"),
        ({"w": torch.ones(1).expand(10**9)}, "would become 4000 MB, far more than it is"),
    ],
    ids=["namespace", "module", "list", "empty", "tensor", "number", "key", "sparse", "bomb"],
)
def test_what_is_refused_leaves_no_file(tmp_path: Path, value: Any, reason: str) -> None:
    with pytest.raises(TrainingError, match=reason) as caught:
        convert(saved(tmp_path, value), tmp_path / "out")
    assert str(tmp_path / "model.pt") in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize(
    "content", [b"", b"junk", b"<html></html>" * 50, b"PK\x03\x04" + b"\0" * 99, b"\x80\x02."]
)
def test_what_is_no_file_of_pytorchs(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(TrainingError, match=r"is no file of PyTorch's: ."):
        convert(tmp_path / "model.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    mark, source, target = tmp_path / "HACKED", tmp_path / "model.pt", tmp_path / "out"
    value = {"w": torch.ones(1), "x": Touch(mark)}
    torch.save(value, source, _use_new_zipfile_serialization=False)
    with pytest.raises(TrainingError, match=r"\(posix.system\): opening it could run any code"):
        convert(source, target)
    torch.save(value, source)
    done = subprocess.run([*TRAINERS, "convert", str(source), str(target)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.startswith(f"ERROR: {source} holds more than tensors (posix.system): ")
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_a_conversion_is_limited_in_memory_time_and_files(tmp_path: Path) -> None:
    source = saved(tmp_path, {"w": torch.ones(4)})
    program = (
        "import resource, sys; from pathlib import Path; from amlocal.trainers.models import convert\n"
        "convert.limit(Path(sys.argv[1]))\n"
        "for what in 'AS', 'CPU', 'FSIZE', 'CORE':\n"
        "    print(resource.getrlimit(getattr(resource, f'RLIMIT_{what}'))[0])\n"
        "try:\n    bytearray(4 << 30)\nexcept MemoryError:\n    print('enough')\n"
        "print(convert.convert(Path(sys.argv[1]), Path(sys.argv[2])))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(source), str(tmp_path / "out")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    space, seconds, size, core, enough, count = done.stdout.split()
    assert 2 << 30 < int(space) < 64 << 30
    assert (int(seconds), int(core), enough, count) == (900, 0, "enough", "1")
    assert 64 << 20 <= int(size) < 65 << 20
    assert resource.getrlimit(resource.RLIMIT_CPU)[0] != 900


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pt", tmp_path, Path("/dev/zero")):
        with pytest.raises(TrainingError, match="is no file"):
            convert(path, tmp_path / "out")
