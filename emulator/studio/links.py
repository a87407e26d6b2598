"""Links to the studio's pages. They carry a token, because a browser has no bearer token to send."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import urlencode

from amlocal.emulator.services import Services
from amlocal.emulator.store.workspace import Workspace


def run_link(services: Services, workspace: Workspace, run_id: str) -> str:
    """The page of one run; valid for seven days, for this workspace only."""
    query = _query(workspace.arm_id, services.auth.view_token(workspace))
    return f"{services.settings.base_url}/studio/runs/{run_id}?{query}"


@lru_cache(maxsize=256)
def _query(arm_id: str, token: str) -> str:
    return urlencode({"wsid": arm_id, "t": token}, safe="/")
