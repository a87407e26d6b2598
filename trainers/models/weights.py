"""Getting a model's pretrained weights: the weights folder, the hub's cache, then the hub itself."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amlocal.compat import hub, hub_look, names
from amlocal.compat import weights as places
from amlocal.trainers import files, heartbeat
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.progress import duration, say, warn

STARTED = "weights.json"
_ETAG_SECONDS = 6.0


def begin(
    row: names.Model,
    weights_dir: Path | None,
    missing: str,
    state_dir: Path,
    parameters: Mapping[str, Any] | None = None,
) -> Path | None:
    """`obtain`, with the result written to weights.json in `state_dir`, where the server reads it.

    The file holds {"file": path or null, "random": why there are none, or null}.
    """
    found, why = _obtain(row, weights_dir, missing, parameters)
    told = {"file": None if found is None else str(found), "random": why}
    files.write_json(state_dir / STARTED, told)
    return found


def obtain(
    row: names.Model, weights_dir: Path | None, missing: str, parameters: Mapping[str, Any] | None = None
) -> Path | None:
    """The safetensors file to start from; None = random weights, only when `missing` is "random".

    `parameters` of the trial say which of a model's sizes is meant. Raises TrainingError with the file's name
    and place otherwise. Where the hub does not answer that takes `hub_look.PATIENCE` seconds, no more.
    """
    return _obtain(row, weights_dir, missing, parameters)[0]


def _obtain(
    row: names.Model, weights_dir: Path | None, missing: str, parameters: Mapping[str, Any] | None
) -> tuple[Path | None, str | None]:
    found, why = places.find(row.name, weights_dir, parameters=parameters), ""
    if found is None:
        found, why = _download(row)
    if found is not None:
        return found, None
    if missing == "random":
        advice = places.where_to_put(row.name, weights_dir, why, parameters)
        warn(f"{advice}. STARTING FROM RANDOM WEIGHTS because missing_weights is random.")
        return None, f"no pretrained weights of {row.name}: {why}; missing_weights is random"
    raise TrainingError(places.where_to_put(row.name, weights_dir, why, parameters))


def _download(row: names.Model) -> tuple[Path | None, str]:
    """The file in the hub's cache, or None and what was in the way."""
    if not row.hub:
        return None, places.nowhere(row.name)
    answer = hub_look.look(row.hub, places.HUB_FILE)
    if not answer.there:
        return None, answer.reason
    say(f"downloading the pretrained weights of {row.name} from {hub.endpoint()}/{row.hub}")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import disable_progress_bars

    # The log is read line by line.
    disable_progress_bars()
    # The base classes name the HTTP library's own error: another library in each major version.
    failures = (OSError, ValueError, *HfHubHTTPError.__bases__)
    start = time.monotonic()

    def get(file: str) -> Path:
        found = hf_hub_download(
            row.hub,
            file,
            endpoint=hub.endpoint(),
            cache_dir=hub.cache(),
            etag_timeout=_ETAG_SECONDS,
            token=False,
        )
        return Path(found)

    try:
        if places.is_folder(row.name):
            for file in (places.CONFIG, places.PREPROCESSOR):
                try:
                    get(file)
                except LocalEntryNotFoundError:
                    raise  # the hub could not be asked
                except EntryNotFoundError:
                    continue
        with heartbeat.through("downloading weights"):
            path = get(places.HUB_FILE)
    except failures as error:
        said = str(error).strip() or type(error).__name__
        return None, f"the download failed: {said.splitlines()[0]}"
    say(f"{path.stat().st_size / 1e6:.0f} MB in {duration(time.monotonic() - start)}")
    return path, ""
