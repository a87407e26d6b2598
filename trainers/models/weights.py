"""Getting a model's pretrained weights: the weights folder, the hub's cache, then the hub itself."""

from __future__ import annotations

import os
import queue
import threading
from pathlib import Path

from amlocal.compat import names
from amlocal.compat import weights as places
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.progress import say, warn

_REACH_SECONDS = 6.0


def obtain(row: names.Model, weights_dir: Path | None, missing: str) -> Path | None:
    """The safetensors file to start from; None = random weights, only when `missing` is "random".

    Raises TrainingError with the file's name and place otherwise. Without a network that takes seconds, no
    more.
    """
    found = places.find(row.name, weights_dir) or _download(row)
    if found is not None:
        return found
    advice = places.where_to_put(row.name, weights_dir)
    if missing == "random":
        warn(f"{advice}. STARTING FROM RANDOM WEIGHTS because missing_weights is random.")
        return None
    raise TrainingError(advice)


def _download(row: names.Model) -> Path | None:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE") or not _reachable(row):
        return None
    say(f"downloading the pretrained weights of {row.name} from https://huggingface.co/{row.hub}")
    import httpx
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(row.hub, places.HUB_FILE, etag_timeout=_REACH_SECONDS))
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        warn(f"the download failed: {str(error).splitlines()[0]}")
        return None


def _reachable(row: names.Model) -> bool:
    # In a thread: name resolution knows no timeout, and a machine without a network must not hang here.
    answer: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def ask() -> None:
        import requests

        host = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        url = f"{host}/{row.hub}/resolve/main/{places.HUB_FILE}"
        try:
            answer.put(
                requests.head(url, timeout=_REACH_SECONDS / 2, allow_redirects=False).status_code < 400
            )
        except requests.RequestException:
            answer.put(False)

    threading.Thread(target=ask, name="hub", daemon=True).start()
    try:
        return answer.get(timeout=_REACH_SECONDS)
    except queue.Empty:
        return False
