"""What a label must be, by task: the value found in a row becomes the text that is trained on.

Source: "Data schemas to train computer vision models" in Azure Machine Learning's documentation; numbers are
taken as text because the service's trainer does so, hence 3 and "3" are one class. What it takes for no label
(true, null, an object) is none here either: the row is dropped and the reason told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MAX_LABEL_LENGTH = 1024

Label = str | tuple[str, ...]


_KINDS: Mapping[type, str] = {
    list: "a list",
    dict: "an object",
    bool: "true or false",
    float: "not a finite number",
}


class LabelError(ValueError):
    """The value is no label for the task; the message is the reason to show."""


def read_class(value: Any) -> str:
    """One class: text or a number, as text. Raises LabelError."""
    if isinstance(value, str):
        if not value.strip():
            raise LabelError("label is empty")
        if len(value) > MAX_LABEL_LENGTH:
            raise LabelError(f"label is longer than {MAX_LABEL_LENGTH:,} characters")
        if not value.isprintable() and any(0xD800 <= ord(char) <= 0xDFFF or char < " " for char in value):
            raise LabelError("label has a control character or is not valid Unicode")
        return value
    if value is None:
        raise LabelError("no label")
    kind = _KINDS.get(type(value), "of an unknown kind")
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    raise LabelError(f"label is {kind}; one text or number is needed")


def read_multiclass(value: Any) -> str:
    """The one class of an image. Raises LabelError with a hint to the task that fits: a list is refused even
    when it holds one label, as Azure does."""
    if isinstance(value, list):
        of = "object detection or segmentation" if value and isinstance(value[0], dict) else "multi-label"
        raise LabelError(f"label is a list, which is for {of} data; one text or number is needed")
    return read_class(value)


def read_multilabel(value: Any) -> tuple[str, ...]:
    """The classes of an image, each once in the order given; one text or number counts as a list of one.

    An empty list is an image that shows none of the classes, and is kept: nothing in it is of a wrong type,
    which is all that Azure checks. Raises LabelError.
    """
    if not isinstance(value, list):
        return (read_class(value),)
    return tuple(dict.fromkeys(read_class(item) for item in value))
