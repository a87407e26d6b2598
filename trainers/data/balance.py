"""What is worth telling about how the images spread over the classes once they are split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from amlocal.trainers.data.samples import Sample

IMBALANCE = 3
"""Largest class over smallest from which on it is told; from there on `weighted_loss` acts (Azure's rule)."""

_SHOWN = 5


def notices(
    train: Sequence[Sample], validation: Sequence[Sample], advice: str = "; weighted_loss can help"
) -> list[str]:
    """Sentences for the log: classes that no training image has, and imbalance among the training images,
    followed by `advice`.

    The split is random and not by class, so a rare class may well end up in the validation half alone.
    """
    found = []
    counts = Counter(label for row in train for label in row.labels)
    missing = sorted({label for row in validation for label in row.labels} - set(counts))
    if missing:
        one = len(missing) == 1
        found.append(
            f"no training image has the {'class' if one else 'classes'} {_first(missing)}, which validation "
            f"images have; {'it' if one else 'they'} cannot be learned"
        )
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    if ranked and ranked[0][1] >= IMBALANCE * ranked[-1][1]:
        (most, largest), (least, smallest) = ranked[0], ranked[-1]
        found.append(
            f"imbalanced classes: {most!r} has {largest} training images, {least!r} has {smallest}, "
            f"{largest / smallest:.1f} to 1{advice}"
        )
    return found


def _first(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else ""
    return ", ".join(repr(label) for label in labels[:_SHOWN]) + more
