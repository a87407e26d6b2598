"""ARM paths are case-insensitive in their fixed parts: this puts those into one spelling before routing.

The SDK itself mixes `resourceGroups` and `resourcegroups`. Names that users gave stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

_FIXED = {
    word.lower(): word
    for word in (
        "subscriptions", "resourceGroups", "providers", "Microsoft.MachineLearningServices",
        "Microsoft.Resources", "workspaces", "registries", "datastores", "data", "models", "codes",
        "environments", "components", "computes", "connections", "jobs", "onlineEndpoints",
        "batchEndpoints", "deployments", "schedules", "versions", "listKeys", "listSecrets",
        "regenerateKeys", "startPendingUpload", "getLogs", "cancel", "token", "locations",
    )
}  # fmt: skip


def canonical(path: str) -> str:
    """`path` with the fixed words of its ARM part spelled as ours; other paths unchanged."""
    lowered = path.lower()
    start = lowered.find("/subscriptions/")
    if start < 0:
        return path
    head, words = path[:start], path[start + 1 :].split("/")
    # type, name, type, name ...; a provider's namespace is a "name" with fixed spelling too.
    for index in range(0, len(words), 2):
        words[index] = _FIXED.get(words[index].lower(), words[index])
    if len(words) > 5 and words[4] == "providers":
        words[5] = _FIXED.get(words[5].lower(), words[5])
    return f"{head}/{'/'.join(words)}"


WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class CanonicalPaths:
    """WSGI middleware: canonical ARM paths, and `//` at the start as `/` (azure-cli sends it)."""

    def __init__(self, app: WsgiApp) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path.startswith("//"):
            path = "/" + path.lstrip("/")
        environ["PATH_INFO"] = canonical(path)
        return self._app(environ, start_response)
