"""The ways to run one trained network: a function from a batch of inputs to the network's outputs each."""

from __future__ import annotations

import copy
import importlib.util
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from amlocal.trainers.serving.folding import folded

Forward = Callable[[Any], Any]
"""From what the predictor calls inputs to what it calls outputs; tensors where it classifies."""


class NotPossible(Exception):
    """An engine cannot be had for this network, on this device or with what is installed; the text says
    why."""


@dataclass(frozen=True)
class Plan:
    """What engines are made of: the network in fp32 on its device, the shape of one image (channels, height,
    width), how many threads there are, and inputs that the network can be tried with; None: two images of
    zeros."""

    module: nn.Module
    shape: tuple[int, int, int]
    device: torch.device
    threads: int
    sample: Any = None

    def copied(self, memory_format: torch.memory_format = torch.contiguous_format) -> nn.Module:
        """A copy to change."""
        return copy.deepcopy(self.module).to(memory_format=memory_format)

    def example(self) -> Any:
        """Inputs to try the network with."""
        return torch.zeros(2, *self.shape, device=self.device) if self.sample is None else self.sample


def _eager(plan: Plan) -> Forward:
    return lambda inputs: plan.module(inputs)


def _channels_last(plan: Plan) -> Forward:
    return _last(plan.copied(torch.channels_last))


def _last(module: nn.Module) -> Forward:
    return lambda inputs: module(inputs.contiguous(memory_format=torch.channels_last))


def _folded(plan: Plan) -> nn.Module:
    module = plan.copied()
    if not folded(module, plan.example()):
        raise NotPossible("the network has no batch normalisation after a convolution")
    return module


def _folded_contiguous(plan: Plan) -> Forward:
    module = _folded(plan)
    return lambda inputs: module(inputs.contiguous())


def _folded_last(plan: Plan) -> Forward:
    return _last(_folded(plan).to(memory_format=torch.channels_last))


def _bf16(plan: Plan) -> Forward:
    if not has_bf16(plan.device):
        raise NotPossible("the device has no bf16")
    module = plan.copied(torch.channels_last).to(torch.bfloat16)
    kind = {"dtype": torch.bfloat16, "memory_format": torch.channels_last}
    return lambda inputs: module(inputs.to(**kind)).float()


def _compiled(plan: Plan) -> Forward:
    if plan.device.type != "cuda":
        raise NotPossible("compiling pays on a GPU only")
    module = plan.copied(torch.channels_last)
    compiled: Any = torch.compile(module, dynamic=True)
    return lambda inputs: compiled(inputs.contiguous(memory_format=torch.channels_last))


def _onnx(plan: Plan) -> Forward:
    if plan.device.type != "cpu":
        raise NotPossible("onnxruntime is used on the CPU only")
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise NotPossible(f"the package {package} is not installed")
    import onnxruntime

    from amlocal.trainers.export import onnx as export

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = plan.threads
    # Threads that spin while they wait would take the cores from those that open images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory(prefix="amlocal-onnx-") as folder:
        path = Path(folder, "model.onnx")
        try:
            export.write(plan.module, plan.shape, path, probabilities=False)
        except export.ExportError as error:
            raise NotPossible(f"the export fails: {error}") from error
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda inputs: torch.from_numpy(session.run(None, {name: inputs.contiguous().numpy()})[0])


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 is computed by the device itself and not emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    flags = next((line.split() for line in facts.splitlines() if line.startswith(("flags", "Features"))), [])
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags))


EAGER = "eager"
ENGINES: Mapping[str, Callable[[Plan], Forward]] = {
    EAGER: _eager,
    "channels_last": _channels_last,
    "folded": _folded_contiguous,
    "folded_channels_last": _folded_last,
    "bf16": _bf16,
    "onnx": _onnx,
    "compiled": _compiled,
}


def candidates(device: torch.device) -> list[str]:
    """Those that a probe tries, the plain one first. Compiling takes longer than a start may, so a compiled
    network must be asked for."""
    if device.type == "cuda":
        return [EAGER, "channels_last", "folded_channels_last", "bf16"]
    short = ["bf16"] if has_bf16(device) else []
    return [EAGER, "onnx", *short, "folded_channels_last", "channels_last"]
