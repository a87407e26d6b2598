"""`amlocal weights` for detectors: a file for each size of yolov5, and weights that lie on no hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from amlocal.emulator.cli import main

Weights = Callable[..., str]


def safetensors() -> bytes:
    """A whole file with one number."""
    text = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(4)


@pytest.fixture
def weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Weights:
    """weights(action, ..., code=0): what the command prints, on both streams."""

    def call(action: str, *arguments: str, code: int = 0) -> str:
        options = ["--weights-dir", str(tmp_path / "weights"), "--data-dir", str(tmp_path / "data")]
        with pytest.raises(SystemExit) as left:
            main(["weights", action, *arguments, *options])
        captured = capsys.readouterr()
        assert left.value.code == code, captured
        return captured.out + captured.err

    return call


def test_each_size_has_its_file(weights: Weights, tmp_path: Path) -> None:
    source = tmp_path / "large.safetensors"
    source.write_bytes(safetensors())
    weights("pull", "yolov5", "--model-size", "large", "--from", str(source))
    weights("pull", "yolov5", "--from", str(source))
    there = sorted(path.name for path in (tmp_path / "weights").iterdir())
    assert there == ["yolov5_large.safetensors", "yolov5_medium.safetensors"]
    lines = [line for line in weights("list").splitlines() if line.startswith("yolov5 ")]
    assert len(lines) == 4
    assert [line.split()[-1].rpartition("/")[2] for line in lines] == [
        f"yolov5_{size}.safetensors" for size in ("small", "medium", "large", "extra_large")
    ]
    assert ["missing" in line for line in lines] == [True, False, False, True]


def test_sizes_that_are_none(weights: Weights, tmp_path: Path) -> None:
    said = weights("pull", "yolov5", "--model-size", "../x", "--from", "y", code=1)
    assert "yolov5 has the sizes small, medium, large, extra_large; --model-size '../x' is none" in said
    said = weights("pull", "resnet18", "--model-size", "large", code=1)
    assert "resnet18 has one file only; --model-size 'large' is none of it" in said
    assert not (tmp_path / "weights").exists()


def test_weights_that_are_on_no_hub_come_from_their_makers(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A proxy that is not there: nothing leaves this machine.
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    said = weights("pull", "fasterrcnn_resnet50_fpn", code=1)
    assert "https://download.pytorch.org/models/fasterrcnn_resnet50_fpn_coco-258fb6c6.pth" in said
    assert "cannot be downloaded" in said
    said = weights("pull", "yolov5", code=1)
    assert "nothing says where the weights of yolov5 are; use --from FILE or URL" in said
