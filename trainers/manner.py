"""In what tasks differ where the loop is the same."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Manner:
    """How the loop treats a task. The defaults are those of classification.

    `compilable`: batches have one shape, so that torch.compile may pay, and a probe may choose the layout.
    `mixed`: 16-bit numbers are precise enough wherever autocast uses them. `steady`: every batch uses the
    same weights. `scored`: evaluations give the primary metric; else the last epoch is the best one, its
    score is 0 and nothing stops early. `beyond_patience`: early stopping waits until the patience is
    exceeded, not reached. `repeated`: an epoch without evaluation gets the metrics of the last one (both
    are Azure's rules for detectors). `exploded`: a loss above it ends the trial. `sizes`: what to reduce
    when memory is short, in words.
    """

    compilable: bool = True
    mixed: bool = True
    steady: bool = True
    scored: bool = True
    beyond_patience: bool = False
    repeated: bool = False
    exploded: float = 100.0
    sizes: str = "the crop sizes"
