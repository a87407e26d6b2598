"""Tensors out of a pickled network whose classes are not imported, let alone run.

Ultralytics publishes whole networks as pickles, and MMDetection puts records of its training beside the
tensors. Reading them as they are meant to be read would run whatever the file says. Here every class and
function that a file names becomes a stand-in that does nothing but keep what it is given; only tensors and
plain containers become what they are. A network's tensors are then found where PyTorch's modules keep them.
"""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch._utils import _rebuild_parameter, _rebuild_tensor_v2

FROM = ("ultralytics.", "mmengine.")
"""Whose pickles are read so."""
_REAL: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
}
_NETWORKS = ("ema", "model")
"""Where a checkpoint keeps its network, the likeliest first."""
_MOST_PARTS, _LONGEST_NAME = 10_000, 300
"""Of a network; a hostile one may have itself as a part."""


class StandIn:
    """In place of anything that a pickle names."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Takes anything."""


class Unpickler(pickle.Unpickler):
    """Knows tensors and plain containers."""

    def find_class(self, module: str, name: str) -> Any:
        known = _REAL.get((module, name))
        return known if known is not None else type(name, (StandIn,), {})


# `torch.load` takes these from a module for pickles. A file may begin as PyTorch's old format, for which it
# calls `load`, and end as a zip, so that these too must run nothing.


def load(file: BinaryIO, **options: Any) -> Any:
    """What a pickle holds, with stand-ins in it."""
    return Unpickler(file, **options).load()


def loads(data: bytes, **options: Any) -> Any:
    """As `load`."""
    return load(io.BytesIO(data), **options)


def read(path: Path) -> Any:
    """What a file of `torch.save` holds, with stand-ins in it. Raises whatever a broken file makes PyTorch
    raise, and ValueError for PyTorch's format of before 2020."""
    if not zipfile.is_zipfile(path):
        raise ValueError("it is in the old format of torch.save")
    found = torch.load(path, map_location="cpu", weights_only=False, pickle_module=sys.modules[__name__])
    return _tensors_of_network(found)


def _tensors_of_network(found: Any) -> Any:
    """The tensors of the network in a checkpoint, by name; where there is none, what was found."""
    if not isinstance(found, Mapping):
        return dict(_tensors(found)) if isinstance(found, StandIn) else found
    for key in _NETWORKS:
        if isinstance(network := found.get(key), StandIn):
            return dict(_tensors(network))
    return found


def _tensors(network: StandIn) -> Iterator[tuple[str, Tensor]]:
    left = [("", network)]
    for _ in range(_MOST_PARTS):
        if not left:
            return
        prefix, module = left.pop()
        if len(prefix) > _LONGEST_NAME:
            raise ValueError(f"its network has names like {prefix[:50]}...")
        kept = vars(module)
        passing = kept.get("_non_persistent_buffers_set")
        for name, tensor in (*_named(kept, "_parameters"), *_named(kept, "_buffers")):
            if isinstance(tensor, Tensor) and not (isinstance(passing, set) and name in passing):
                yield prefix + name, tensor
        children = _named(kept, "_modules")
        left += [(f"{prefix}{name}.", child) for name, child in children if isinstance(child, StandIn)]
    raise ValueError(f"its network has more than {_MOST_PARTS} parts")


def _named(kept: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    found = kept.get(key)
    return [(str(name), value) for name, value in found.items()] if isinstance(found, Mapping) else []
