"""For every test: nobody asks the hub, nobody finds what its cache on this machine happens to hold, tests
side by side do not each take all processors, and no example of a property is judged by how long it took."""

from __future__ import annotations

import os
import tempfile

import pytest
from hypothesis import settings

# A stall of a quarter of a second would fail an example. The same examples each time: a new one that fails
# is found where it is looked for, by --hypothesis-profile=searching.
settings.register_profile("searching", deadline=None)
settings.register_profile("repeated", deadline=None, derandomize=True)
settings.load_profile("repeated")

_EMPTY = pytest.StashKey[tempfile.TemporaryDirectory[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Set before any server is started; tests with a hub of their own set it back."""
    empty = tempfile.TemporaryDirectory(prefix="amlocal-no-hub-", ignore_cleanup_errors=True)
    config.stash[_EMPTY] = empty
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_CACHE"] = empty.name
    os.environ.pop("HF_ENDPOINT", None)
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Threads of several networks that wait for each other on the same cores cost a quarter of the time.
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_EMPTY].cleanup()
