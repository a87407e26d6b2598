"""The weights that are kept of a training: the network's own, or, where it asks for that, their averages."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

from amlocal.trainers.averaging import Averaging
from amlocal.trainers.checkpoints import Checkpoint


class Kept:
    """Those of one network; `averaged` of its class says whether they are averages."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.restart()

    @property
    def averaged(self) -> bool:
        return self._averaging is not None

    def restart(self) -> None:
        """Begin with the weights that the network has now."""
        wanted = getattr(self._model, "averaged", False)
        self._averaging = Averaging(self._model) if wanted else None

    def stepped(self) -> None:
        """The optimizer took a step."""
        if self._averaging is not None:
            self._averaging.update()

    def exchanged(self) -> AbstractContextManager[None]:
        """Inside, the network has them."""
        return nullcontext() if self._averaging is None else self._averaging.exchanged()

    def tensors(self) -> dict[str, Tensor] | None:
        """The averages; None where the network's own weights are kept."""
        return None if self._averaging is None else self._averaging.tensors()

    @property
    def steps(self) -> int:
        """How many steps are in the averages."""
        return 0 if self._averaging is None else self._averaging.updates

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint with `tensors` and, as `averaged` in its state, `steps`."""
        if self._averaging is not None:
            self._averaging.restore(checkpoint.averaged(), checkpoint.state["averaged"])
