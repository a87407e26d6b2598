"""Optional parts of this package (`amlocal[yolo]`, `amlocal[mmdet]`) and whether they are installed."""

from __future__ import annotations

from importlib.util import find_spec

from amlocal.compat.image_tasks import table


def missing(builder: str) -> str:
    """What to tell a user whose model of this builder lacks its software; "" where nothing is missing.

    Only looks whether the module is there: nothing is imported.
    """
    row = table("models.toml")["extra"].get(builder)
    if row is None or find_spec(row["module"]) is not None:
        return ""
    return f"{row['about']}, which is not installed here; pip install 'amlocal[{builder}]' gets it"
