"""Whether weights that are there fit: each kind of bad file is told apart, and good ones are OK."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from amlocal.trainers.models import weight_check


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    """The tensors of resnet18 as the hub has them."""
    return dict(timm.create_model("resnet18").state_dict())


def test_a_file_that_fits(
    tmp_path: Path, published: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(published, tmp_path / "resnet18.safetensors")
    assert weight_check.run(["resnet18"], tmp_path) == 0
    assert capsys.readouterr().out == f"OK     resnet18: {tmp_path}/resnet18.safetensors\n"


def test_each_thing_that_is_wrong_is_named(
    tmp_path: Path, published: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    def said(content: bytes | dict[str, torch.Tensor]) -> str:
        path = tmp_path / "resnet18.safetensors"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            save_file(content, path)
        assert weight_check.run(["resnet18"], tmp_path) == 1
        line = capsys.readouterr().out
        assert line.startswith(f"WRONG  resnet18: {path} ")
        return line

    wrong = {**published, "layer1.0.conv1.weight": torch.zeros(64, 64, 5, 5)}
    assert "does not fit resnet18" in (line := said(wrong)) and "layer1.0.conv1.weight" in line
    less = {name: tensor for name, tensor in published.items() if name != "conv1.weight"}
    assert "1 tensors are missing" in (line := said(less)) and "conv1.weight" in line
    save_file(published, tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    for part in (whole[: len(whole) // 2], whole[:100], b"", b"<html>", b"\x80\x02}q\x00."):
        assert "is not a readable safetensors file" in said(part)


def test_what_is_missing_or_has_no_name_is_wrong_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert weight_check.run(["resnet18", "../x", "acme/tiny-vit"], tmp_path) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("WRONG  resnet18: pretrained weights of resnet18 were not found")
    assert lines[1].startswith("WRONG  ../x: model_name: '../x' is not allowed")
    assert lines[2].startswith("WRONG  acme/tiny-vit: pretrained weights of acme/tiny-vit were not found")
