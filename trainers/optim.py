"""Parameter groups, optimizers, learning-rate schedules and gradient clipping, by Azure's written rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
_FUSED = ("cpu", "cuda")
CLIP_VALUE = 5.0
CLIP_NORM = 1.0


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Three groups of the trainable parameters: weights (decayed), normalisation weights, biases (not
    decayed)."""
    weights: list[nn.Parameter] = []
    norms: list[nn.Parameter] = []
    biases: list[nn.Parameter] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if name.endswith("bias"):
                biases.append(parameter)
            elif isinstance(module, _NORMS):
                norms.append(parameter)
            else:
                weights.append(parameter)
    return [
        {"params": weights, "weight_decay": weight_decay},
        {"params": norms, "weight_decay": 0.0},
        {"params": biases, "weight_decay": 0.0},
    ]


def optimizer(
    model: nn.Module, parameters: Mapping[str, Any], *, fused: bool | None = None
) -> torch.optim.Optimizer:
    """SGD, Adam or AdamW over `parameter_groups`.

    `fused` (all of a step in one kernel; the same numbers within rounding) is used where PyTorch has it for
    the parameters' device, unless it is set to False.
    """
    groups = [group for group in parameter_groups(model, parameters["weight_decay"]) if group["params"]]
    rate = parameters["learning_rate"]
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    build: Callable[..., torch.optim.Optimizer] = kinds[parameters["optimizer"]]
    options: dict[str, Any]
    if parameters["optimizer"] == "sgd":
        options = {"momentum": parameters["momentum"], "nesterov": parameters["nesterov"]}
    else:
        options = {
            "betas": (parameters["beta1"], parameters["beta2"]),
            "amsgrad": parameters["ams_gradient"],
        }
    everything = [parameter for group in groups for parameter in group["params"]]
    if fused is not False and all(p.device.type in _FUSED and p.is_floating_point() for p in everything):
        options["fused"] = True
    return build(groups, lr=rate, **options)


def warmup_cosine(step: int, warm: int, total: int, cycles: float) -> float:
    """Share of the learning rate at batch `step` (from 0): linear from 0 over `warm` batches, then a cosine.

    With `cycles` 0.45 it ends at about 2.4 % and not at 0.
    """
    if step < warm:
        return step / warm
    progress = (step - warm) / max(1, total - warm)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * 2.0 * cycles * progress)))


def step_decay(epoch: int, size: int, gamma: float) -> float:
    """Share of the learning rate in `epoch` (from 0): times `gamma` every `size` epochs."""
    return float(gamma ** (epoch // size))


class Schedule:
    """Sets the learning rate before each batch; it is a function of the batch number, so it has no state.

    `scale` multiplies the rate: by the number of processes, as each step then sees that many times as many
    images.
    """

    def __init__(self, parameters: Mapping[str, Any], batches_per_epoch: int, *, scale: float = 1.0) -> None:
        self._parameters = parameters
        self._batches = batches_per_epoch
        self._rate = parameters["learning_rate"] * scale

    def factor(self, epoch: int, batch: int) -> float:
        """Share of the learning rate at one batch of one epoch, both from 0."""
        p = self._parameters
        if p["learning_rate_scheduler"] == "step":
            return step_decay(epoch, p["step_lr_step_size"], p["step_lr_gamma"])
        return warmup_cosine(
            epoch * self._batches + batch,
            p["warmup_cosine_lr_warmup_epochs"] * self._batches,
            p["number_of_epochs"] * self._batches,
            p["warmup_cosine_lr_cycles"],
        )

    def apply(self, optimizer: torch.optim.Optimizer, epoch: int, batch: int) -> float:
        """Set the rate of every group; returns it."""
        rate = float(self._rate * self.factor(epoch, batch))
        for group in optimizer.param_groups:
            group["lr"] = rate
        return rate


def clip(parameters: Iterable[nn.Parameter], how: str) -> None:
    """Clip gradients in place: each to +-5 ("value"), or their whole norm to 1 ("norm")."""
    if how == "value":
        torch.nn.utils.clip_grad_value_(parameters, CLIP_VALUE)
    else:
        torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)


class EarlyStopping:
    """Remembers the best score and says when to stop.

    Ties make the later epoch the best one but are no progress; evaluations count against the patience only
    from epoch `delay` on; it stops when the count reaches the patience, or with `beyond` when it exceeds it.
    """

    def __init__(self, *, enabled: bool, patience: int, delay: int, beyond: bool = False) -> None:
        self._enabled = enabled
        self._most = patience + 1 if beyond else patience
        self._delay = delay
        self.best: float | None = None
        self.best_epoch = -1
        self.count = 0

    def update(self, epoch: int, score: float) -> bool:
        """Take the score of one evaluated epoch (from 0, higher is better). True when it is the best so
        far."""
        progress = self.best is None or score > self.best
        is_best = self.best is None or score >= self.best
        if is_best:
            self.best, self.best_epoch = score, epoch
        if progress:
            self.count = 0
        elif epoch >= self._delay:
            self.count += 1
        return is_best

    @property
    def stop(self) -> bool:
        return self._enabled and self.count >= self._most

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch, "count": self.count}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best, self.best_epoch, self.count = state["best"], state["best_epoch"], state["count"]
