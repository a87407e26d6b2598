"""The Hugging Face hub as this machine knows it: its address, whether it may be asked, and its cache.

Settings are the variables of huggingface_hub: HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME, HF_HUB_CACHE.
Source: https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

HOME = "https://huggingface.co"
_REVISION = re.compile(r"[0-9A-Za-z]{1,64}")


def endpoint(environ: Mapping[str, str] | None = None) -> str:
    """The hub's address, without a slash at the end."""
    env = os.environ if environ is None else environ
    return (env.get("HF_ENDPOINT") or HOME).rstrip("/")


def offline(environ: Mapping[str, str] | None = None) -> bool:
    """Whether the user wants nobody to ask the hub."""
    env = os.environ if environ is None else environ
    return env.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def cache(environ: Mapping[str, str] | None = None) -> Path:
    """The hub's cache folder."""
    env = os.environ if environ is None else environ
    if env.get("HF_HUB_CACHE"):
        return Path(env["HF_HUB_CACHE"]).expanduser()
    home = env.get("HF_HOME")
    if not home:
        home = str(Path(env.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return Path(home).expanduser() / "hub"


def snapshot(repository: str, environ: Mapping[str, str] | None = None) -> Path | None:
    """The cached files of a repository's main branch, if there are any."""
    folder = cache(environ) / ("models--" + repository.replace("/", "--"))
    try:
        revision = (folder / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    if not _REVISION.fullmatch(revision):
        return None
    found = folder / "snapshots" / revision
    return found if found.is_dir() else None


def url(repository: str, file: str, environ: Mapping[str, str] | None = None) -> str:
    """Where the hub gives a file of a repository's main branch away."""
    return f"{endpoint(environ)}/{quote(repository)}/resolve/main/{quote(file)}"
