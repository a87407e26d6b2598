"""Where a model's pretrained weights lie on this machine; a look at file names only, no heavy import."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from amlocal.compat import names

HUB_FILE = "model.safetensors"


def file_name(model_name: str) -> str:
    """The file that the weights folder holds for a model, e.g. "resnet18.safetensors". Raises ValueError."""
    return _row(model_name).weights


def find(model_name: str, weights_dir: Path | None, environ: Mapping[str, str] | None = None) -> Path | None:
    """The model's weights file, or None: first `weights_dir`, then the Hugging Face cache. Raises ValueError
    for an unknown model."""
    row = _row(model_name)
    if weights_dir is not None and (own := weights_dir / row.weights).is_file():
        return own
    repository = hub_cache(environ) / ("models--" + row.hub.replace("/", "--"))
    try:
        revision = (repository / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    if not revision.isalnum():
        return None
    cached = repository / "snapshots" / revision / HUB_FILE
    return cached if cached.is_file() else None


def hub_cache(environ: Mapping[str, str] | None = None) -> Path:
    """The Hugging Face cache folder, by the variables that its library reads."""
    env = os.environ if environ is None else environ
    if env.get("HF_HUB_CACHE"):
        return Path(env["HF_HUB_CACHE"]).expanduser()
    home = env.get("HF_HOME")
    if not home:
        home = str(Path(env.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return Path(home).expanduser() / "hub"


def where_to_put(model_name: str, weights_dir: Path | None) -> str:
    """What to tell a user whose weights are missing."""
    row = _row(model_name)
    folder = weights_dir if weights_dir is not None else Path("<weights folder>")
    return (
        f"pretrained weights of {model_name} were not found. Put the file {HUB_FILE} of "
        f"https://huggingface.co/{row.hub} at {folder / row.weights} (safetensors, timm's tensor names), "
        'or train from scratch with advanced_settings {"pretrained": false}'
    )


def _row(model_name: str) -> names.Model:
    for task in names.tasks():
        if model_name in names.models(task):
            return names.models(task)[model_name]
    raise ValueError(f"unknown model {model_name!r}")
