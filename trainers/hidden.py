"""Packages that others take along where they are installed, and that trainers have no use for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

PACKAGES = ("polars",)
"""MLflow imports it. Its import starts threads, and takes so long that scikit-learn, which looks whether it
is imported, can find it half imported by the thread that ships metrics."""


class _Hidden(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if name in PACKAGES:
            raise ModuleNotFoundError(f"trainers do without {name}", name=name)


def hide() -> None:
    """From now on they cannot be imported in this process; what is imported stays."""
    if not any(isinstance(finder, _Hidden) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Hidden())
