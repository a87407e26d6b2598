"""Building a network without importing PyTorch's compiler, which takes longer than all the rest of timm."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

_UTILITIES = "torch._dynamo.utils"
_DEFERRED = "is_compile_supported"


class _Utilities(ModuleType):
    """Stands for the compiler's utilities while somebody imports the one function that torchvision asks only
    when it runs an operator of detection; whatever else is asked of it comes from the real module."""

    def __getattr__(self, name: str) -> Any:
        if name == _DEFERRED:
            return lambda device: getattr(importlib.import_module(_UTILITIES), name)(device)
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(_UTILITIES) is self:
            del sys.modules[_UTILITIES]
        return getattr(importlib.import_module(_UTILITIES), name)


def _unmarked(fn: Callable[..., Any] | None = None, *_: object, **__: object) -> Any:
    return fn if fn is not None else _unmarked


@contextmanager
def without_compiler() -> Iterator[None]:
    """Inside, timm and torchvision are imported without `torch._dynamo`.

    Only for processes that never compile: a few functions of timm lose the mark that keeps the compiler out
    of them. Where the compiler is loaded already, nothing is changed.
    """
    if "torch._dynamo" in sys.modules:
        yield
        return
    stand_in = _Utilities(_UTILITIES)
    sys.modules[_UTILITIES] = stand_in
    marked = torch.compiler.disable
    torch.compiler.disable = _unmarked
    try:
        yield
    finally:
        torch.compiler.disable = marked
        if sys.modules.get(_UTILITIES) is stand_in:
            del sys.modules[_UTILITIES]
