"""The one kind of failure whose text is meant for the user."""

from __future__ import annotations


class TrainingError(Exception):
    """Training cannot go on. The message says what is wrong, where, and what to do; no traceback is
    needed."""
