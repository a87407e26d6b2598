"""A running average of a network's weights, which is what yolov5 keeps of its training.

Azure's rule: after its n-th step the average moves to the weights by 1 - 0.9999 x (1 - exp(-n / 2000)), so
the first steps, which are far from any good, are soon forgotten. Running means and variances are averaged,
too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from amlocal.trainers.errors import TrainingError

DECAY = 0.9999
STEPS = 2000.0


def decay(updates: int) -> float:
    """How much of the average stays at update `updates` (from 1)."""
    return DECAY * (1 - math.exp(-updates / STEPS))


class Averaging:
    """The average of one network's weights and buffers, on the network's device.

        averaging = Averaging(model)
        ...                             # after each step of the optimizer:
        averaging.update()
        with averaging.exchanged():     # the model has the averages here, and its own weights afterwards
            score = evaluate(model)
            save(model)

    To go on later, keep `tensors()` and `updates` beside the network's own weights, for `restore`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._average = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self.updates = 0

    def update(self) -> None:
        """Take the weights as they are after a step of the optimizer."""
        self.updates += 1
        own = {name: tensor.detach() for name, tensor in self._model.state_dict().items()}
        moving = [name for name, tensor in own.items() if tensor.is_floating_point()]
        # Given a decay, PyTorch's function does it in a few kernels for all tensors; its third argument, how
        # many were averaged, plays no part in it.
        get_ema_multi_avg_fn(decay(self.updates))(
            [self._average[name] for name in moving], [own[name] for name in moving], self.updates
        )
        for name in own.keys() - set(moving):
            self._average[name].copy_(own[name])

    @contextmanager
    def exchanged(self) -> Iterator[None]:
        """Inside, the model has the averages; what is done to them there does not stay."""
        own = {name: tensor.detach().clone() for name, tensor in self._model.state_dict().items()}
        self._model.load_state_dict(self._average)
        try:
            yield
        finally:
            self._model.load_state_dict(own)

    def tensors(self) -> dict[str, Tensor]:
        """The averages by the network's names, on the CPU, contiguous."""
        return {name: tensor.cpu().contiguous() for name, tensor in self._average.items()}

    def restore(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Go on from what `tensors` and `updates` were. Raises TrainingError when they do not fit."""
        if {n: t.shape for n, t in tensors.items()} != {n: t.shape for n, t in self._average.items()}:
            raise TrainingError("the averaged weights of the checkpoint are not those of this network")
        with torch.no_grad():
            for name, tensor in tensors.items():
                self._average[name].copy_(tensor)
        self.updates = updates
