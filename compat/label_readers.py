"""How the label of a row is read, by task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from amlocal.compat.annotations import Annotation, Objects, read_boxes, read_polygons
from amlocal.compat.labels import Label, read_multiclass, read_multilabel

AnyLabel = Label | tuple[Annotation, ...]
DETECTION = frozenset({"image-object-detection", "image-instance-segmentation"})
"""The tasks whose labels are objects."""


class Reading(NamedTuple):
    """What a row's label says. `dropped` tells which objects are left out and why; `single`: it was one label
    or object in place of a list."""

    label: AnyLabel
    dropped: tuple[str, ...] = ()
    single: bool = False


def classes_of(label: AnyLabel) -> tuple[str, ...]:
    """The distinct classes, in the order given."""
    if isinstance(label, str):
        return (label,)
    return tuple(dict.fromkeys(one.label if isinstance(one, Annotation) else one for one in label))


def together(first: AnyLabel, second: AnyLabel) -> tuple[Annotation, ...]:
    """The objects of two rows of one image."""
    return tuple(one for label in (first, second) for one in label if isinstance(one, Annotation))


def _multiclass(value: Any) -> Reading:
    return Reading(read_multiclass(value))


def _multilabel(value: Any) -> Reading:
    return Reading(read_multilabel(value), single=not isinstance(value, list))


def _objects(read: Callable[[Any], Objects]) -> Callable[[Any], Reading]:
    def reader(value: Any) -> Reading:
        found = read(value)
        return Reading(found.annotations, found.dropped, found.single)

    return reader


READERS: Mapping[str, Callable[[Any], Reading]] = {
    "image-classification": _multiclass,
    "image-classification-multilabel": _multilabel,
    "image-object-detection": _objects(read_boxes),
    "image-instance-segmentation": _objects(read_polygons),
}
"""Each raises labels.LabelError for a row that cannot be used."""
