"""Building a network whose weights are then read from a file, without drawing random ones first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

# By name: tensors and torch.nn.init have the same, and transformers puts functions of its own in their place.
_DRAWS = frozenset(
    {
        "normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "xavier_normal_",
        "xavier_uniform_",
    }
)  # fmt: skip
# What is done to the numbers drawn.
_SCALES = frozenset({"erfinv_", "mul_", "div_", "add_", "sub_", "clamp_"})
_DRAWN = frozenset({"rand", "randn"})


class _Blank(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _DRAWN:
            return torch.zeros(*args, **{key: kwargs[key] for key in kwargs if key != "generator"})
        target = args[0] if args else kwargs.get("tensor")
        # Only parameters: some initialisations draw into other tensors until they like what they get.
        if isinstance(target, nn.Parameter):
            if name in _DRAWS:
                with torch.no_grad():
                    return target.zero_()
            if name in _SCALES:
                return target
        return func(*args, **kwargs)


@contextmanager
def blank() -> Iterator[None]:
    """Networks that this thread builds inside have zeros for random parameters; their buffers are what they
    always are.

    Only for a network whose every parameter is set right after, as `load_state_dict` with strict does.
    """
    with _Blank():
        yield
