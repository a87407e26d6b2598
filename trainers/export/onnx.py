"""Networks as ONNX files, under the tensor names that Azure's samples use."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from amlocal.trainers import files

INPUT, OUTPUT = "input1", "output1"
# Old enough for any onnxruntime of the last years.
OPSET = 17
# Two, since a network may take another way for a single image.
_IMAGES = 2
# A protobuf message is smaller than 2 GiB; the graph itself needs some of that.
_LARGEST = 2**31 - 2**24
# torch's exporter keeps what it is doing in globals.
_ONE_AT_A_TIME = threading.Lock()


class ExportError(Exception):
    """The network cannot be written as ONNX. The message is the reason, in a line."""


def write(
    module: nn.Module,
    shape: tuple[int, int, int],
    path: Path,
    *,
    probabilities: bool,
    multilabel: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a classifier as one ONNX file with all weights in it; the file is there whole or not at all.

    `input1` is (batch, *shape) in the network's own dtype, `output1` (batch, classes), any batch >= 1.
    `output1` holds the raw outputs (the public samples apply softmax or sigmoid themselves), or with
    `probabilities` their softmax, for `multilabel` their sigmoid. `metadata` goes into the file's properties.
    `module` stays as it is. Raises ExportError.
    """
    answers = _Answers(module, probabilities, multilabel)
    own = next(module.parameters())
    example = torch.zeros(_IMAGES, *shape, dtype=own.dtype, device=own.device)
    axes = {INPUT: {0: "batch"}, OUTPUT: {0: "batch"}}
    save(answers, example, path, outputs=(OUTPUT,), axes=axes, metadata=metadata)


def save(
    module: nn.Module,
    example: Tensor,
    path: Path,
    *,
    outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write any network that takes one tensor like `example`, named `input1`, and answers with `outputs`.

    `axes` names the dimensions of each that may have another length. The file is there whole or not at all,
    and `module` stays as it is. Raises ExportError.
    """
    try:
        with _ONE_AT_A_TIME:
            _save(module, example, path, outputs, axes, metadata or {})
    except ExportError:
        raise
    except Exception as error:
        # What the exporter raises for an operation it does not know is its own affair.
        lines = str(error).split("\n")
        reason = next((line.strip() for line in lines if line.strip()), type(error).__name__)
        raise ExportError(reason[:500]) from error


def _save(
    module: nn.Module,
    example: Tensor,
    path: Path,
    outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
    metadata: Mapping[str, str],
) -> None:
    size = sum(t.numel() * t.element_size() for t in module.state_dict().values())
    if size > _LARGEST:
        raise ExportError(f"the weights take {size / 2**30:.1f} GiB; one ONNX file holds less than 2 GiB")
    try:
        import onnx
    except ImportError as error:
        raise ExportError("the package onnx is not installed") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _trace(module, example, temporary, outputs, axes)
        # Protobuf merges messages that follow each other, so the weights need not be read again.
        more = onnx.ModelProto()
        onnx.helper.set_model_props(more, dict(metadata))
        with temporary.open("ab") as file:
            file.write(more.SerializeToString())
            file.flush()
            os.fsync(file.fileno())
        onnx.checker.check_model(str(temporary))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    files.sync_folder(path.parent)


def _trace(
    module: nn.Module,
    example: Tensor,
    path: Path,
    outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
) -> None:
    was_training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # They tell the author of a network which Python values become constants, and that torch has
            # another exporter, which takes several times as long.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                (example,),
                str(path),
                dynamo=False,
                input_names=[INPUT],
                output_names=list(outputs),
                dynamic_axes={name: dict(some) for name, some in axes.items()},
                opset_version=OPSET,
            )
    finally:
        for part in was_training:
            part.training = True


class _Answers(nn.Module):
    """A classifier with what is to be done to its outputs."""

    def __init__(self, module: nn.Module, probabilities: bool, multilabel: bool) -> None:
        super().__init__()
        self.module = module
        self._probabilities = probabilities
        self._multilabel = multilabel

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.module(images)
        if not self._probabilities:
            return found
        return found.sigmoid() if self._multilabel else found.softmax(1)
